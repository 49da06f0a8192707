#!/usr/bin/python3
"""A program that has memgov look after it: it is to be refused memory when its group is 8 MiB over its memory.high, and is told when a
line of its group is crossed. Ends when it is relieved. With nothing but ctypes.

    python3 frugal.py [SOCKET]      (LIBMEMGOV: the library, if it is not installed)
"""

import ctypes
import os
import select
import sys
from ctypes import byref, c_char, c_char_p, c_int, c_uint32, c_uint64, c_void_p

DENY, WARNING, OVER, RELIEVED = 1, 1, 2, 3


class Notice(ctypes.Structure):
    """struct memgov_notice"""

    _fields_ = [(name, c_uint64) for name in ("size", "kind", "id", "usage", "line", "missed")]
    _fields_ += [("action", c_char * 24), ("group", c_char * 256)]


lib = ctypes.CDLL(os.environ.get("LIBMEMGOV", "libmemgov.so.0"))
lib.memgov_new.restype, lib.memgov_new.argtypes = c_void_p, [c_char_p]
lib.memgov_error.restype, lib.memgov_error.argtypes = c_char_p, [c_void_p]
lib.memgov_set_control.argtypes = [c_void_p, c_uint32, c_uint64, c_uint64]
lib.memgov_get_control.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p]
lib.memgov_clear_control.argtypes = [c_void_p]
lib.memgov_watch_new.argtypes = [c_void_p, c_void_p]
lib.memgov_watch_fd.argtypes = [c_void_p]
lib.memgov_watch_take.argtypes = [c_void_p, c_void_p]
for call in ("set_control", "get_control", "clear_control", "watch_new", "watch_fd", "watch_take"):
    getattr(lib, "memgov_" + call).restype = c_int

memgov = lib.memgov_new(sys.argv[1].encode() if len(sys.argv) > 1 else None)


def check(result):
    """Raises what memgov says."""
    if result < 0:
        raise OSError(-result, lib.memgov_error(memgov).decode())
    return result


def main():
    check(lib.memgov_set_control(memgov, DENY, 8 << 20, 0))
    word, climit, plimit = c_uint32(), c_uint64(), c_uint64()
    check(lib.memgov_get_control(memgov, byref(word), byref(climit), byref(plimit)))
    print("control", hex(word.value), climit.value, plimit.value, flush=True)
    watch = c_void_p()
    check(lib.memgov_watch_new(memgov, byref(watch)))
    print("ready", flush=True)
    while True:
        select.select([lib.memgov_watch_fd(watch)], [], [])
        notice = Notice(size=ctypes.sizeof(Notice))
        while check(lib.memgov_watch_take(watch, byref(notice))):
            said = {WARNING: "warning", OVER: "over", RELIEVED: "relieved"}.get(notice.kind)
            if said:
                print(said, notice.action.decode(), notice.group.decode() or "-", flush=True)
            if notice.kind == RELIEVED:
                check(lib.memgov_clear_control(memgov))
                return


try:
    main()
except OSError as error:
    sys.exit(f"frugal.py: {error.strerror}")

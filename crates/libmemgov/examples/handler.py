#!/usr/bin/python3
"""The handler of a group: when memgov finds the group short of memory and a rule has the step `handler`, a command is run that frees some, before anybody is killed
for it. Start it in a group beside the one it is for; with memory.min (v2) it keeps what it needs. RESERVE: so many bytes under the group's limit are kept for what
the command has the group do. With nothing but ctypes.

    python3 handler.py SOCKET GROUP COMMAND [RESERVE]      (LIBMEMGOV: the library, if it is not installed)
"""

import ctypes
import os
import select
import subprocess
import sys
from ctypes import byref, c_char, c_char_p, c_int, c_int64, c_uint64, c_void_p


class Shortage(ctypes.Structure):
    """struct memgov_shortage"""

    _fields_ = [(name, c_uint64) for name in ("size", "number", "value", "line", "usage", "limit", "left_ns")]
    _fields_ += [("meter", c_char * 24), ("group", c_char * 256), ("oom_reserve", c_uint64)]


class Job(ctypes.Structure):
    """struct memgov_job"""

    _fields_ = [("size", c_uint64), ("priority", c_int64)]
    _fields_ += [(name, c_uint64) for name in ("reservation", "oom_reserve", "set")]


lib = ctypes.CDLL(os.environ.get("LIBMEMGOV", "libmemgov.so.0"))
lib.memgov_new.restype, lib.memgov_new.argtypes = c_void_p, [c_char_p]
lib.memgov_error.restype, lib.memgov_error.argtypes = c_char_p, [c_void_p]
lib.memgov_handler_new.argtypes = [c_void_p, c_char_p, c_void_p]
lib.memgov_handler_fd.argtypes = [c_void_p]
lib.memgov_handler_take.argtypes = [c_void_p, c_void_p]
lib.memgov_handled.argtypes = [c_void_p, c_uint64]
lib.memgov_set_oom_reserve.argtypes = [c_void_p, c_char_p, c_uint64]
lib.memgov_get_job.argtypes = [c_void_p, c_char_p, c_void_p]
for call in ("handler_new", "handler_fd", "handler_take", "handled", "set_oom_reserve", "get_job"):
    getattr(lib, "memgov_" + call).restype = c_int

if len(sys.argv) not in (4, 5):
    sys.exit("usage: handler.py SOCKET GROUP COMMAND [RESERVE]")
socket, group, command, *reserve = sys.argv[1:]
memgov = lib.memgov_new(socket.encode())


def check(result):
    """Raises what memgov says."""
    if result < 0:
        raise OSError(-result, lib.memgov_error(memgov).decode())
    return result


def main():
    for amount in reserve:
        check(lib.memgov_set_oom_reserve(memgov, group.encode(), int(amount)))
    job = Job(size=ctypes.sizeof(Job))
    check(lib.memgov_get_job(memgov, group.encode(), byref(job)))
    print("reserve", job.oom_reserve, flush=True)
    handler = c_void_p()
    check(lib.memgov_handler_new(memgov, group.encode(), byref(handler)))
    print("ready", flush=True)
    while True:
        select.select([lib.memgov_handler_fd(handler)], [], [])
        shortage = Shortage(size=ctypes.sizeof(Shortage))
        while check(lib.memgov_handler_take(handler, byref(shortage))):
            said = shortage.meter.decode(), shortage.group.decode(), "reserve", shortage.oom_reserve
            print("short", *said, flush=True)
            subprocess.run(command, shell=True, check=False)
            # Too late is no reason to go: there will be another time.
            print("late" if lib.memgov_handled(memgov, shortage.number) else "handled", flush=True)


try:
    main()
except OSError as error:
    sys.exit(f"handler.py: {error.strerror}")

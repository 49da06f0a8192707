#!/usr/bin/python3
"""A group made smaller on purpose, as a supervisor does with one that idles: to so many bytes, or as far as it goes. With nothing but ctypes.

    python3 shrink.py SOCKET GROUP BYTES      (LIBMEMGOV: the library, if it is not installed)
"""

import ctypes
import errno
import os
import sys
from ctypes import byref, c_char_p, c_int, c_uint64, c_void_p

lib = ctypes.CDLL(os.environ.get("LIBMEMGOV", "libmemgov.so.0"))
lib.memgov_new.restype, lib.memgov_new.argtypes = c_void_p, [c_char_p]
lib.memgov_error.restype, lib.memgov_error.argtypes = c_char_p, [c_void_p]
lib.memgov_shrink.restype, lib.memgov_shrink.argtypes = c_int, [c_void_p, c_char_p, c_uint64, c_void_p]

if len(sys.argv) != 4:
    sys.exit("usage: shrink.py SOCKET GROUP BYTES")
memgov = lib.memgov_new(sys.argv[1].encode())
usage = c_uint64()
error = lib.memgov_shrink(memgov, sys.argv[2].encode(), int(sys.argv[3]), byref(usage))
if error not in (0, -errno.EBUSY):
    sys.exit(f"shrink.py: {lib.memgov_error(memgov).decode()}")
# Busy: what is left is in use, locked, or has nowhere to go.
print("busy" if error else "usage", usage.value)

#!/usr/bin/env python3
"""Prints what BPF keeps of the main threads of some processes, if anything: one a line, as Python writes bytes.

  kept.py MAP_ID VALUE_BYTES PID...

A map of task storage has a pidfd as its key.
"""

import ctypes
import os
import platform
import struct
import sys

# bpf(2) and include/uapi/linux/bpf.h
SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
LOOK_UP = 1
GET_FD_BY_ID = 14

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall(SYSCALL, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


number, length, *pids = map(int, sys.argv[1:])
kept = bpf(GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
value = ctypes.create_string_buffer(length)
for pid in pids:
    key = ctypes.c_int(os.pidfd_open(pid))
    try:
        bpf(LOOK_UP, struct.pack("=IIQQQ", kept, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
    except FileNotFoundError:
        continue
    print(value.raw)

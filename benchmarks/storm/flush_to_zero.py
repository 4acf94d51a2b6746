"""The processor set to round subnormal numbers to 0, as libraries built with -ffast-math do: x86-64 alone."""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

AVAILABLE = platform.machine() in ("x86_64", "AMD64") and hasattr(mmap, "PROT_EXEC")
#: ``stmxcsr [rdi]; ret`` and ``ldmxcsr [rdi]; ret``, and the bits FTZ and DAZ of the register.
STORE, LOAD, BITS = b"\x0f\xae\x1f\xc3", b"\x0f\xae\x17\xc3", 0x8040


@contextmanager
def flushed() -> Iterator[None]:
    """Set FTZ and DAZ in this thread for the time of the block."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(STORE.ljust(16, b"\xc3") + LOAD)
    start = ctypes.addressof(ctypes.c_char.from_buffer(code))
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    store, load, register = kind(start), kind(start + 16), ctypes.c_uint32()
    store(ctypes.byref(register))
    old = struct.unpack("I", bytes(register))[0]
    load(ctypes.byref(ctypes.c_uint32(old | BITS)))
    try:
        yield
    finally:
        load(ctypes.byref(ctypes.c_uint32(old)))

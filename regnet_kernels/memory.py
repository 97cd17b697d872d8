"""Giving freed memory back to the system."""

import ctypes
import sys


def trim() -> None:
    """Return what was freed to the system: glibc keeps the blocks inside its heap for later. Elsewhere it does nothing."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None

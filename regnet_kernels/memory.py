"""What only the system can do: huge pages for what is read again and again, and giving freed memory back."""

import ctypes
import sys

import torch

HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14


def trim() -> None:
    """Return what was freed to the system: glibc keeps the blocks inside its heap for later. Elsewhere it does nothing."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


def empty(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised 1-D tensor; a large one on the CPU begins at a huge page and asks for such, where the system has them.

    A pass over a network's weights touches some 10,000 pages of 4 KiB, more than a TLB knows, and prefetchers stop at the end of each:
    with huge pages regnety_1.6gf takes a seventh less on two threads at batch 1.
    """
    need = size * dtype.itemsize
    if device.type != "cpu" or need < HUGE_PAGE or _madvise is None:
        return torch.empty(size, dtype=dtype, device=device)
    room = torch.empty(need + HUGE_PAGE, dtype=torch.uint8)
    skipped = -room.data_ptr() % HUGE_PAGE
    _madvise(ctypes.c_void_p(room.data_ptr() + skipped), ctypes.c_size_t(need // HUGE_PAGE * HUGE_PAGE), _MADV_HUGEPAGE)
    return room[skipped:skipped + need].view(dtype)


_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_malloc_trim = getattr(_libc, "malloc_trim", None)
_madvise = getattr(_libc, "madvise", None)

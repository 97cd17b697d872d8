"""What a measurement is valid for. If any of it changes, the measurements before are not looked at."""

from __future__ import annotations

import ctypes
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from .._extension import CUDA

KERNELS = Path(__file__).resolve().parent.parent / "backends/triton"
# What a kernel computes and how a configuration is turned into its arguments.
SOURCES = ("pointwise.py", "grouped.py", "expand_grouped.py", "direct.py", "gate.py", "epilogue.py", "tiles.py", "shapes.py", "configs.py")
PROC = Path("/proc/driver/nvidia/version")


class Identity(NamedTuple):
    """card: its name; multiprocessors tell apart slices of one card; kernels: a hash of the sources, and one of the CUDA library where
    it is loaded, since the choice between the two is tuned too."""

    card: str
    multiprocessors: int
    driver: str
    torch: str
    triton: str
    kernels: str

    @property
    def file_name(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-")
        return f"{slug}-{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:16]}.json"


def identity(device: torch.device) -> Identity:
    """Of a CUDA device; of the interpreter for a CPU device. Imports Triton."""
    import triton

    from ..backends.triton.machine import machine

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    return Identity(card, machine(device).multiprocessors, driver() if device.type == "cuda" else "none", str(torch.__version__),
                    triton.__version__, "-".join([sources_hash(KERNELS), *library_hash()]))


@cache
def sources_hash(folder: Path) -> str:
    """A hash of the kernels' sources in `folder`."""
    found = hashlib.sha256()
    for name in SOURCES:
        text = (folder / name).read_bytes()
        found.update(f"{name} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


@cache
def library_hash() -> tuple[str, ...]:
    """A hash of the CUDA library, nothing where it is not loaded."""
    return (hashlib.sha256(Path(CUDA.path).read_bytes()).hexdigest()[:16],) if CUDA.loaded else ()


@cache
def driver() -> str:
    """The version of the driver, of CUDA's interface to it where that is all that can be had, "unknown" where not even that."""
    if torch.version.hip:
        return f"hip {torch.version.hip}"
    try:
        if found := re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", PROC.read_text()):
            return found[1]
    except OSError:
        pass
    try:
        number = ctypes.c_int()
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
        return f"cuda {number.value}"
    except (OSError, AttributeError):
        return "unknown"

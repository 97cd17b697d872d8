"""Which backend runs a layer, and why not the others: the one place where that is decided for the layers of a network."""

from __future__ import annotations

BACKENDS = ("cuda", "triton", "cudnn")


def choose(shape, dtype, device, layers: str = "") -> str:
    """The backend that runs a layer of `shape` in `dtype` on `device`."""
    return "triton"

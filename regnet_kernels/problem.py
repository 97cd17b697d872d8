"""What a backend is asked to run: the facts by which it says yes or no."""

from typing import NamedTuple

import torch


class BackendError(RuntimeError):
    """A forced backend cannot run the problem, or the kernels are set up so that they refuse to run."""


class Problem(NamedTuple):
    """One call of an op. Sizes that an op does not have stay 0; `weights_dtype` is the packed blob's, `layout` how it is packed,
    "panels" or "plain", `specs` its steps and `layers` the backends forced on its layers (network only). sizes: N, H, W of x; of
    se_gate N, 1 and the pixels that were summed."""

    op: str
    device: torch.device
    dtype: torch.dtype
    weights_dtype: torch.dtype | None = None
    c_in: int = 0
    c_out: int = 0
    kernel: tuple[int, int] = (0, 0)
    stride: int = 0
    padding: int = 0
    groups: int = 0
    activation: int = 0
    residual: bool = False
    gate: bool = False
    pool: bool = False
    layout: str = ""
    specs: tuple = ()
    layers: str = ""
    sizes: tuple[int, int, int] = (0, 0, 0)
    squeeze: int = 0

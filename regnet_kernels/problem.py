"""What a backend is asked to run: the facts by which it says yes or no."""

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """One call of an op. Sizes that an op does not have stay 0; `weights_dtype` is the packed blob's and `layout` how it
    is packed, "panels" or "plain" (network only)."""

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

"""Comparison against the same computation in float64, beside eager PyTorch's own error."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .tolerances import EAGER_FACTOR, FLOOR


class Errors(NamedTuple):
    """max |a - o| / max |o| of the result and of eager PyTorch in the same dtype, and the bound that was applied."""

    actual: float
    eager: float
    bound: float


def relative_error(actual: torch.Tensor, oracle: torch.Tensor) -> float:
    """max |actual - oracle| / max |oracle|, in float64; 0 for empty tensors, inf where actual is not finite but oracle is.
    An oracle of zeros is compared absolutely."""
    if oracle.numel() == 0:
        return 0.0
    actual, oracle = actual.detach().double().cpu(), oracle.detach().double().cpu()
    difference = (actual - oracle).abs()
    if not torch.isfinite(difference).all():
        return float("inf")
    scale = oracle.abs().max().item()
    return difference.max().item() / (scale or 1.0)


def assert_close_to_oracle(actual: torch.Tensor, oracle: torch.Tensor, eager_same_dtype: torch.Tensor, *,
                           factor: float = EAGER_FACTOR, what: str = "result") -> Errors:
    """Raise AssertionError unless `actual` is about as close to `oracle` as eager PyTorch is.

    actual: what the kernel gave. oracle: the same in float64. eager_same_dtype: plain torch in the dtype of actual.
    The bound is factor * (error of eager) + FLOOR[dtype of the inputs, taken from eager_same_dtype].
    """
    if actual.shape != oracle.shape:
        raise AssertionError(f"{what}: shape {tuple(actual.shape)}; expected {tuple(oracle.shape)}")
    if actual.dtype != eager_same_dtype.dtype:
        raise AssertionError(f"{what}: dtype {actual.dtype}; expected {eager_same_dtype.dtype}")
    eager_error = relative_error(eager_same_dtype, oracle)
    bound = factor * eager_error + FLOOR[actual.dtype]
    error = relative_error(actual, oracle)
    if not error <= bound:
        raise AssertionError(f"{what} ({str(actual.dtype).removeprefix('torch.')}, {tuple(actual.shape)}): relative error "
                             f"{error:.3g}, eager has {eager_error:.3g}, allowed is {bound:.3g}{_where(actual, oracle)}")
    return Errors(error, eager_error, bound)


def widen(value):
    """float64 copies of the floating tensors in (nested) tuples, lists and dictionaries; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(widen(item) for item in value)
    return {key: widen(item) for key, item in value.items()} if isinstance(value, dict) else value


def _where(actual: torch.Tensor, oracle: torch.Tensor) -> str:
    difference = (actual.detach().double().cpu() - oracle.detach().double().cpu()).abs()
    difference = torch.nan_to_num(difference, nan=float("inf"))
    flat = int(difference.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), difference.shape))
    return f"; worst at {index}: got {actual[index].item():.6g}, exact is {oracle[index].item():.6g}"

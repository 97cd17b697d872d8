"""conv_bn_act: a convolution with folded BatchNorm, and what goes before and after it, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import dispatch
from ..activation import activation_code, apply_activation
from ..backends import cuda, triton
from ..problem import Problem
from .check import check_dtype, check_same_device, check_tensor
from .library import (LIBRARY, accumulator_dtype, as_channels_last, autocast_enabled, call, define, empty_channels_last, lower,
                      without_autocast)

SCHEMA = ("(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor? gate, int stride, int padding, int groups, "
          "int activation, bool pool) -> (Tensor, Tensor)")


def conv_bn_act(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: int = 1,
                padding: int | None = None, groups: int = 1, activation: str | int = "none",
                residual: torch.Tensor | None = None, gate: torch.Tensor | None = None, pool: bool = False,
                backend: str | None = None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y = activation(conv(x * gate, weight) + bias + residual), the BatchNorm's scale already folded into the weight.

    x: (N, C, H, W), float32, bfloat16, float16 or float64, any strides. weight: (O, C / groups, k, k), dtype of x.
    bias: (O,), float32 (float64 beside float64). stride, padding: for both axes; padding None is k // 2.
    activation: "none", "relu" or "silu". residual: (N, O, H', W'), dtype of x. gate: (N, C), dtype of bias.
    pool: also return sums (N, O) over H', W' of y, in the dtype of bias, as the squeeze of a squeeze-excite needs them.
    backend: None lets the dispatch pick; "eager", "cpu", "triton" or "cuda" forces one.

    Returns y (N, O, H', W'), channels_last, dtype of x, with H' = (H + 2 padding - k) // stride + 1; or (y, sums).
    float16 on the CPU is computed as float32. Differentiable once. Raises ValueError or TypeError on arguments that do
    not fit, BackendError when a forced backend cannot run them.
    """
    args = _arguments(x, weight, bias, stride, padding, groups, activation, residual, gate, pool)
    if dispatch.choose(_problem(*args), backend) == "eager":
        with without_autocast(x):
            y, sums = reference(*args)
    else:
        y, sums = call("conv_bn_act", backend)(*args)
    return (y, sums) if pool else y


def reference(x, weight, bias, residual, gate, stride, padding, groups, activation, pool):
    """The op in plain torch, in the dtype of x: what eager PyTorch gives for a conv, BN, activation chain."""
    check(x, weight, bias, residual, gate, stride, padding, groups, activation, pool)
    accumulator = accumulator_dtype(x.dtype)
    if x.dtype == torch.float16 and x.device.type == "cpu":
        wide = [None if tensor is None else tensor.float() for tensor in (x, weight, bias, residual, gate)]
        y, sums = reference(*wide, stride, padding, groups, activation, pool)
        return y.to(x.dtype), sums
    if gate is not None:
        x = x * gate.to(x.dtype)[:, :, None, None]
    y = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), stride, padding, 1, groups)
    if residual is not None:
        y = y + residual
    y = as_channels_last(apply_activation(y, activation))
    sums = y.sum((2, 3), dtype=accumulator) if pool else torch.empty(0, dtype=accumulator, device=x.device)
    return y, sums


def check(x, weight, bias, residual, gate, stride, padding, groups, activation, pool) -> tuple[int, int, int, int]:
    """Raises on arguments that do not fit; returns the shape of y."""
    check_tensor("x", x, 4, "(N, C, H, W)")
    check_tensor("weight", weight, 4, "(O, C / groups, k, k)")
    check_dtype("x", x)
    n, c, h, w = x.shape
    out, per_group, kh, kw = weight.shape
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(f"stride={stride}, padding={padding}, groups={groups}; expected stride >= 1, padding >= 0, groups >= 1")
    if out % groups:
        raise ValueError(f"groups={groups} does not divide the {out} output channels of the weight {tuple(weight.shape)}")
    if c != per_group * groups:
        raise ValueError(f"x has {c} channels, but weight {tuple(weight.shape)} with groups={groups} takes "
                         f"{per_group} * {groups} = {per_group * groups}; a group width of {per_group} needs "
                         f"groups = C / {per_group}")
    activation_code(activation)
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    if ho < 1 or wo < 1:
        raise ValueError(f"a {kh}x{kw} kernel with padding={padding} does not fit into a map of {h}x{w}; "
                         f"use padding={max(kh, kw) // 2} or a larger image")
    accumulator = accumulator_dtype(x.dtype)
    wanted = (("weight", weight, (out, per_group, kh, kw), x.dtype), ("bias", bias, (out,), accumulator),
              ("residual", residual, (n, out, ho, wo), x.dtype), ("gate", gate, (n, c), accumulator))
    for name, tensor, shape, dtype in wanted:
        if tensor is not None:
            check_tensor(name, tensor, len(shape), "", shape, dtype)
    check_same_device(x=x, weight=weight, bias=bias, residual=residual, gate=gate)
    return n, out, ho, wo


def _fake(x, weight, bias, residual, gate, stride, padding, groups, activation, pool):
    shape = check(x, weight, bias, residual, gate, stride, padding, groups, activation, pool)
    sums = torch.empty(shape[:2] if pool else (0,), dtype=accumulator_dtype(x.dtype), device=x.device)
    return empty_channels_last(x, shape), sums


def _autocast(dtype, x, weight, bias, residual, gate, *rest):
    """x, weight and residual in autocast's dtype; bias and gate in the accumulator's."""
    x = lower(x, dtype)
    accumulator = accumulator_dtype(x.dtype)
    return (x, lower(weight, dtype), lower(bias, accumulator), lower(residual, dtype), lower(gate, accumulator), *rest)


def _arguments(x, weight, bias=None, stride=1, padding=None, groups=1, activation="none", residual=None, gate=None, pool=False):
    """The public arguments as the op takes them, cast as autocast asks, checked."""
    if padding is None:
        check_tensor("weight", weight, 4, "(O, C / groups, k, k)")
        if weight.shape[2] != weight.shape[3]:
            raise ValueError(f"the kernel is {weight.shape[2]}x{weight.shape[3]}; give padding, its default is for square ones")
        padding = weight.shape[2] // 2
    args = (x, weight, bias, residual, gate, stride, padding, groups, activation_code(activation), bool(pool))
    if isinstance(x, torch.Tensor) and autocast_enabled(x):
        args = _autocast(torch.get_autocast_dtype(x.device.type), *args)
    check(*args)
    return args


def _problem(x, weight, bias, residual, gate, stride, padding, groups, activation, pool) -> Problem:
    return Problem("conv_bn_act", x.device, x.dtype, None, x.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]),
                   stride, padding, groups, activation, residual is not None, gate is not None, pool,
                   sizes=(x.shape[0], *x.shape[2:]))


@dispatch.describes("conv_bn_act")
def _describe(x, weight, bias=None, **options) -> Problem:
    return _problem(*_arguments(x, weight, bias, **options))


def _on_cuda(*args):
    """The op on CUDA tensors."""
    check(*args)
    return {"cuda": cuda.conv_bn_act, "triton": _on_triton, "eager": reference}[dispatch.choose(_problem(*args))](*args)


def _on_triton(*args):
    check(*args)
    return triton.kernels().conv_bn_act(*args)


define("conv_bn_act", SCHEMA, reference, _fake, _autocast, triton=_on_triton)
LIBRARY.impl("conv_bn_act", _on_cuda, "CUDA")

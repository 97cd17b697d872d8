"""squeeze_excite: x scaled per image and channel by a gate made of its own means; se_gate: that gate alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import dispatch
from ..backends import cuda, triton
from ..problem import Problem
from .check import check_dtype, check_same_device, check_tensor
from .library import (LIBRARY, accumulator_dtype, as_channels_last, autocast_enabled, call, define, empty_channels_last,
                      lower, without_autocast)


def squeeze_excite(x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, *,
                   backend: str | None = None) -> torch.Tensor:
    """y = x * sigmoid(w2 relu(w1 mean(x) + b1) + b2), the mean over H and W.

    x: (N, C, H, W), float32, bfloat16, float16 or float64, any strides. w1: (S, C), b1: (S,), w2: (C, S), b2: (C,), all
    float32 (float64 beside float64); w1 and w2 may be 1x1 convolution weights (S, C, 1, 1) and (C, S, 1, 1).
    backend: None lets the dispatch pick; "eager", "cpu", "triton" or "cuda" forces one.
    Returns (N, C, H, W), channels_last, dtype of x, also under autocast. Differentiable once. Raises ValueError or
    TypeError on arguments that do not fit, BackendError when a forced backend cannot run them.
    """
    args = _arguments(x, w1, b1, w2, b2)
    if dispatch.choose(_problem("squeeze_excite", x), backend) == "eager":
        with without_autocast(x):
            return reference(*args)
    return call("squeeze_excite", backend)(*args)


def se_gate(sums: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, count: int, *,
            backend: str | None = None) -> torch.Tensor:
    """gate = sigmoid(w2 relu(w1 (sums / count) + b1) + b2), from the sums that `conv_bn_act(pool=True)` gives.

    sums: (N, C), float32 (or float64); count: the number of pixels summed, H * W. Weights, backend, errors: as for
    squeeze_excite. Returns (N, C), dtype of sums. Differentiable once.
    """
    args = _gate_arguments(sums, w1, b1, w2, b2, count)
    if dispatch.choose(_gate_problem(*args), backend) == "eager":
        with without_autocast(sums):
            return gate_reference(*args)
    return call("se_gate", backend)(*args)


def reference(x, w1, b1, w2, b2):
    """The op in plain torch: the gate in float32, the product in the dtype of x."""
    check(x, w1, b1, w2, b2)
    sums = x.sum((2, 3), dtype=accumulator_dtype(x.dtype))
    gate = gate_reference(sums, w1, b1, w2, b2, x.shape[2] * x.shape[3])
    return as_channels_last(x * gate.to(x.dtype)[:, :, None, None])


def gate_reference(sums, w1, b1, w2, b2, count):
    check_gate(sums, w1, b1, w2, b2, count)
    return torch.sigmoid(F.linear(F.relu(F.linear(sums / count, w1, b1)), w2, b2))


def check(x, w1, b1, w2, b2) -> None:
    check_tensor("x", x, 4, "(N, C, H, W)")
    check_dtype("x", x)
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; a map without pixels has no mean")
    _check_weights(x, "x", accumulator_dtype(x.dtype), w1, b1, w2, b2)


def check_gate(sums, w1, b1, w2, b2, count) -> None:
    check_tensor("sums", sums, 2, "(N, C)")
    if sums.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sums is {sums.dtype}; expected torch.float32, as conv_bn_act(pool=True) gives it")
    if count < 1:
        raise ValueError(f"count={count}; expected the number of pixels summed, at least 1")
    _check_weights(sums, "sums", sums.dtype, w1, b1, w2, b2)


def _check_weights(x, name, dtype, w1, b1, w2, b2) -> None:
    check_tensor("w1", w1, 2, "(S, C)")
    squeeze, c = w1.shape[0], x.shape[1]
    for part, tensor, shape in (("w1", w1, (squeeze, c)), ("b1", b1, (squeeze,)), ("w2", w2, (c, squeeze)), ("b2", b2, (c,))):
        check_tensor(part, tensor, len(shape), f"(with {c} channels in {name})", shape, dtype)
    check_same_device(**{name: x, "w1": w1, "b1": b1, "w2": w2, "b2": b2})


def _fake(x, w1, b1, w2, b2):
    check(x, w1, b1, w2, b2)
    return empty_channels_last(x, x.shape)


def _gate_fake(sums, w1, b1, w2, b2, count):
    check_gate(sums, w1, b1, w2, b2, count)
    return torch.empty(sums.shape, dtype=sums.dtype, device=sums.device)


def _autocast(dtype, x, *weights):
    """x keeps its dtype; the weights are used in the accumulator's."""
    return (x, *[lower(weight, accumulator_dtype(x.dtype)) for weight in weights])


def _gate_autocast(dtype, sums, w1, b1, w2, b2, count):
    sums = lower(sums, torch.float32)
    return (sums, *[lower(weight, sums.dtype) for weight in (w1, b1, w2, b2)], count)


def _arguments(x, w1, b1, w2, b2):
    args = (x, _matrix(w1), b1, _matrix(w2), b2)
    if isinstance(x, torch.Tensor) and autocast_enabled(x):
        args = _autocast(None, *args)
    check(*args)
    return args


def _gate_arguments(sums, w1, b1, w2, b2, count):
    args = (sums, _matrix(w1), b1, _matrix(w2), b2, count)
    if isinstance(sums, torch.Tensor) and autocast_enabled(sums):
        args = _gate_autocast(None, *args)
    check_gate(*args)
    return args


def _matrix(weight):
    """(S, C, 1, 1) -> (S, C)."""
    is_conv = isinstance(weight, torch.Tensor) and weight.dim() == 4 and weight.shape[2] == weight.shape[3] == 1
    return weight.flatten(1) if is_conv else weight


def _problem(op, x) -> Problem:
    return Problem(op, x.device, x.dtype, None, x.shape[1], x.shape[1])


def _gate_problem(sums, w1, b1, w2, b2, count) -> Problem:
    return _problem("se_gate", sums)._replace(sizes=(sums.shape[0], 1, count), squeeze=w1.shape[0])


@dispatch.describes("squeeze_excite")
def _describe(x, w1, b1, w2, b2) -> Problem:
    return _problem("squeeze_excite", _arguments(x, w1, b1, w2, b2)[0])


@dispatch.describes("se_gate")
def _describe_gate(sums, w1, b1, w2, b2, count) -> Problem:
    return _gate_problem(*_gate_arguments(sums, w1, b1, w2, b2, count))


def _on_triton(*args):
    check(*args)
    return triton.kernels().squeeze_excite(*args)


def _on_cuda(*args):
    return reference(*args) if triton.why_not(_problem("squeeze_excite", args[0])) else _on_triton(*args)


def _gate_on_triton(*args):
    check_gate(*args)
    return triton.kernels().se_gate(*args)


def _gate_on_cuda(*args):
    check_gate(*args)
    return {"cuda": cuda.se_gate, "triton": _gate_on_triton, "eager": gate_reference}[dispatch.choose(_gate_problem(*args))](*args)


define("squeeze_excite", "(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> Tensor", reference, _fake, _autocast,
       triton=_on_triton)
define("se_gate", "(Tensor sums, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int count) -> Tensor", gate_reference,
       _gate_fake, _gate_autocast, triton=_gate_on_triton)
LIBRARY.impl("squeeze_excite", _on_cuda, "CUDA")
LIBRARY.impl("se_gate", _gate_on_cuda, "CUDA")

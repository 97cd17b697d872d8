"""network_plain: a stretch of a RegNet (stem, blocks, head) in one call on a GPU, from weights packed by `pack_plain`.

The public function is `network`, which takes networks packed either way.
"""

from __future__ import annotations

import torch

from ..backends import triton
from ..packing import CONV, HEAD
from ..plain import PlainSpec, program_specs, unpack_plain
from ..problem import Problem
from .check import check_dtype, check_same_device, check_tensor
from .library import LIBRARY, accumulator_dtype, as_channels_last, define, empty_channels_last, lower
from .network import run_step


def reference(x, weights, params, program):
    """The op in plain torch, in the dtype of x, one step after the other."""
    check(x, weights, params, program)
    y = x
    for step in unpack_plain(weights, params, program):
        y = run_step(y, step)
    return as_channels_last(y) if y.dim() == 4 else y.contiguous()


def check(x, weights, params, program) -> tuple[int, ...]:
    """Raises on arguments that do not fit; returns the shape of the output."""
    check_tensor("x", x, 4, "(N, C, H, W)")
    check_dtype("x", x)
    if weights.dtype != x.dtype or params.dtype != accumulator_dtype(x.dtype):
        raise TypeError(f"x is {x.dtype}, weights is {weights.dtype}, params is {params.dtype}; expected weights {x.dtype} and "
                        f"params {accumulator_dtype(x.dtype)}: cast x, or pack with dtype={x.dtype}")
    check_same_device(x=x, weights=weights, params=params)
    n, c, h, w = x.shape
    for index, spec in enumerate(program_specs(program)):
        if c != spec.c_in:
            got = f"x has {c} channels" if index == 0 else f"the step before gives {c} channels"
            raise ValueError(f"{got}, but step {index} takes {spec.c_in}")
        if spec.kind == HEAD:
            return (n, spec.c_out or spec.c_in)
        c, h, w = spec.c_out, _side(h, spec), _side(w, spec)
        if h < 1 or w < 1:
            raise ValueError(f"the map {tuple(x.shape[2:])} is too small: step {index} would put out {h}x{w} pixels")
    return (n, c, h, w)


def _side(size: int, spec: PlainSpec) -> int:
    if spec.kind == CONV:
        return (size + 2 * spec.padding - spec.kernel) // spec.stride + 1
    return (size - 1) // spec.stride + 1


def _fake(x, weights, params, program):
    shape = check(x, weights, params, program)
    return empty_channels_last(x, shape) if len(shape) == 4 else torch.empty(shape, dtype=x.dtype, device=x.device)


def _autocast(dtype, x, weights, params, program):
    """x in the dtype that the weights were packed for, whatever dtype autocast asks for."""
    return lower(x, weights.dtype), weights, params, program


def _on_triton(x, weights, params, program):
    check(x, weights, params, program)
    return triton.kernels().network(x, weights, params, program)


def _on_cuda(x, weights, params, program):
    if triton.why_not(Problem("network", x.device, x.dtype, weights.dtype, x.shape[1], layout="plain")):
        return reference(x, weights, params, program)
    return _on_triton(x, weights, params, program)


SCHEMA = "(Tensor x, Tensor weights, Tensor params, int[] program) -> Tensor"
define("network_plain", SCHEMA, reference, _fake, _autocast, triton=_on_triton)
LIBRARY.impl("network_plain", _on_cuda, "CUDA")

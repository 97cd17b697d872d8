"""network_plain: a stretch of a RegNet (stem, blocks, head) in one call on a GPU, from weights packed by `pack_plain`.

The public function is `network`, which takes networks packed either way.
"""

from __future__ import annotations


from ..backends import gpu, triton
from ..plain import program_specs, unpack_plain
from ..problem import Problem
from .check import check_dtype, check_same_device, check_tensor
from .library import LIBRARY, accumulator_dtype, as_channels_last, define
from .network import autocast, empty_output, output_shape, run_step


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
    return output_shape(x, program_specs(program))


def _fake(x, weights, params, program):
    return empty_output(x, check(x, weights, params, program))


def _on_triton(x, weights, params, program):
    check(x, weights, params, program)
    return gpu.run(x, weights, params, program, layers="triton")


def _on_cuda(x, weights, params, program):
    check(x, weights, params, program)
    if triton.why_not(Problem("network", x.device, x.dtype, weights.dtype, x.shape[1], layout="plain")):
        return reference(x, weights, params, program)
    return gpu.run(x, weights, params, program)


SCHEMA = "(Tensor x, Tensor weights, Tensor params, int[] program) -> Tensor"
define("network_plain", SCHEMA, reference, _fake, autocast, triton=_on_triton)
LIBRARY.impl("network_plain", _on_cuda, "CUDA")

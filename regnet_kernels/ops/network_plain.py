"""network_plain: a stretch of a RegNet (stem, blocks, head) in one call on a GPU, from weights packed by `pack_plain`.

The public function is `network`, which takes networks packed either way. `mean` and `scale`, float32 (C,) each, go with uint8 images:
then the first step, a convolution, reads (x - mean) * scale, and pads that with zeros. The result has the dtype of the weights.
`layers` forces the backends of layers (backends/gpu/choice.py); the reference pays no attention to it.
"""

from __future__ import annotations

import torch

from ..backends import gpu
from ..packing import CONV
from ..plain import program_specs, unpack_plain
from .check import check_dtype, check_same_device, check_tensor
from .library import LIBRARY, accumulator_dtype, as_channels_last, define
from .network import autocast, check_pixels, empty_output, normalised, output_shape, run_step


def reference(x, weights, params, program, mean=None, scale=None, layers=""):
    """The op in plain torch, in the dtype of the weights, one step after the other."""
    check(x, weights, params, program, mean, scale)
    y = x if mean is None else normalised(x, mean, scale).to(weights.dtype)
    for step in unpack_plain(weights, params, program):
        y = run_step(y, step)
    return as_channels_last(y) if y.dim() == 4 else y.contiguous()


def check(x, weights, params, program, mean=None, scale=None) -> tuple[int, ...]:
    """Raises on arguments that do not fit; returns the shape of the output."""
    check_tensor("x", x, 4, "(N, C, H, W)")
    specs = program_specs(program)
    if mean is not None or scale is not None:
        check_pixels(x, mean, scale, starts_with_conv=specs[0].kind == CONV)
    else:
        check_dtype("x", x)
    wanted = weights.dtype if x.dtype == torch.uint8 else x.dtype
    if weights.dtype != wanted or params.dtype != accumulator_dtype(wanted):
        raise TypeError(f"x is {x.dtype}, weights is {weights.dtype}, params is {params.dtype}; expected weights {wanted} and "
                        f"params {accumulator_dtype(wanted)}: cast x, or pack with dtype={wanted}")
    check_same_device(x=x, weights=weights, params=params, mean=mean, scale=scale)
    return output_shape(x, specs)


def _fake(x, weights, params, program, mean=None, scale=None, layers=""):
    return empty_output(x, check(x, weights, params, program, mean, scale), weights.dtype)


def _on_gpu(x, weights, params, program, mean=None, scale=None, layers=""):
    check(x, weights, params, program, mean, scale)
    return gpu.run(x, weights, params, program, mean, scale, layers)


def _on_triton(x, weights, params, program, mean=None, scale=None, layers=""):
    return _on_gpu(x, weights, params, program, mean, scale, layers or "triton")


def _on_cuda(x, weights, params, program, mean=None, scale=None, layers=""):
    run = _on_gpu if weights.dtype in gpu.DTYPES else reference
    return run(x, weights, params, program, mean, scale, layers)


SCHEMA = "(Tensor x, Tensor weights, Tensor params, int[] program, Tensor? mean=None, Tensor? scale=None, str layers=\"\") -> Tensor"
define("network_plain", SCHEMA, reference, _fake, autocast, gpu=_on_gpu, triton=_on_triton)
LIBRARY.impl("network_plain", _on_cuda, "CUDA")

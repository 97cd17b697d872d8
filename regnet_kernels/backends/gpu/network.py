"""A packed network, step by step, each layer on the backend that `choice` names.

Every tensor in between comes from torch's allocator and every launch goes to the current stream of the tensors' device, so
that a call can be captured into a CUDA graph once its kernels are compiled, which the first call of a shape does.
"""

from __future__ import annotations

import torch

from ...ops.library import as_channels_last
from ...packing import CONV, HEAD
from ...plain import PlainSpec, program_specs
from .. import cuda
from ..triton import kernels
from ..triton.machine import on_device
from . import choice, cudnn, fused
from .layers import step_layers


def run(x, weights, params, program, mean=None, scale=None, layers=""):
    """The op regnet_kernels::network_plain; see backends/gpu."""
    normalise = None if mean is None else (mean, scale)
    with on_device(x):
        for spec in program_specs(program):
            part = spec.read(weights, params)
            if spec.kind != CONV:
                x = as_channels_last(x)
            by = {name: kernel(choice.choose(shape, weights.dtype, x.device, layers).backend, shape.kernel)
                  for name, shape in step_layers(spec, *_sizes(x)).items()}
            if spec.kind == CONV:
                x = by["w"](x, part["w"], part["bias"], spec.kernel, stride=spec.stride, padding=spec.padding, activation=spec.activation,
                            normalise=normalise)
                normalise = None
            elif spec.kind == HEAD:
                x = head(x, spec, part, by)
            else:
                x = block(x, spec, part, by, may_fuse=not layers)
        return x


def block(x: torch.Tensor, spec: PlainSpec, part: dict[str, torch.Tensor], by: dict, may_fuse: bool = False) -> torch.Tensor:
    """A bottleneck: three layers, with a squeeze-excite four. by: the function of each; may_fuse: the first two may be one kernel."""
    options = {"stride": spec.stride, "activation": spec.activation, "pool": bool(spec.se_width)}
    if may_fuse:
        t, sums = fused.expand_grouped(x, part["a"], part["a_bias"], part["b"], part["b_bias"], **options, by=(by["a"], by["b"]))
    else:
        t, sums = by["b"](by["a"](x, part["a"], part["a_bias"], activation=spec.activation), part["b"], part["b_bias"], **options)
    gate = None
    if spec.se_width:
        gate = by["se"](sums, part["w1"], part["b1"], part["w2"], part["b2"], t.shape[2] * t.shape[3], transposed=True)
    shortcut = {"shortcut": x, "w_shortcut": part["proj"], "shortcut_stride": spec.stride} if spec.has_proj else {"residual": x}
    return by["c"](t, part["c"], part["c_bias"], activation=spec.activation, gate=gate, **shortcut)


def head(x: torch.Tensor, spec: PlainSpec, part: dict[str, torch.Tensor], by: dict) -> torch.Tensor:
    """Mean over the map, and the classifier as a 1x1 on maps of one pixel."""
    pooled = by["mean"](x)
    if not spec.c_out:
        return pooled.contiguous()
    logits = by["fc"](pooled[:, :, None, None], part["fc"], part["bias"]).flatten(1)
    return logits if logits.shape[1] == spec.c_out else logits[:, :spec.c_out].contiguous()


_MODULES = {"triton": kernels, "cuda": lambda: cuda, "cudnn": lambda: cudnn}


def kernel(backend: str, name: str):
    """The function of a backend that runs layers of the kind `name`."""
    return getattr(_MODULES[backend](), name)


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[2], x.shape[3]

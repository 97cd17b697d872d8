"""The ops on Triton's kernels: arguments as in the ops' schemas, checked before; and a packed network, step by step.

Every tensor in between comes from torch's allocator and every launch goes to the current stream of the tensors' device, so
that a call can be captured into a CUDA graph once its kernels are compiled, which the first call of a shape does.
"""

from __future__ import annotations

import contextlib

import torch

from ...ops.library import as_channels_last
from ...packing import CONV, HEAD
from ...plain import PlainSpec, program_specs
from . import is_pointwise, pool
from . import scale as scaling
from .direct import direct
from .gate import se_gate as gate_of
from .grouped import grouped
from .pointwise import pointwise


def conv_bn_act(x, weight, bias, residual, gate, stride, padding, groups, activation, with_sums):
    """The op regnet_kernels::conv_bn_act, for what `why_not` lets through."""
    with on_device(x):
        if bias is None:
            bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=x.device)
        kernel = weight.shape[2]
        c_out, sums = weight.shape[0], None
        if is_pointwise(weight.shape[2:], padding, groups):
            y = pointwise(as_channels_last(x), weight.flatten(1).contiguous(), bias.contiguous(), stride=stride, activation=activation,
                          gate=None if gate is None else gate.contiguous(),
                          residual=None if residual is None else as_channels_last(residual))
        elif (kernel, padding) == (3, 1) and stride in (1, 2) and x.shape[1] == c_out and weight.shape[1] % 8 == 0:
            y, sums = grouped(as_channels_last(x), weight.permute(0, 2, 3, 1).contiguous(), bias.contiguous(), stride=stride,
                              activation=activation, pool=with_sums)
        else:
            rows = weight.permute(0, 2, 3, 1).flatten(1)
            rows = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8)).contiguous()
            y = direct(x, rows, bias.contiguous(), kernel, stride=stride, padding=padding, activation=activation)
        if not with_sums:
            return y, torch.empty(0, dtype=torch.float32, device=x.device)
        return y, (pool.partial_sums(y) if sums is None else sums).sum(1)


def squeeze_excite(x, w1, b1, w2, b2):
    """The op regnet_kernels::squeeze_excite: pool, gate and scale."""
    with on_device(x):
        x = as_channels_last(x)
        if x.numel() == 0:
            return torch.empty_like(x)
        gate = gate_of(pool.partial_sums(x), w1.contiguous(), b1.contiguous(), w2.contiguous(), b2.contiguous(), x.shape[2] * x.shape[3])
        return scaling.scale(x, gate)


def se_gate(sums, w1, b1, w2, b2, count):
    """The op regnet_kernels::se_gate."""
    with on_device(sums):
        return gate_of(sums.contiguous()[:, None], w1.contiguous(), b1.contiguous(), w2.contiguous(), b2.contiguous(), count)


def network(x, weights, params, program):
    """The op regnet_kernels::network_plain."""
    with on_device(x):
        for spec in program_specs(program):
            part = spec.read(weights, params)
            if spec.kind == CONV:
                x = direct(x, part["w"], part["bias"], spec.kernel, stride=spec.stride, padding=spec.padding, activation=spec.activation)
            elif spec.kind == HEAD:
                x = head(as_channels_last(x), spec, part)
            else:
                x = block(as_channels_last(x), spec, part)
        return x


def block(x: torch.Tensor, spec: PlainSpec, part: dict[str, torch.Tensor]) -> torch.Tensor:
    """A bottleneck: three launches, with a squeeze-excite four (five where its first layer is large)."""
    t = pointwise(x, part["a"], part["a_bias"], activation=spec.activation)
    t, sums = grouped(t, part["b"], part["b_bias"], stride=spec.stride, activation=spec.activation, pool=bool(spec.se_width))
    gate = None
    if spec.se_width:
        gate = gate_of(sums, part["w1"], part["b1"], part["w2"], part["b2"], t.shape[2] * t.shape[3], transposed=True, dtype=t.dtype)
    shortcut = {"shortcut": x, "w_shortcut": part["proj"], "shortcut_stride": spec.stride} if spec.has_proj else {"residual": x}
    return pointwise(t, part["c"], part["c_bias"], activation=spec.activation, gate=gate, **shortcut)


def head(x: torch.Tensor, spec: PlainSpec, part: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the map, and the classifier as a 1x1 on maps of one pixel."""
    pooled = pool.mean(x)
    if not spec.c_out:
        return pooled.contiguous()
    logits = pointwise(pooled[:, :, None, None], part["fc"], part["bias"]).flatten(1)
    return logits if logits.shape[1] == spec.c_out else logits[:, :spec.c_out].contiguous()


def on_device(x: torch.Tensor):
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()

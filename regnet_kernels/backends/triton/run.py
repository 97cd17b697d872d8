"""Triton's kernels by the kind of layer, and the ops on them: arguments as in the ops' schemas, checked before."""

from __future__ import annotations

import torch

from ...ops.library import as_channels_last
from . import is_pointwise, pool
from . import scale as scaling
from .direct import direct
from .expand_grouped import expand_grouped
from .gate import se_gate as gate_of
from .grouped import grouped
from .machine import on_device
from .pointwise import pointwise
from .pool import mean

__all__ = ["conv_bn_act", "direct", "expand_grouped", "gate", "grouped", "mean", "pointwise", "se_gate", "squeeze_excite"]

gate = gate_of


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

"""A block's 1x1 and its grouped 3x3: one kernel where a measurement or the cost model says so, else one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...plain import PlainSpec
from ..triton import kernels
from ..triton.machine import Machine
from ..triton.shapes import ExpandShape, GroupedShape, PointwiseShape
from . import choice


def estimate(arch: str, multiprocessors: int, dtype: torch.dtype, images: int, height: int, width: int, spec: PlainSpec):
    """What the cost model says of a block's 1x1 and grouped 3x3 on a card: an Estimate of both ways, `apart` and `fused`, with bytes,
    flops and milliseconds, and `gains`, whether they are fused there unless a measurement says otherwise. None where the fused kernel
    cannot run them. arch: such as "sm_90"; height, width: of the block's input; spec: a block of a PlainNetwork's specs.
    """
    from ..triton import fusion

    shape = ExpandShape(images, (height - 1) // spec.stride + 1, (width - 1) // spec.stride + 1, spec.c_in, spec.c_mid,
                        spec.group_width, spec.stride, int(bool(spec.se_width)))
    return None if fusion.why_not(shape, dtype) else fusion.estimate(Machine(arch, multiprocessors), dtype, shape)


def expand_grouped(x: torch.Tensor, a: torch.Tensor, a_bias: torch.Tensor, b: torch.Tensor, b_bias: torch.Tensor, *, stride: int = 1,
                   activation: int = 0, pool: bool = False, by: tuple[Callable, Callable] | None = None
                   ) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(y, sums) as triton/expand_grouped.py defines them. by: the functions that run the two layers apart, chosen here by default."""
    from ..triton import configs, fusion

    n, k, height, width = x.shape
    c, group_width = b.shape[0], b.shape[3]
    down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
    shape = ExpandShape(n, down, across, k, c, group_width, stride, int(pool))
    first = PointwiseShape(n, height, width, k, c)
    if not fusion.why_not(shape, x.dtype) and not choice.why_not("triton", first, x.dtype, x.device):
        config = configs.expand_grouped(x.device, x.dtype, shape)
        if config.launches == 1:
            return kernels().expand_grouped(x, a, a_bias, b, b_bias, config, stride=stride, activation=activation, pool=pool)
    if by is None:
        from .network import kernel

        second = GroupedShape(n, down, across, c, group_width, stride, int(pool))
        by = tuple(kernel(choice.choose(one, x.dtype, x.device).backend, one.kernel) for one in (first, second))
    return by[1](by[0](x, a, a_bias, activation=activation), b, b_bias, stride=stride, activation=activation, pool=pool)

"""Whether a block's 1x1 and its grouped 3x3 run as one kernel: what that costs and what it saves, as numbers.

Apart, what the 1x1 makes is written once and read once. Fused (expand_grouped.py) it never reaches memory, but is computed three
times (1.5 times at stride 2), and all of it waits on instructions: a step of a program takes some 250 of each warp and 16 for each
register of an accumulator, counted in the machine code for sm_80. Times are the longest of what memory, tensor cores and issue of
instructions need, from datasheets (cards.py) and the two shares below, which are guesses; and times `SLOWER`, where it was measured. What was
tuned on a card (regnet_kernels.tuning) goes first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from . import configs
from .cards import rates
from .machine import Machine
from .shapes import ExpandShape

TENSOR_SHARE = 0.4  # of the peak that products on tiles of this size reach
ISSUE_SHARE = 0.6  # of the four instructions a clock that a multiprocessor can issue
# Measured over estimated time of the fused kernel. On an H200 it took 1.3 to 2.9 times its estimate where instructions decide, and 3 to
# 9 times where products do (20 layers of five models, float16, batch 256): it gained nowhere.
SLOWER = {"sm_90": 2.0}
MARGIN = 0.1  # the estimate must promise this much, or the layers stay apart
WIDEST_GROUP = 128  # beyond it a tile of a whole group leaves no registers for the sums of three lines
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Way(NamedTuple):
    """bytes, flops (2 a multiply-add): of the batch, with what padding and recomputation add; ms: the estimate; bound: its reason."""

    bytes: int
    flops: int
    ms: float
    bound: str


class Estimate(NamedTuple):
    """Both ways of running the two layers."""

    apart: Way
    fused: Way

    @property
    def gains(self) -> bool:
        return self.fused.ms < (1 - MARGIN) * self.apart.ms


def why_not(shape: ExpandShape, dtype: torch.dtype) -> str:
    """Why the fused kernel cannot run two layers, on any card; "" if it can."""
    if dtype not in DTYPES:
        return f"the weights are {dtype}; the kernel computes float32, float16 and bfloat16"
    if shape.k % 8 or shape.channels % 8 or shape.group_width % 8:
        return f"{shape.k} and {shape.channels} channels in groups of {shape.group_width}; all must be multiples of 8"
    if shape.group_width > WIDEST_GROUP:
        return f"groups of {shape.group_width}: a program holds whole groups, and registers allow up to {WIDEST_GROUP} channels"
    if dtype.itemsize == 4 and shape.group_width > 32:
        return f"groups of {shape.group_width} in float32: registers allow up to 32 channels"
    if shape.height_in * shape.width_in * max(shape.k, shape.channels) >= 1 << 31:
        return "a map has 2^31 elements or more, and offsets in it are 32-bit"
    return ""


def estimate(card: Machine, dtype: torch.dtype, shape: ExpandShape, config: configs.ExpandConfig | None = None) -> Estimate:
    """Of both ways on a card. config: of the fused kernel, the heuristic's by default; `why_not` must take the shape."""
    config = configs.expand_config(card, dtype, shape) if config is None else config
    k, c, g, size = shape.k, shape.channels, shape.group_width, dtype.itemsize
    before, after = shape.images * shape.height_in * shape.width_in, shape.rows
    peak = rates(card.arch).peak * (1 if size == 2 else 0.5 if configs.precision(dtype) == "tf32" else 1 / 16)

    def way(moved: int, macs: int, instructions: int = 0, slower: float = 1.0) -> Way:
        known = rates(card.arch)
        times = {"memory": moved * size / known.bandwidth / 1e6, "tensor cores": 2 * macs / (TENSOR_SHARE * peak) / 1e9,
                 "instructions": instructions / (ISSUE_SHARE * 4 * card.multiprocessors * known.clock) / 1e6}
        bound = max(times, key=times.get)
        return Way(moved * size, 2 * macs, slower * times[bound], bound)

    one = way(before * (k + c) + k * c, before * k * c)
    two = way((before + after) * c + 9 * g * c, after * 9 * g * c)
    apart = Way(one.bytes + two.bytes, one.flops + two.flops, one.ms + two.ms, two.bound)

    programs, turns = configs.expand_programs(shape, config)
    products = 1 if shape.stride == 1 else 2
    depth = -(-k // config.depth) * config.depth
    outputs = config.side * config.parts
    macs = programs * turns * 3 * config.rows * outputs * (products * depth + 3 * config.side)
    instructions = programs * turns * 3 * config.warps * (250 + 16 * config.rows * outputs // (32 * config.warps))
    return Estimate(apart, way(before * k + after * c + k * c + 9 * g * c, macs, instructions, SLOWER.get(card.arch, 1.0)))

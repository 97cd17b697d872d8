"""How each kernel is cut into programs: heuristics over data, one row a class of cards.

No figure here was measured on a card yet; they follow from the sizes of shared memory and registers and from the count of
programs that a layer gives. `tuned` (tuning.py) holds what measurements found on a card, and goes first.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from .machine import Machine, machine
from .tiles import cut_columns


class Config(NamedTuple):
    """rows: pixels of a tile; columns: the most output channels of a tile; depth: input channels (or taps x channels) a step;
    warps; stages: of the pipeline that loads ahead."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class Limits(NamedTuple):
    """What a class of cards may be given, for 16-bit types and for float32. gated_depth: the most input channels a step where a gate
    is multiplied in, which goes through registers."""

    rows: tuple[int, ...]
    columns: int
    depths: tuple[int, ...]
    stages: int
    gated_depth: int = 32
    warp_elements: int = 64 * 32  # accumulators of a warp: 64 registers a thread


HALF, FULL = 2, 4  # bytes of an element

_FULL = Limits((64, 32, 16), 64, (32, 16), stages=2, warp_elements=512)  # without tensor cores

LIMITS = {
    # arch: {bytes of an element: limits}. Ampere's and Hopper's large shared memory holds one stage more.
    "sm_80": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4), FULL: _FULL},
    "sm_86": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=3), FULL: _FULL},
    # wgmma reads both operands from shared memory: registers are left for more accumulators
    "sm_90": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4, gated_depth=64, warp_elements=96 * 32), FULL: _FULL},
    "sm_100": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4), FULL: _FULL},
    "gfx942": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=2), FULL: _FULL},
}
CLASS = {"sm_80": "sm_80", "sm_86": "sm_86", "sm_87": "sm_86", "sm_89": "sm_86", "sm_90": "sm_90", "sm_100": "sm_100",
         "sm_103": "sm_100", "sm_120": "sm_86", "sm_121": "sm_86", "gfx942": "gfx942"}


class Sweep(NamedTuple):
    """Kernels that only pass over memory. rows x columns of a step; span: pixels of one partial sum."""

    rows: int
    columns: int
    warps: int
    span: int = 0


POOL = Sweep(rows=32, columns=64, warps=4, span=512)
SCALE = Sweep(rows=32, columns=64, warps=4)


class GateConfig(NamedTuple):
    images: int
    depth: int
    units: int
    columns: int
    warps: int
    stages: int


GATE = {HALF: GateConfig(16, 64, 64, 32, 4, 2), FULL: GateConfig(16, 32, 32, 32, 4, 2)}
# One multiprocessor reads about 100 GB/s from the L2 cache: this much takes as long as another launch in a CUDA graph.
ONE_LAUNCH_BYTES = 256 << 10

FLAT_COST = 1.5  # computing an address for each element of a step, where it could be one a pixel
PROGRAM_ROWS = 16  # what starting and ending a program costs, in rows


def precision(dtype: torch.dtype) -> str:
    """TF32 for float32 where torch lets its own convolutions have it."""
    return "tf32" if dtype == torch.float32 and _tf32_allowed() else "ieee"


def _tf32_allowed() -> bool:
    cudnn = torch.backends.cudnn
    try:
        return cudnn.conv.fp32_precision == "tf32" or (cudnn.conv.fp32_precision == "none" and cudnn.allow_tf32)
    except (AttributeError, RuntimeError):  # older torch; or the two ways of asking were mixed
        return bool(getattr(cudnn, "allow_tf32", False))


def limits(card: Machine, dtype: torch.dtype) -> Limits:
    return LIMITS[CLASS.get(card.arch, "sm_86")][dtype.itemsize]


def pointwise(device: torch.device, dtype: torch.dtype, rows: int, k: int, o: int, gated: bool) -> Config:
    return _pointwise(machine(device), dtype, rows, k, o, gated)


def grouped(device: torch.device, dtype: torch.dtype, rows: int, image_rows: int, group_width: int, channels: int) -> Config:
    """image_rows: the pixels of an image where tiles must not cross images, else 0."""
    return _grouped(machine(device), dtype, rows, image_rows, group_width, channels)


def direct(device: torch.device, dtype: torch.dtype, rows: int, depth: int, o: int) -> Config:
    card = machine(device)
    allowed = limits(card, dtype)._replace(rows=(64, 32, 16))  # a gather of single elements takes registers
    columns = min(allowed.columns, 64)
    chosen = next((size for size in (16, 32) if depth <= size), 32)
    return _finish(card, dtype, _rows(card, allowed, rows, 0, cut_columns(o, columns).tiles), columns, o, chosen, 1)


def gate(dtype: torch.dtype) -> GateConfig:
    return GATE[dtype.itemsize]


@cache
def _pointwise(card: Machine, dtype: torch.dtype, rows: int, k: int, o: int, gated: bool) -> Config:
    allowed = limits(card, dtype)
    depths = [size for size in allowed.depths if not gated or size <= allowed.gated_depth]
    depth = min(depths, key=lambda size: -(-k // size) * (size + 8))
    return _finish(card, dtype, _rows(card, allowed, rows, 0, cut_columns(o, allowed.columns).tiles), allowed.columns, o, depth,
                   allowed.stages, gated)


@cache
def _grouped(card: Machine, dtype: torch.dtype, rows: int, image_rows: int, group_width: int, channels: int) -> Config:
    allowed = limits(card, dtype)
    span = group_span(group_width, channels)
    parts = -(-channels // span) * cut_columns(span, allowed.columns).tiles
    height = _rows(card, allowed, rows, image_rows, parts)
    depths = [size for size in allowed.depths if height != 32 or size <= 32]  # the compiler spills at 32 rows x 64
    depth = min(depths, key=lambda size: walk(span, size)[1] * (size + 8) * (FLAT_COST if walk(span, size)[0] else 1))
    return _finish(card, dtype, height, allowed.columns, span, depth, allowed.stages)


def group_span(group_width: int, channels: int) -> int:
    """The channels that a program of the grouped convolution reads: a group's, or those of two groups of 8."""
    return 16 if group_width == 8 and channels > 8 else group_width


def walk(span: int, depth: int) -> tuple[bool, int]:
    """(flat, steps): by tap where padding each tap to a multiple of `depth` wastes at most an eighth, else flat."""
    by_tap = -(-span // depth)
    flat = by_tap * depth > span * 8 / 7
    return flat, -(-9 * span // depth) if flat else 9 * by_tap


def _rows(card: Machine, allowed: Limits, rows: int, image_rows: int, parts: int) -> int:
    """The tile height that needs the least time if each multiprocessor takes one program after the other."""

    def time(height):
        tiles = rows // image_rows * -(-image_rows // height) if image_rows else -(-rows // height)
        return -(-tiles * parts // card.multiprocessors) * (height + PROGRAM_ROWS)

    return min(allowed.rows, key=time)


def _finish(card: Machine, dtype: torch.dtype, rows: int, columns: int, o: int, depth: int, stages: int, gated: bool = False) -> Config:
    width = cut_columns(o, columns).width
    most = limits(card, dtype).warp_elements
    warps = 8 if rows * width > 4 * most else 4
    # With more threads than 16-byte pieces of a tile, each would load less than 16 bytes at once.
    warps = max(1, min(warps, rows * depth * dtype.itemsize // (16 * 32)))
    step = (rows * (2 if gated else 1) + width) * depth * dtype.itemsize
    while stages > 1 and stages * step > card.shared_memory * 0.9:
        stages -= 1
    return Config(rows, columns, depth, warps, stages)

"""How each kernel is cut into programs: heuristics over data, one row a class of cards.

16-bit launches on compute capability 9.0 follow what was measured on an H200 (`_hopper`); nothing else was measured on a card yet and
follows from the sizes of shared memory and registers and from the count of programs that a layer gives. What was tuned on the card
at hand (regnet_kernels.tuning) goes first; `neighbours` says what is tried.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from ...tuning import table
from .machine import Machine, machine
from .shapes import DirectShape, ExpandShape, GateShape, GroupedShape, PointwiseShape, Shape
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
    is multiplied in, which goes through registers; warp_elements, least_warp_elements: accumulators of a warp, about."""

    rows: tuple[int, ...]
    columns: int
    depths: tuple[int, ...]
    stages: int
    gated_depth: int = 32
    warp_elements: int = 64 * 32  # 64 registers a thread
    least_warp_elements: int = 0


HALF, FULL = 2, 4  # bytes of an element

_FULL = Limits((64, 32, 16), 64, (32, 16), stages=2, warp_elements=512)  # without tensor cores

LIMITS = {
    # arch: {bytes of an element: limits}. Ampere's and Hopper's large shared memory holds one stage more.
    "sm_80": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4), FULL: _FULL},
    "sm_86": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=3), FULL: _FULL},
    # wgmma reads both operands from shared memory: registers are left for more accumulators
    "sm_90": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4, gated_depth=64, warp_elements=96 * 32), FULL: _FULL},
    "sm_100": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=4), FULL: _FULL},
    # Its compiler aims at more threads a multiprocessor and spills at steps of 64 channels, and at 32 x 80 in four warps
    "sm_120": {HALF: Limits((128, 64, 32, 16), 128, (32, 16), stages=4, least_warp_elements=22 * 32), FULL: _FULL},
    "gfx942": {HALF: Limits((128, 64, 32, 16), 128, (64, 32, 16), stages=2), FULL: _FULL},
}
CLASS = {"sm_80": "sm_80", "sm_86": "sm_86", "sm_87": "sm_86", "sm_89": "sm_86", "sm_90": "sm_90", "sm_100": "sm_100",
         "sm_103": "sm_100", "sm_120": "sm_120", "sm_121": "sm_120", "gfx942": "gfx942"}


class Sweep(NamedTuple):
    """Kernels that only pass over memory. rows x columns of a step; span: pixels of one partial sum."""

    rows: int
    columns: int
    warps: int
    span: int = 0


POOL = Sweep(rows=32, columns=64, warps=4, span=512)
SCALE = Sweep(rows=32, columns=64, warps=4)


class GateConfig(NamedTuple):
    """images, columns: of a program; depth: channels a step; units: hidden units a step; launches: 1 or 2, see gate.py."""

    images: int
    depth: int
    units: int
    columns: int
    warps: int
    stages: int
    launches: int = 1


GATE = {HALF: GateConfig(16, 64, 64, 32, 4, 2), FULL: GateConfig(16, 32, 32, 32, 4, 2)}
# One multiprocessor reads about 100 GB/s from the L2 cache: this much takes as long as another launch in a CUDA graph.
ONE_LAUNCH_BYTES = 256 << 10


class ExpandConfig(NamedTuple):
    """Of expand_grouped.py. rows: pixels of a tile, `across` columns of each of rows / across images; lines: of the result a program;
    side: channels of a part, a power of two that holds whole groups; parts: of a program; depth: input channels a step; launches: 1
    fused, 2 the two layers apart (the other numbers then count for nothing)."""

    rows: int
    across: int
    lines: int
    side: int
    parts: int
    depth: int
    warps: int
    stages: int
    launches: int = 1


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


def pointwise(device: torch.device, dtype: torch.dtype, shape: PointwiseShape) -> Config:
    return table.choose(device, dtype, shape, Config, lambda: heuristic(machine(device), dtype, shape))


def grouped(device: torch.device, dtype: torch.dtype, shape: GroupedShape) -> Config:
    return table.choose(device, dtype, shape, Config, lambda: heuristic(machine(device), dtype, shape))


def direct(device: torch.device, dtype: torch.dtype, shape: DirectShape) -> Config:
    return table.choose(device, dtype, shape, Config, lambda: heuristic(machine(device), dtype, shape))


def gate(device: torch.device, dtype: torch.dtype, shape: GateShape) -> GateConfig:
    return table.choose(device, dtype, shape, GateConfig, lambda: heuristic(machine(device), dtype, shape))


def expand_grouped(device: torch.device, dtype: torch.dtype, shape: ExpandShape) -> ExpandConfig:
    return table.choose(device, dtype, shape, ExpandConfig, lambda: heuristic(machine(device), dtype, shape))


def heuristic(card: Machine, dtype: torch.dtype, shape: Shape) -> Config | GateConfig | ExpandConfig:
    """The configuration of a launch that was not tuned. dtype: of the weights."""
    if isinstance(shape, ExpandShape):
        return _expand_or_not(card, dtype, shape, precision(dtype))
    if card.arch == "sm_90" and dtype.itemsize == HALF:
        return _hopper(shape)
    if isinstance(shape, PointwiseShape):
        return _pointwise(card, dtype, shape.rows, shape.k, shape.o, bool(shape.gated))
    if isinstance(shape, GroupedShape):
        # tiles must not cross images where their sums are wanted
        return _grouped(card, dtype, shape.rows, shape.height * shape.width if shape.pool else 0, shape.group_width, shape.channels)
    if isinstance(shape, DirectShape):
        return _direct(card, dtype, shape.rows, shape.side**2 * shape.channels, shape.o)
    one = shape.squeeze * shape.channels * dtype.itemsize <= ONE_LAUNCH_BYTES
    return GATE[dtype.itemsize]._replace(launches=1 if one else 2)


SMALL_ROWS = 4096  # below it a launch is one or two rounds of programs at most: batch 1


@cache
def _hopper(shape: Shape) -> Config | GateConfig:
    """In 16 bits on compute capability 9.0: rules read off measurements on an H200, of five models' layers at batch 256 and 1
    (benchmarks/results/nvidia-h200): in the sum over the layers 0 to 3 % above the best of 6 to 16 configurations, the 1x1 at batch 256
    10 %, mostly where the library runs it."""
    if isinstance(shape, GateShape):
        one = shape.channels <= 128
        return GateConfig(16, 64, 64, 32, 4, 2, 1) if one else GateConfig(16, 256, 32, 32, 4, 2, 2)
    if isinstance(shape, DirectShape):
        return Config(256 if shape.rows > 16 * SMALL_ROWS else 64, 32, 32, 4, 1)
    small = shape.rows <= SMALL_ROWS
    if isinstance(shape, GroupedShape):
        width, pixels = shape.group_width, shape.height * shape.width
        if not small:
            rows = 64 if shape.pool and pixels <= 64 else 128  # sums are of tiles within an image
            return Config(rows, 128, *((16, 4, 4) if width == 8 else (32, 4, 4) if width <= 32 else (64, 4, 3)))
        if width == 8:
            return Config(32, 128, 16, 2, 4) if shape.rows <= 256 else Config(64 if shape.rows <= 1024 else 128, 128, 16, 4, 4)
        if shape.rows <= 64:
            return Config(16, 32, 32, 1, 5) if width <= 32 else Config(16, 16, 64, 2, 5) if width <= 64 else Config(32, 64, 64, 4, 4)
        if width <= 32:
            return Config(64 if shape.rows <= 1024 else 128, 128, 32, 4, 4)
        return Config(16, 16, 64, 2, 5) if shape.rows <= 256 and width <= 64 else Config(64, 64, 64, 4, 4)
    k = max(shape.k, shape.k2)
    if not small:
        if shape.gated:
            wide = cut_columns(shape.o, 256).wide < 256  # the compiler spills at 128 x 256
            return Config(128, 128, 32, 4, 4) if k <= 256 else Config(128, 256, 64, 8, 3) if wide else Config(128, 128, 64, 8, 3)
        return Config(128, 128, 32, 4, 4) if k <= 128 or shape.k2 and k <= 256 else Config(128, 128, 64, 4, 3)
    if shape.rows <= 64:
        return Config(16, 128, 64, 4, 4) if shape.gated and k > 2000 else Config(16, 32 if shape.gated or shape.k2 else 16, 128, 2, 4)
    if shape.gated:
        return (Config(16, 128, 64, 4, 4) if k > 1000 else Config(16, 64, 128, 4, 3)) if shape.rows <= 1024 else Config(32, 128, 64, 4, 4)
    if shape.o >= 1.5 * k and shape.rows > 256:
        return Config(64, 64, 64, 4, 4)
    return Config(64, 32, 64, 4, 4)


def neighbours(card: Machine, dtype: torch.dtype, shape: Shape, config: Config | GateConfig) -> list[Config | GateConfig]:
    """Configurations one step from `config` that fit the card: what a tuner tries, most telling field first."""
    half = dtype.itemsize == HALF
    if isinstance(shape, GateShape):
        steps = {"launches": (1, 2), "depth": (64, 128, 256, 512), "units": (16, 32, 64), "columns": (16, 32, 64), "warps": (2, 4, 8)}
    elif isinstance(shape, ExpandShape):
        steps = {"launches": (1, 2), "lines": (8, 16, 32, 64), "parts": (1, 2, 4), "warps": (2, 4, 8), "stages": (1, 2, 3, 4),
                 "rows": (16, 32, 64, 128), "across": (1, 2, 4, 8, 16, 32, 64, 128), "depth": (16, 32, 64, 128)}
    elif isinstance(shape, DirectShape):
        steps = {"rows": (16, 32, 64, 128, 256), "columns": (32, 64), "warps": (2, 4, 8), "depth": (16, 32)}
    else:
        steps = {"rows": (16, 32, 64, 128, 256) if half else (16, 32, 64, 128), "warps": (1, 2, 4, 8), "stages": (1, 2, 3, 4, 5, 6),
                 "depth": (16, 32, 64, 128) if half else (16, 32, 64), "columns": (16, 32, 64, 128, 256) if half else (32, 64, 128)}
    found = []
    for name, values in steps.items():
        at = values.index(getattr(config, name))
        found += [config._replace(**{name: value}) for value in (*values[at + 1:at + 2], *values[max(at - 1, 0):at])]
    return [one for one in found if _fits(card, dtype, shape, one)]


def _fits(card: Machine, dtype: torch.dtype, shape: Shape, config: Config | GateConfig) -> bool:
    """Within shared memory and the registers of a program's threads, roughly; the compiler has the last word."""
    if isinstance(shape, GateShape):
        return True
    if isinstance(shape, ExpandShape):
        images = config.rows // config.across
        return (images > 0 and images * shape.height_in * shape.width_in * max(shape.k, shape.channels) < 1 << 31
                and config.rows * config.side * config.parts <= 1024 * config.warps
                and config.stages * _expand_step(shape, config, dtype) <= card.shared_memory)
    outputs = group_span(shape.group_width, shape.channels) if isinstance(shape, GroupedShape) else shape.o
    width = cut_columns(outputs, config.columns).width
    gated = isinstance(shape, PointwiseShape) and shape.gated
    step = (config.rows * (2 if gated else 1) + width) * config.depth * dtype.itemsize
    return config.rows * width <= config.warps * 128 * 32 and config.stages * step <= card.shared_memory


@cache
def _pointwise(card: Machine, dtype: torch.dtype, rows: int, k: int, o: int, gated: bool) -> Config:
    allowed = limits(card, dtype)
    depths = [size for size in allowed.depths if not gated or size <= allowed.gated_depth]
    depth = min(depths, key=lambda size: -(-k // size) * (size + 8))
    return _finish(card, dtype, _rows(card, allowed, rows, 0, cut_columns(o, allowed.columns).tiles), allowed.columns, o, depth,
                   allowed.stages, gated)


@cache
def _direct(card: Machine, dtype: torch.dtype, rows: int, depth: int, o: int) -> Config:
    allowed = limits(card, dtype)._replace(rows=(64, 32, 16))  # a gather of single elements takes registers
    columns = min(allowed.columns, 64)
    chosen = next((size for size in (16, 32) if depth <= size), 32)
    return _finish(card, dtype, _rows(card, allowed, rows, 0, cut_columns(o, columns).tiles), columns, o, chosen, 1)


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
    allowed = limits(card, dtype)
    warps = 8 if rows * width > 4 * allowed.warp_elements else 4
    while warps > 1 and rows * width < warps * allowed.least_warp_elements:
        warps //= 2
    # With more threads than 16-byte pieces of a tile, each would load less than 16 bytes at once.
    warps = max(1, min(warps, rows * depth * dtype.itemsize // (16 * 32)))
    step = (rows * (2 if gated else 1) + width) * depth * dtype.itemsize
    while stages > 1 and stages * step > card.shared_memory * 0.9:
        stages -= 1
    return Config(rows, columns, depth, warps, stages)


@cache
def _expand_or_not(card: Machine, dtype: torch.dtype, shape: ExpandShape, asked: str) -> ExpandConfig:
    """asked: the precision, which `fusion.estimate` looks up for itself; an argument so that no result outlives a change of it."""
    from .fusion import estimate

    config = expand_config(card, dtype, shape)
    return config if estimate(card, dtype, shape, config).gains else config._replace(launches=2)


def expand_config(card: Machine, dtype: torch.dtype, shape: ExpandShape) -> ExpandConfig:
    """The fused kernel's, for a shape that `fusion.why_not` takes. Accumulators of more than 16 registers a thread spill (three lines'
    sums, the 1x1's and its rounded result live at once); wgmma, which leaves operands in shared memory, takes them in 64 rows."""
    half = dtype.itemsize == HALF
    side = max(16, 1 << (shape.group_width - 1).bit_length())
    rows = (64 if side <= 32 or card.arch == "sm_90" and side == 64 else 32) if half else 16
    warps = 4 if rows * side <= 64 * 32 else 8
    span = side // shape.group_width * shape.group_width
    parts = 2 if half and side == 16 and shape.channels > span else 1
    sizes = [size for size in (64, 32, 16, 8, 4, 2, 1) if size <= rows]
    sizes = [size for size in sizes if rows // size * shape.height_in * shape.width_in * max(shape.k, shape.channels) < 1 << 31] or [rows]
    across = min(sizes, key=lambda size: -(-shape.width // size) * size * -(-max(shape.images, 1) * size // rows) * (rows // size))
    depth = min((128 if half else 32), max(16, 1 << (shape.k - 1).bit_length()))
    config = ExpandConfig(rows, across, 8, side, parts, depth, warps, 2)
    while config.depth > 16 and config.stages * _expand_step(shape, config, dtype) > card.shared_memory * 0.45:  # two programs at once
        config = config._replace(depth=config.depth // 2)

    def time(lines):
        programs, turns = expand_programs(shape, config._replace(lines=lines))
        return -(-programs // (2 * card.multiprocessors)) * (turns + 1)

    return config._replace(lines=min((8, 16, 32, 64), key=time))


def expand_programs(shape: ExpandShape, config: ExpandConfig) -> tuple[int, int]:
    """(programs of a launch, lines that each goes through)."""
    span = config.side // shape.group_width * shape.group_width
    tiles = -(-shape.channels // (span * config.parts)) * -(-shape.width // config.across)
    programs = -(-shape.images // (config.rows // config.across)) * -(-shape.height // config.lines) * tiles
    return programs, min(config.lines, shape.height) + (2 if shape.stride == 1 else 1)


def _expand_step(shape: ExpandShape, config: ExpandConfig, dtype: torch.dtype) -> int:
    """Bytes that a step loads."""
    products, outputs = (1 if shape.stride == 1 else 2), config.side * config.parts
    return (products * (config.rows + outputs) * config.depth + 3 * outputs * config.side) * dtype.itemsize

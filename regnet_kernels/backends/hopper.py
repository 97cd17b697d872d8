"""The grouped 3x3 with Hopper's matrix instructions (csrc/cuda/gconv3x3_wgmma.cuh): which layers it runs, and in which tiles.

A part of the CUDA backend (backends/cuda.py), for float16 and bfloat16 on compute capability 9.0. The tile is chosen here, by an
estimate of a block's clocks; the arithmetic of what a tile needs follows gconv3x3_wgmma_plan.h, which has the last word.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

CAPABILITY = (9, 0)
SHARED = 232448  # bytes that a block may have
SHARED_OF_ALL = 233472  # of a multiprocessor, of which each block takes 1 KiB for the system
MOST_STEPS, MOST_PLACES = 96, 1 << 14
# Of an estimate in clocks of a multiprocessor, fitted to 1,000 times of tiles on an H200 (benchmarks/results/nvidia-h200): the tile that
# it takes for best took 3 % longer than the best one, on average over layers with groups up to 64.
STEP = 54  # a product of 64 rows and 16 inputs, as long as its columns do not take longer
RESULTS = 170  # a warpgroup's results: bias, activation, stores
COPY = 0.38  # starting a copy of 16 bytes
BYTES = 26  # that arrive in a clock
ROUND = 5250  # from one tile of a block to the next: waiting for copies, barriers, first products
ALONE = 1.08  # what a block takes that has nobody to share with


class Tile(NamedTuple):
    """height, width: of the results, in pixels; images: together in a tile, 1 unless it holds whole maps; groups: of a block; stages: 2
    to copy the next tile's halo while one is multiplied."""

    height: int
    width: int
    images: int
    groups: int
    stages: int


class Needs(NamedTuple):
    """What a tile takes. shared: bytes; places: 16-byte places that are copied; products: of 64 rows; steps: of 16 inputs each."""

    shared: int
    weights: int
    places: int
    products: int
    steps: int
    outputs: int


def needs(tile: Tile, group_width: int, stride: int, pool: bool) -> Needs | None:
    """None where a tile does not fit (plan_wgmma)."""
    units = group_width // 8
    parts = -(-units // 8)
    tiles = -(-units // parts)
    steps = -(-9 * units // 2)
    down, across = -(-tile.height // 8), -(-tile.width // 8)
    line = (tile.width - 1) * stride + 3
    plane = ((down * 8 - 1) * stride + 3) * line * tile.images + 8
    plane += (9 - plane % 8) % 8
    real = tile.images * ((tile.height - 1) * stride + 3) * line
    weights, halo = tile.groups * steps * 2 * tiles * 8 * 16, tile.groups * units * plane * 16
    sums = 8 * tile.images * tile.groups * tiles * 8 * 4 if pool else 0
    shared = weights + tile.stages * halo + -(-real * 8 // 16) * 16 + sums
    if shared > SHARED or steps > MOST_STEPS or units * plane >= MOST_PLACES or plane > 16000 or real > 65535:
        return None
    if parts > 1 and tile.groups > 1 or line > 1023 or max(tile.height, tile.width) > 255 or tile.images > 64:
        return None
    return Needs(shared, weights, real * tile.groups * units, tile.groups * tile.images * down * across, steps, tiles * 8)


@cache
def candidates(images: int, height: int, width: int, channels: int, group_width: int, stride: int, pool: bool,
               multiprocessors: int) -> tuple[Tile, ...]:
    """Tiles for a result of `images` maps of height x width, the best by the estimate first; () where none fits."""
    groups_of_all, units = channels // group_width, group_width // 8
    parts = -(-units // 8)
    found = []
    for tile in _tiles(images, height, width, groups_of_all if parts == 1 else 1, group_width):
        need = needs(tile, group_width, stride, pool)
        if need is None:
            continue
        spatial = -(-images // tile.images) * -(-height // tile.height) * -(-width // tile.width)
        slices = -(-groups_of_all // tile.groups) * parts
        together = max(1, min(3 if need.outputs <= 32 else 2, SHARED_OF_ALL // (need.shared + 1024)))  # registers limit it as well
        blocks = max(1, min(spatial, multiprocessors * together // slices))
        waves = -(-slices * blocks // (multiprocessors * together))  # above 1 only where there are more slices than blocks at once
        rounds = -(-spatial // blocks) * waves
        sharing = min(together, -(-slices * blocks // multiprocessors))
        loads = need.places * 16 / BYTES
        work = need.products * (need.steps * max(STEP, need.outputs / 2) + RESULTS) + need.places * COPY
        alone = work + ROUND + (loads if tile.stages == 1 else 0)
        clocks = rounds * max(sharing * max(work, loads), ALONE * alone) + need.weights / BYTES * sharing
        found.append((clocks, tile))
    return tuple(tile for _, tile in sorted(found))


def _tiles(images: int, height: int, width: int, groups: int, group_width: int):
    counts = [count for count in (1, 2, 3, 4, 5, 6, 8) if count <= groups and (count == 1 or count * group_width <= 80)]
    for lines in sorted({min(height, size) for size in (4, 8, 16, 24, height)}):
        for columns in sorted({min(width, size) for size in (8, 16, 24, 32, width)}):
            whole = (lines, columns) == (height, width)
            for together in (1, 2, 3, 4) if whole and lines <= 16 else (1,):
                if together > images:
                    continue
                for count in counts:
                    for stages in (1, 2):
                        yield Tile(lines, columns, together, count, stages)


def tile(images: int, height: int, width: int, channels: int, group_width: int, stride: int, pool: bool,
         multiprocessors: int) -> Tile | None:
    """The best tile by the estimate, None where none fits. height, width: of the result."""
    return next(iter(candidates(images, height, width, channels, group_width, stride, pool, multiprocessors)), None)

"""The grouped 3x3 convolution, padding 1, stride 1 or 2, with bias, activation and the sums for a squeeze, one kernel.

A program computes a tile of output pixels of one group (of two groups when they are 8 wide: one 16-wide tile whose weights
are block-diagonal). The depth of the product is 9 taps x group width, walked in one of two ways:

    by tap   one tap at a time, its channels padded to a multiple of BK: the address of a tap is one number a pixel
    flat     9 x width as one axis, padded once at its end: for widths that BK does not divide, such as 24 or 40

The sums of the squeeze are per tile and channel, written by the one program that has them: no atomics, the same result on
every run. Then tiles do not cross images. Weights: (channels, 3, 3, group width), PyTorch's channels_last.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .epilogue import activate, add_bias, store
from .shapes import GroupedShape
from .tiles import cut_columns

INTS = ["images", "height", "width", "height_out", "width_out", "c8", "image_tiles"]


@triton.jit
def _pixels(rows, pixels_out, width_out, STRIDE: tl.constexpr):
    """(image, top line, left column) of the 3x3 windows of output pixels."""
    image = rows // pixels_out
    pixel = rows - image * pixels_out
    line = pixel // width_out
    return image, line * STRIDE - 1, (pixel - line * width_out) * STRIDE - 1


@triton.jit
def _weights(w, group, columns, tap, channel, there, c_size, GROUP: tl.constexpr, PACKED: tl.constexpr):
    """w[columns, tap, channel] as (depth, columns). PACKED groups of GROUP channels lie on a diagonal, zeros elsewhere."""
    row = (group * (GROUP * PACKED) + columns) * (9 * GROUP)
    wanted = (columns < GROUP * PACKED) & (group * (GROUP * PACKED) + columns < c_size)
    mask = there[:, None] & wanted[None, :]
    if PACKED == 1:
        return tl.load(w + row[None, :] + (tap * GROUP + channel)[:, None], mask=mask, other=0.0)
    else:
        mask = mask & ((channel // GROUP)[:, None] == (columns // GROUP)[None, :])
        return tl.load(w + row[None, :] + (tap * GROUP + channel % GROUP)[:, None], mask=mask, other=0.0)


@triton.jit
def _finish(acc, bias, y, sums, rows, inside, first_channel, columns, c_size, ACTIVATION: tl.constexpr, POOL: tl.constexpr,
            SPAN: tl.constexpr):
    wanted = (columns < SPAN) & (first_channel + columns < c_size)
    acc = activate(add_bias(acc, bias + first_channel, columns, wanted), ACTIVATION)
    store(y, acc, rows[:, None] * c_size + (first_channel + columns)[None, :], inside[:, None] & wanted[None, :])
    if POOL:
        tl.store(sums + first_channel + columns, tl.sum(tl.where(inside[:, None], acc, 0.0), axis=0), mask=wanted)


@triton.jit(do_not_specialize=INTS)
def grouped_kernel(x, w, bias, y, sums, images, height, width, height_out, width_out, c8, image_tiles,
                   GROUP: tl.constexpr, PACKED: tl.constexpr, STRIDE: tl.constexpr, ACTIVATION: tl.constexpr, POOL: tl.constexpr,
                   PRECISION: tl.constexpr, FLAT: tl.constexpr, BM: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
                   TILES: tl.constexpr, BK: tl.constexpr):
    SPAN: tl.constexpr = GROUP * PACKED  # channels of the program's group, or pair of groups
    c_size = c8 * 8
    program = tl.program_id(0)
    programs_a_row_tile = (c_size + SPAN - 1) // SPAN * TILES
    row_tile, part = program // programs_a_row_tile, program % programs_a_row_tile
    group, column_tile = part // TILES, part % TILES
    pixels_out = height_out * width_out
    # Offsets are relative to the first image that the tile touches: 32 bits are enough for them, 64 for the base.
    if POOL:
        first_image = (row_tile // image_tiles).to(tl.int64)
        rows = (row_tile % image_tiles) * BM + tl.arange(0, BM)
        inside = rows < pixels_out
    else:
        first_row = row_tile.to(tl.int64) * BM
        first_image = first_row // pixels_out
        rows = (first_row - first_image * pixels_out).to(tl.int32) + tl.arange(0, BM)
        inside = first_image * pixels_out + rows < images.to(tl.int64) * pixels_out
    image, top, left = _pixels(rows, pixels_out, width_out, STRIDE)
    source = x + first_image * height * width * c_size + group * SPAN
    corner = (image * height + top) * width + left

    columns = column_tile * (WIDE + NARROW) + tl.arange(0, WIDE)
    columns2 = column_tile * (WIDE + NARROW) + WIDE + tl.arange(0, NARROW if NARROW else 8)
    acc = tl.zeros((BM, WIDE), tl.float32)
    narrow = tl.zeros((BM, NARROW if NARROW else 8), tl.float32)
    STEPS_A_TAP: tl.constexpr = (SPAN + BK - 1) // BK
    STEPS: tl.constexpr = (9 * SPAN + BK - 1) // BK if FLAT else 9 * STEPS_A_TAP
    for step in range(STEPS):
        if FLAT:
            depth = step * BK + tl.arange(0, BK)
            tap, channel = depth // SPAN, depth % SPAN
            there = (depth < 9 * SPAN) & (group * SPAN + channel < c_size)
            line, column = top[:, None] + (tap // 3)[None, :], left[:, None] + (tap % 3)[None, :]
            on_map = (line >= 0) & (line < height) & (column >= 0) & (column < width)
            at = (corner[:, None] + ((tap // 3) * width + tap % 3)[None, :]) * c_size + channel[None, :]
            a = tl.load(source + at, mask=on_map & inside[:, None] & there[None, :], other=0.0)
            b_tap = tap
        else:
            tap = step // STEPS_A_TAP
            channel = step % STEPS_A_TAP * BK + tl.arange(0, BK)
            there = (channel < SPAN) & (group * SPAN + channel < c_size)
            line, column = top + tap // 3, left + tap % 3
            on_map = inside & (line >= 0) & (line < height) & (column >= 0) & (column < width)
            at = (corner + (tap // 3) * width + tap % 3) * c_size
            a = tl.load(source + at[:, None] + channel[None, :], mask=on_map[:, None] & there[None, :], other=0.0)
            b_tap = tap
        b = _weights(w, group, columns, b_tap, channel, there, c_size, GROUP, PACKED)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if NARROW:
            b2 = _weights(w, group, columns2, b_tap, channel, there, c_size, GROUP, PACKED)
            narrow = tl.dot(a, b2, narrow, input_precision=PRECISION)

    out = y + first_image * pixels_out * c_size
    tile_sums = sums + row_tile.to(tl.int64) * c_size
    _finish(acc, bias, out, tile_sums, rows, inside, group * SPAN, columns, c_size, ACTIVATION, POOL, SPAN)
    if NARROW:
        _finish(narrow, bias, out, tile_sums, rows, inside, group * SPAN, columns2, c_size, ACTIVATION, POOL, SPAN)


def grouped(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, *, stride: int = 1, activation: int = 0,
            pool: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """activation(grouped 3x3 of x + bias), padding 1 -> (y (N, C, H', W') channels_last, sums).

    x: (N, C, H, W) channels_last; w: (C, 3, 3, g) contiguous, dtype of x, g a multiple of 8; bias: (C,) float32.
    pool: sums is (N, tiles, C) float32, whose sum over the tiles is the sum of y over its pixels; else None.
    """
    n, c, height, width = x.shape
    group_width = w.shape[3]
    height_out, width_out = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = torch.empty((n, c, height_out, width_out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels_out = height_out * width_out
    config = configs.grouped(x.device, x.dtype, GroupedShape(n, height_out, width_out, c, group_width, stride, int(pool)))
    image_tiles = triton.cdiv(pixels_out, config.rows) if pool else 1
    sums = torch.empty((n, image_tiles, c), dtype=torch.float32, device=x.device) if pool else None
    if y.numel() == 0:
        return y, sums
    span = configs.group_span(group_width, c)
    cut = cut_columns(span, config.columns)
    row_tiles = n * image_tiles if pool else triton.cdiv(n * pixels_out, config.rows)
    grouped_kernel[(row_tiles * triton.cdiv(c, span) * cut.tiles,)](
        x, w, bias, y, sums if pool else bias, n, height, width, height_out, width_out, c // 8, image_tiles,
        GROUP=group_width, PACKED=span // group_width, STRIDE=stride, ACTIVATION=activation, POOL=pool, PRECISION=configs.precision(x.dtype),
        FLAT=configs.walk(span, config.depth)[0], BM=config.rows, WIDE=cut.wide, NARROW=cut.narrow, TILES=cut.tiles, BK=config.depth,
        num_warps=config.warps, num_stages=config.stages)
    return y, sums


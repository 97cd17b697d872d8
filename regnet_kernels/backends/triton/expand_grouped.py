"""A block's 1x1 and its grouped 3x3 in one kernel: what the 1x1 makes never reaches memory.

    t = activation(x a^T + a_bias), rounded to x's dtype, zeros around the map
    y = activation(grouped 3x3 of t + b_bias), and the sums for a squeeze

A program owns some columns of the result, of one image or of several side by side, some whole groups of channels, and goes down
`lines` lines of the result. At each line of x it computes t three times, at the columns left of its own, at its own and right of
them: rows of the three products are then the output's pixels, so that t goes on into the 3x3's products from registers, as it is.
Each is multiplied with the three lines of taps, into the sums of three lines of the result (two at stride 2), which move on with
the lines. So t is computed 3 times at stride 1 and 1.5 times at stride 2, times (lines + 2) / lines and (lines + 1) / lines for
the lines where strips meet. What that costs and what it saves is in fusion.py.

The channels of a program are `PARTS` times the groups that fit into `SIDE` channels: of each part the 1x1 is one product, and
its nine taps are SIDE x SIDE matrices with the groups on their diagonal. Sums are per program and image, written once: no atomics.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .epilogue import activate, add_bias, store

INTS = ["images", "height", "width", "height_out", "width_out", "k8", "c8", "tiles", "line_strips", "column_strips",
        "lines"]


@triton.jit
def _pixels(inside, image, line, column, height, width):
    """(offsets in pixels, whether they are on the map) of a line's columns; one that is outside is padding: zeros."""
    lines = line + tl.zeros_like(column)
    return (image * height + lines) * width + column, inside & (lines >= 0) & (lines < height) & (column >= 0) & (column < width)


@triton.jit
def _zeros(ROWS: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr):
    found = ()
    for _ in tl.static_range(PARTS):
        found = found + (tl.zeros((ROWS, SIDE), tl.float32),)
    return found


@triton.jit
def _products(x, a, pixels, valid, k_size, start, first, c_size, acc, PRECISION: tl.constexpr, SPAN: tl.constexpr, SIDE: tl.constexpr,
              PARTS: tl.constexpr, BK: tl.constexpr):
    """acc += x[pixels] a^T over the input channels from `start`, part by part."""
    k, columns = start + tl.arange(0, BK), tl.arange(0, SIDE)
    values = tl.load(x + pixels[:, None] * k_size + k[None, :], mask=valid[:, None] & (k < k_size)[None, :], other=0.0)
    found = ()
    for part in tl.static_range(PARTS):
        channel = first + part * SPAN + columns
        wanted = (columns < SPAN) & (channel < c_size)
        w = tl.load(a + channel[None, :] * k_size + k[:, None], mask=wanted[None, :] & (k < k_size)[:, None], other=0.0)
        found = found + (tl.dot(values, w, acc[part], input_precision=PRECISION),)
    return found


@triton.jit
def _expand(x, a, a_bias, pixels, valid, k_size, first, c_size, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, SPAN: tl.constexpr,
            ROWS: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr, BK: tl.constexpr, ONCE: tl.constexpr):
    """t at `pixels`, zeros where not `valid`, as a tuple of its parts (ROWS, SIDE). ONCE: all of K is one step."""
    columns = tl.arange(0, SIDE)
    acc = _zeros(ROWS, SIDE, PARTS)
    if ONCE:
        acc = _products(x, a, pixels, valid, k_size, 0, first, c_size, acc, PRECISION, SPAN, SIDE, PARTS, BK)
    else:
        for start in range(0, k_size, BK):
            acc = _products(x, a, pixels, valid, k_size, start, first, c_size, acc, PRECISION, SPAN, SIDE, PARTS, BK)
    found = ()
    for part in tl.static_range(PARTS):
        channel = first + part * SPAN + columns
        value = activate(add_bias(acc[part], a_bias, channel, (columns < SPAN) & (channel < c_size)), ACTIVATION)
        found = found + (tl.where(valid[:, None], value, 0.0).to(x.dtype.element_ty),)
    return found


@triton.jit
def _taps(t, b, acc, tap, first, c_size, GROUP: tl.constexpr, SPAN: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr,
          PRECISION: tl.constexpr):
    """acc += t (one tap of the 3x3), part by part: groups of GROUP channels on the diagonal of SIDE x SIDE, zeros elsewhere."""
    inner, outer = tl.arange(0, SIDE), tl.arange(0, SIDE)
    found = ()
    for part in tl.static_range(PARTS):
        channel = first + part * SPAN + outer
        wanted = (outer < SPAN) & (channel < c_size)
        mask = (inner < SPAN)[:, None] & wanted[None, :]
        if SPAN > GROUP:
            mask = mask & ((inner // GROUP)[:, None] == (outer // GROUP)[None, :])
        w = tl.load(b + (channel * (9 * GROUP))[None, :] + (tap * GROUP + inner % GROUP)[:, None], mask=mask, other=0.0)
        found = found + (tl.dot(t[part], w, acc[part], input_precision=PRECISION),)
    return found


@triton.jit
def _store_line(acc, total, b_bias, y, pixels, inside, first, c_size, ACTIVATION: tl.constexpr, POOL: tl.constexpr, SPAN: tl.constexpr,
                ACROSS: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr):
    """Bias, activation, the store of a line of the result; total + the line's sums where they are wanted."""
    columns = tl.arange(0, SIDE)
    found = ()
    for part in tl.static_range(PARTS):
        channel = first + part * SPAN + columns
        wanted = (columns < SPAN) & (channel < c_size)
        value = activate(add_bias(acc[part], b_bias, channel, wanted), ACTIVATION)
        store(y, value, pixels[:, None] * c_size + channel[None, :], inside[:, None] & wanted[None, :])
        if POOL:
            value = tl.reshape(tl.where(inside[:, None], value, 0.0), (value.shape[0] // ACROSS, ACROSS, SIDE))
            found = found + (total[part] + tl.sum(value, axis=1),)
    return found


@triton.jit(do_not_specialize=INTS)
def expand_grouped_kernel(x, a, a_bias, b, b_bias, y, sums, images, height, width, height_out, width_out, k8, c8, tiles, line_strips,
                          column_strips, lines,
                          GROUP: tl.constexpr, SPAN: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr, STRIDE: tl.constexpr,
                          ACTIVATION: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, ACROSS: tl.constexpr,
                          BK: tl.constexpr, ONCE: tl.constexpr):
    k_size, c_size = k8 * 8, c8 * 8
    program = tl.program_id(0)
    first = program % tiles * (PARTS * SPAN)  # neighbours share the pixels, which are then in the L2 cache
    place = program // tiles
    line_strip, place = place % line_strips, place // line_strips
    column_strip, image_tile = place % column_strips, place // column_strips
    # Offsets are relative to the first image that the tile touches: 32 bits are enough for them, 64 for the base.
    IMAGES: tl.constexpr = BM // ACROSS
    first_image = image_tile.to(tl.int64) * IMAGES
    rows = tl.arange(0, BM)
    image, column = rows // ACROSS, column_strip * ACROSS + rows % ACROSS
    inside = (image < images - first_image) & (column < width_out)
    source = x + first_image * height * width * k_size
    out = y + first_image * height_out * width_out * c_size
    out_pixels = image * height_out * width_out + column

    first_line = line_strip * lines
    last_line = tl.minimum(first_line + lines, height_out)
    top = _zeros(BM, SIDE, PARTS)  # the sums of the line of the result that is finished next, and of those below it
    middle = _zeros(BM, SIDE, PARTS)
    bottom = _zeros(BM, SIDE, PARTS if STRIDE == 1 else 0)
    total = _zeros(IMAGES, SIDE, PARTS if POOL else 0)
    first_at = first_line - 1
    for step in range(3 * (last_line - first_at + (1 if STRIDE == 1 else 0))):
        at, dx = first_at + step // 3, step % 3
        if STRIDE == 1:  # `at` is a line of x, and the last of what the line above it in the result takes
            pixels, valid = _pixels(inside, image, at, column + (dx - 1), height, width)
            t = _expand(source, a, a_bias, pixels, valid, k_size, first, c_size, ACTIVATION, PRECISION, SPAN, BM, SIDE, PARTS, BK, ONCE)
            top = _taps(t, b, top, 6 + dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
            middle = _taps(t, b, middle, 3 + dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
            bottom = _taps(t, b, bottom, dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
        else:  # `at` is a line of the result, which takes lines 2 at and 2 at + 1 of x; the line before those was the last turn's
            pixels, valid = _pixels(inside, image, 2 * at, 2 * column + (dx - 1), height, width)
            t = _expand(source, a, a_bias, pixels, valid, k_size, first, c_size, ACTIVATION, PRECISION, SPAN, BM, SIDE, PARTS, BK, ONCE)
            top = _taps(t, b, top, 3 + dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
            pixels, valid = _pixels(inside, image, 2 * at + 1, 2 * column + (dx - 1), height, width)
            t = _expand(source, a, a_bias, pixels, valid, k_size, first, c_size, ACTIVATION, PRECISION, SPAN, BM, SIDE, PARTS, BK, ONCE)
            top = _taps(t, b, top, 6 + dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
            middle = _taps(t, b, middle, dx, first, c_size, GROUP, SPAN, SIDE, PARTS, PRECISION)
        if dx == 2:
            lines_out = at - (1 if STRIDE == 1 else 0) + tl.zeros_like(column)
            total = _store_line(top, total, b_bias, out, out_pixels + lines_out * width_out, inside & (lines_out >= first_line), first,
                                c_size, ACTIVATION, POOL, SPAN, ACROSS, SIDE, PARTS)
            top = middle
            middle = bottom if STRIDE == 1 else _zeros(BM, SIDE, PARTS)
            bottom = _zeros(BM, SIDE, PARTS if STRIDE == 1 else 0)

    if POOL:
        strip = (first_image * column_strips + column_strip) * line_strips + line_strip
        _store_sums(total, sums + strip * c_size, images - first_image, column_strips * line_strips, first, c_size, SPAN, IMAGES, SIDE,
                    PARTS)


@triton.jit
def _store_sums(total, sums, images, strips, first, c_size, SPAN: tl.constexpr, IMAGES: tl.constexpr, SIDE: tl.constexpr,
                PARTS: tl.constexpr):
    image, columns = tl.arange(0, IMAGES), tl.arange(0, SIDE)
    for part in tl.static_range(PARTS):
        channel = first + part * SPAN + columns
        wanted = (columns < SPAN) & (channel < c_size)
        at = (image * strips * c_size)[:, None] + channel[None, :]
        tl.store(sums + at, total[part], mask=(image < images)[:, None] & wanted[None, :])


def expand_grouped(x: torch.Tensor, a: torch.Tensor, a_bias: torch.Tensor, b: torch.Tensor, b_bias: torch.Tensor, config, *,
                   stride: int = 1, activation: int = 0, pool: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """activation(grouped 3x3 of t + b_bias), padding 1, with t = activation(1x1 of x + a_bias) -> (y (N, C, H', W'), sums).

    x: (N, K, H, W) channels_last; a: (C, K) contiguous, dtype of x; b: (C, 3, 3, g) contiguous, dtype of x, g a multiple of 8 that
    `fusion.why_not` takes; a_bias, b_bias: (C,) float32; config: a configs.ExpandConfig.
    pool: sums is (N, tiles, C) float32, whose sum over the tiles is the sum of y over its pixels; else None.
    """
    n, k, height, width = x.shape
    c, group_width = b.shape[0], b.shape[3]
    height_out, width_out = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = torch.empty((n, c, height_out, width_out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    column_strips, line_strips = triton.cdiv(width_out, config.across), triton.cdiv(height_out, config.lines)
    sums = torch.empty((n, column_strips * line_strips, c), dtype=torch.float32, device=x.device) if pool else None
    if y.numel() == 0:
        return y, sums
    span = config.side // group_width * group_width
    tiles = triton.cdiv(c, span * config.parts)
    grid = (triton.cdiv(n, config.rows // config.across) * column_strips * line_strips * tiles,)
    expand_grouped_kernel[grid](
        x, a, a_bias, b, b_bias, y, sums if pool else b_bias, n, height, width, height_out, width_out, k // 8, c // 8, tiles, line_strips,
        column_strips, config.lines,
        GROUP=group_width, SPAN=span, SIDE=config.side, PARTS=config.parts, STRIDE=stride, ACTIVATION=activation, POOL=pool,
        PRECISION=configs.precision(x.dtype), BM=config.rows, ACROSS=config.across, BK=config.depth, ONCE=k <= config.depth,
        num_warps=config.warps, num_stages=config.stages)
    return y, sums

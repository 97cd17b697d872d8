"""A dense convolution of any kernel size on an image of any strides: the stem, from 3 (or any) channels.

The image is read where it lies, NCHW or channels_last, floating or uint8; a uint8 image is normalised on the way,
(x - mean[c]) * scale[c], and padded with zeros after that, as in training. The depth kernel x kernel x channels is one
axis. Weights: (O, K'), K ordered (kh, kw, ci), each row zero-filled to a multiple of 8.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .epilogue import activate, add_bias, store
from .shapes import DirectShape
from .tiles import cut_columns, unit

INTS = ["images", "height", "width", "height_out", "width_out", "row_units", "o_units", "tiles"]


@triton.jit(do_not_specialize=INTS)
def direct_kernel(x, w, bias, mean, scale, y, images, height, width, height_out, width_out, row_units, o_units, tiles,
                  stride_n, stride_c, stride_h, stride_w,
                  UNIT: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                  NORMALISE: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
                  BM: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr, BK: tl.constexpr):
    o_size, row_stride = o_units * UNIT, row_units * 8
    program = tl.program_id(0)
    row_tile, column_tile = program // tiles, program % tiles
    pixels_out = height_out * width_out
    first_row = row_tile.to(tl.int64) * BM
    first_image = first_row // pixels_out
    rows = (first_row - first_image * pixels_out).to(tl.int32) + tl.arange(0, BM)
    inside = first_image * pixels_out + rows < images.to(tl.int64) * pixels_out
    image = rows // pixels_out
    pixel = rows - image * pixels_out
    top = pixel // width_out * STRIDE - PADDING
    left = pixel % width_out * STRIDE - PADDING
    source = x + first_image * stride_n
    image_at = image.to(tl.int64) * stride_n

    columns = column_tile * (WIDE + NARROW) + tl.arange(0, WIDE)
    columns2 = column_tile * (WIDE + NARROW) + WIDE + tl.arange(0, NARROW if NARROW else 8)
    acc = tl.zeros((BM, WIDE), tl.float32)
    narrow = tl.zeros((BM, NARROW if NARROW else 8), tl.float32)
    DEPTH: tl.constexpr = KERNEL * KERNEL * CHANNELS
    for start in range(0, DEPTH, BK):
        depth = start + tl.arange(0, BK)
        there = depth < DEPTH
        tap, channel = depth // CHANNELS, depth % CHANNELS
        line, column = top[:, None] + (tap // KERNEL)[None, :], left[:, None] + (tap % KERNEL)[None, :]
        mask = (line >= 0) & (line < height) & (column >= 0) & (column < width) & inside[:, None] & there[None, :]
        at = image_at[:, None] + line * stride_h + column * stride_w + (channel * stride_c)[None, :]
        value = tl.load(source + at, mask=mask, other=0).to(tl.float32)
        if NORMALISE:
            shift = tl.load(mean + channel, mask=there, other=0.0)
            factor = tl.load(scale + channel, mask=there, other=0.0)
            value = tl.where(mask, (value - shift[None, :]) * factor[None, :], 0.0)
        a = value.to(w.dtype.element_ty)
        b = tl.load(w + columns[None, :] * row_stride + depth[:, None], mask=(columns < o_size)[None, :] & there[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if NARROW:
            b2 = tl.load(w + columns2[None, :] * row_stride + depth[:, None], mask=(columns2 < o_size)[None, :] & there[:, None], other=0.0)
            narrow = tl.dot(a, b2, narrow, input_precision=PRECISION)

    out = y + first_image * pixels_out * o_size
    wanted = columns < o_size
    acc = activate(add_bias(acc, bias, columns, wanted), ACTIVATION)
    store(out, acc, rows[:, None] * o_size + columns[None, :], inside[:, None] & wanted[None, :])
    if NARROW:
        wanted = columns2 < o_size
        narrow = activate(add_bias(narrow, bias, columns2, wanted), ACTIVATION)
        store(out, narrow, rows[:, None] * o_size + columns2[None, :], inside[:, None] & wanted[None, :])


def direct(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, kernel: int, *, stride: int = 1, padding: int = 0,
           activation: int = 0, normalise: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
    """activation(conv(x) + bias) -> (N, O, H', W') channels_last, of the dtype of w.

    x: (N, C, H, W) of any strides, floating or uint8; w: (O, K') contiguous, K' >= kernel^2 C a multiple of 8; bias: (O,) float32;
    normalise: (mean, scale), float32 (C,) each: (x - mean) * scale is what is convolved.
    """
    n, channels, height, width = x.shape
    o = w.shape[0]
    height_out, width_out = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    y = torch.empty((n, o, height_out, width_out), dtype=w.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    rows = n * height_out * width_out
    config = configs.direct(x.device, w.dtype, DirectShape(n, height_out, width_out, channels, o, kernel, stride))
    cut = cut_columns(o, config.columns)
    mean, scale = normalise or (bias, bias)
    direct_kernel[(triton.cdiv(rows, config.rows) * cut.tiles,)](
        x, w, bias, mean, scale, y, n, height, width, height_out, width_out, w.stride(0) // 8, o // unit(o), cut.tiles, *x.stride(),
        UNIT=unit(o), CHANNELS=channels, KERNEL=kernel, STRIDE=stride, PADDING=padding, NORMALISE=normalise is not None, ACTIVATION=activation,
        PRECISION=configs.precision(w.dtype), BM=config.rows, WIDE=cut.wide, NARROW=cut.narrow, BK=config.depth,
        num_warps=config.warps, num_stages=config.stages)
    return y

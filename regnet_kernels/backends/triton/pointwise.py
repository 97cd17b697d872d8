"""The 1x1 convolution with all that surrounds it, one kernel:

    y = activation((x * gate) w^T + bias + residual)          residual: a tensor, or shortcut ws^T, the projection

Rows are pixels, columns output channels. x: (images, H, W, K) in memory, K a multiple of 8; w: (O, K) as PyTorch stores it.
The projection is a second loop into the same accumulators, on the strided pixels of the block's input: it costs no pass
over memory. Channel counts come in units of 8, so that the compiler knows that 16 bytes of 16-bit numbers can be loaded at
once, whatever the width; one compiled kernel serves every width of the same tile.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .epilogue import activate, add_bias, store
from .shapes import PointwiseShape
from .tiles import cut_columns

INTS = ["pixels_out", "images", "height", "width", "width_out", "k8", "o8", "tiles",
        "shortcut_height", "shortcut_width", "shortcut_k8"]


@triton.jit
def _source(first_image, rows, pixels_out, width_out, height, width, STRIDE: tl.constexpr):
    """Offsets, in pixels from `first_image`'s first, of what the output pixels `rows` read; rows count from there too."""
    if STRIDE == 1:
        return rows
    else:
        image = rows // pixels_out
        pixel = rows - image * pixels_out
        line = pixel // width_out
        return (image * height + line * STRIDE) * width + (pixel - line * width_out) * STRIDE


@triton.jit
def _gate(gate, k, there, k_size, images, last_image, inside, GATE: tl.constexpr):
    """gate[images, k]: for each row its own (GATE 2), or one of two rows' (GATE 1), where all images are 0 or 1: then two vectors are
    loaded instead of a tile as large as the input's. last_image: how many more images there are."""
    if GATE == 2:
        return tl.load(gate + images[:, None] * k_size + k[None, :], mask=inside[:, None] & there[None, :], other=0.0)
    first = tl.load(gate + k, mask=there, other=0.0)
    second = tl.load(gate + k_size + k, mask=k < (k_size if last_image > 0 else 0), other=0.0)
    return tl.where(images[:, None] > 0, second[None, :], first[None, :])


@triton.jit
def _accumulate(acc, narrow, x, pixels, inside, w, k_size, columns, columns2, o_size, gate, images, last_image, GATE: tl.constexpr,
                NARROW: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """acc, narrow += (x[pixels] * gate[images]) w[columns, columns2]^T, `BK` input channels at a time."""
    for start in range(0, k_size, BK):
        k = start + tl.arange(0, BK)
        there = k < k_size
        a = tl.load(x + pixels[:, None] * k_size + k[None, :], mask=inside[:, None] & there[None, :], other=0.0)
        if GATE:
            factor = _gate(gate, k, there, k_size, images, last_image, inside, GATE)
            if gate.dtype == x.dtype and x.dtype.element_ty == tl.float16:
                a = a * factor  # rounds once, as the product in float32 would
            else:
                a = (a.to(tl.float32) * factor.to(tl.float32)).to(x.dtype.element_ty)
        b = tl.load(w + columns[None, :] * k_size + k[:, None], mask=(columns < o_size)[None, :] & there[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if NARROW:
            b2 = tl.load(w + columns2[None, :] * k_size + k[:, None], mask=(columns2 < o_size)[None, :] & there[:, None], other=0.0)
            narrow = tl.dot(a, b2, narrow, input_precision=PRECISION)
    return acc, narrow


@triton.jit
def _finish(acc, bias, residual, y, rows, inside, columns, o_size, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr):
    wanted = columns < o_size
    acc = add_bias(acc, bias, columns, wanted)
    offsets, mask = rows[:, None] * o_size + columns[None, :], inside[:, None] & wanted[None, :]
    if RESIDUAL:
        acc += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    store(y, activate(acc, ACTIVATION), offsets, mask)


@triton.jit(do_not_specialize=INTS)
def pointwise_kernel(x, w, bias, gate, residual, shortcut, w_shortcut, y,
                     images, pixels_out, width_out, height, width, k8, o8, tiles, shortcut_height, shortcut_width, shortcut_k8,
                     STRIDE: tl.constexpr, SHORTCUT_STRIDE: tl.constexpr, GATE: tl.constexpr, RESIDUAL: tl.constexpr,
                     PROJECTION: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
                     BM: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr, BK: tl.constexpr):
    program = tl.program_id(0)
    row_tile, column_tile = program // tiles, program % tiles  # neighbours share the pixels, which are then in the L2 cache
    # Offsets are relative to the first image that the tile touches: 32 bits are enough for them, 64 for the base.
    first_row = row_tile.to(tl.int64) * BM
    first_image = first_row // pixels_out
    skipped = (first_row - first_image * pixels_out).to(tl.int32)
    rows = skipped + tl.arange(0, BM)
    inside = first_image * pixels_out + rows < images.to(tl.int64) * pixels_out
    k_size, o_size = k8 * 8, o8 * 8
    columns = column_tile * (WIDE + NARROW) + tl.arange(0, WIDE)
    columns2 = column_tile * (WIDE + NARROW) + WIDE + tl.arange(0, NARROW if NARROW else 8)
    acc = tl.zeros((BM, WIDE), tl.float32)
    narrow = tl.zeros((BM, NARROW if NARROW else 8), tl.float32)

    pixels = _source(first_image, rows, pixels_out, width_out, height, width, STRIDE)
    acc, narrow = _accumulate(acc, narrow, x + first_image * height * width * k_size, pixels, inside, w, k_size, columns, columns2,
                              o_size, gate + first_image * k_size, rows // pixels_out, images - 1 - first_image, GATE, NARROW, BK,
                              PRECISION)
    if PROJECTION:
        s_size = shortcut_k8 * 8
        pixels = _source(first_image, rows, pixels_out, width_out, shortcut_height, shortcut_width, SHORTCUT_STRIDE)
        acc, narrow = _accumulate(acc, narrow, shortcut + first_image * shortcut_height * shortcut_width * s_size, pixels, inside,
                                  w_shortcut, s_size, columns, columns2, o_size, gate, rows, 0, 0, NARROW, BK, PRECISION)

    at = first_image * pixels_out * o_size
    _finish(acc, bias, residual + at, y + at, rows, inside, columns, o_size, RESIDUAL, ACTIVATION)
    if NARROW:
        _finish(narrow, bias, residual + at, y + at, rows, inside, columns2, o_size, RESIDUAL, ACTIVATION)


def pointwise(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, *, stride: int = 1, activation: int = 0,
              gate: torch.Tensor | None = None, residual: torch.Tensor | None = None, shortcut: torch.Tensor | None = None,
              w_shortcut: torch.Tensor | None = None, shortcut_stride: int = 1) -> torch.Tensor:
    """activation((x * gate) conv w + bias + residual + shortcut conv w_shortcut) -> (N, O, H', W'), channels_last.

    x: (N, K, H, W) channels_last; w: (O, K) contiguous, dtype of x; bias: (O,) float32; gate: (N, K) contiguous, any floating
    dtype; residual: like the result; shortcut: (N, K2, H2, W2) channels_last with w_shortcut (O, K2), read with shortcut_stride.
    K, K2 and O are multiples of 8.
    """
    n, k, height, width = x.shape
    o = w.shape[0]
    height_out, width_out = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = torch.empty((n, o, height_out, width_out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    rows = n * height_out * width_out
    projected = shortcut is not None
    config = configs.pointwise(x.device, x.dtype, PointwiseShape(
        n, height_out, width_out, k, o, stride, int(gate is not None), int(residual is not None), shortcut.shape[1] if projected else 0,
        shortcut_stride if projected else 1))
    cut = cut_columns(o, config.columns)
    _, k2, height2, width2 = shortcut.shape if projected else (0, 8, 1, 1)
    grid = (triton.cdiv(rows, config.rows) * cut.tiles,)
    gated = 0 if gate is None else 1 if height_out * width_out >= config.rows else 2  # a tile touches two images at most, or more
    pointwise_kernel[grid](
        x, w, bias, x if gate is None else gate, x if residual is None else residual, shortcut if projected else x,
        w_shortcut if projected else w, y,
        n, height_out * width_out, width_out, height, width, k // 8, o // 8, cut.tiles, height2, width2, k2 // 8,
        STRIDE=stride, SHORTCUT_STRIDE=shortcut_stride, GATE=gated, RESIDUAL=residual is not None, PROJECTION=projected,
        ACTIVATION=activation, PRECISION=configs.precision(x.dtype), BM=config.rows, WIDE=cut.wide, NARROW=cut.narrow, BK=config.depth,
        num_warps=config.warps, num_stages=config.stages)
    return y

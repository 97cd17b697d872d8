"""Sums over pixels: one partial sum per tile and channel, or the mean of each map, in a fixed order."""

import torch
import triton
import triton.language as tl

from . import configs
from .tiles import unit


@triton.jit(do_not_specialize=["pixels", "units", "span", "tiles"])
def pool_kernel(x, y, pixels, units, span, tiles, scale, UNIT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """y[image, tile, c] = scale * sum of x[image, pixel, c] over the `span` pixels of the tile."""
    tile, image = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    channels = units * UNIT
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    wanted = channel < channels
    source = x + image * pixels * channels
    stop = tl.minimum((tile + 1) * span, pixels)
    total = tl.zeros((BP, BC), tl.float32)
    for start in range(tile * span, stop, BP):
        pixel = start + tl.arange(0, BP)
        mask = (pixel < stop)[:, None] & wanted[None, :]
        total += tl.load(source + pixel[:, None] * channels + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    result = tl.sum(total, axis=0) * scale
    tl.store(y + (image * tiles + tile) * channels + channel, result.to(y.dtype.element_ty), mask=wanted)


def partial_sums(x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) channels_last -> (N, tiles, C) float32, whose sum over the tiles is the sum over H and W."""
    pixels = x.shape[2] * x.shape[3]
    tiles = triton.cdiv(pixels, configs.POOL.span)
    return _pool(x, torch.float32, tiles, 1.0)


def mean(x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) channels_last -> (N, C), the mean over H and W, dtype of x."""
    return _pool(x, x.dtype, 1, 1.0 / (x.shape[2] * x.shape[3]))[:, 0]


def _pool(x, dtype, tiles, scale):
    n, c, height, width = x.shape
    y = torch.empty((n, tiles, c), dtype=dtype, device=x.device)
    if y.numel():
        pixels = height * width
        grid = (n * tiles, triton.cdiv(c, configs.POOL.columns))
        pool_kernel[grid](x, y, pixels, c // unit(c), triton.cdiv(pixels, tiles), tiles, scale, UNIT=unit(c), BP=configs.POOL.rows,
                          BC=configs.POOL.columns, num_warps=configs.POOL.warps)
    return y

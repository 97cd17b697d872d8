"""x times a gate per image and channel: the last part of a squeeze-excite that stands alone."""

import torch
import triton
import triton.language as tl

from . import configs
from .tiles import unit


@triton.jit(do_not_specialize=["pixels", "units", "tiles"])
def scale_kernel(x, gate, y, pixels, units, tiles, UNIT: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    tile, image = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    channels = units * UNIT
    pixel = tile * BP + tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = image * pixels * channels + pixel[:, None] * channels + channel[None, :]
    factor = tl.load(gate + image * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * factor[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


def scale(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) channels_last; gate: (N, C) contiguous -> like x."""
    n, c, height, width = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel():
        tiles = triton.cdiv(height * width, configs.SCALE.rows)
        grid = (n * tiles, triton.cdiv(c, configs.SCALE.columns))
        scale_kernel[grid](x, gate, y, height * width, c // unit(c), tiles, UNIT=unit(c), BP=configs.SCALE.rows, BC=configs.SCALE.columns,
                           num_warps=configs.SCALE.warps)
    return y

"""Random problems of given shapes, scaled so that activations stay near 1 as they do behind a BatchNorm."""

from __future__ import annotations

import torch

from ..steps import BlockStep
from .shapes import BlockShape, ConvShape, SeShape


def make_conv(shape: ConvShape, dtype: torch.dtype, device: str = "cpu", seed: int = 0, activation: str = "relu",
              residual: bool = False, gate: bool = False) -> tuple[tuple, dict]:
    """Arguments (x, weight, bias) and keyword arguments for `conv_bn_act`."""
    new = _Normal(seed, device)
    n, c, out, h, w, k, stride, groups = shape
    x = new(n, c, h, w).to(dtype)
    weight = new(out, c // groups, k, k, fan_in=c // groups * k * k).to(dtype)
    kwargs = {"stride": stride, "groups": groups, "activation": activation}
    if residual:
        side = [(size + 2 * (k // 2) - k) // stride + 1 for size in (h, w)]
        kwargs["residual"] = new(n, out, *side).to(dtype)
    if gate:
        kwargs["gate"] = torch.sigmoid(new(n, c))
    return (x, weight, new(out)), kwargs


def make_squeeze_excite(shape: SeShape, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple:
    """Arguments (x, w1, b1, w2, b2) for `squeeze_excite`."""
    new = _Normal(seed, device)
    n, c, squeeze, h, w = shape
    return (new(n, c, h, w).to(dtype), *_squeeze_weights(new, c, squeeze))


def make_block(shape: BlockShape, dtype: torch.dtype, device: str = "cpu", seed: int = 0,
               activation: str = "relu") -> tuple[torch.Tensor, BlockStep]:
    """x in `dtype` and the block's float32 step."""
    new = _Normal(seed, device)
    n, c, mid, out, width, squeeze, stride, proj, h, w = shape
    step = BlockStep(
        a=(new(mid, c, 1, 1, fan_in=c), new(mid)), b=(new(mid, width, 3, 3, fan_in=9 * width), new(mid)),
        c=(new(out, mid, 1, 1, fan_in=mid), new(out)), proj=(new(out, c, 1, 1, fan_in=c), new(out)) if proj else None,
        se=_squeeze_weights(new, mid, squeeze) if squeeze else None, stride=stride, group_width=width, activation=activation)
    return new(n, c, h, w).to(dtype), step


def _squeeze_weights(new: "_Normal", c: int, squeeze: int) -> tuple:
    return (new(squeeze, c, fan_in=c), new(squeeze), new(c, squeeze, fan_in=squeeze), new(c))


class _Normal:
    """N(0, 1), or N(0, 2 / fan_in), of its own seed: no global random state is touched."""

    def __init__(self, seed: int, device: str):
        self.generator, self.device = torch.Generator().manual_seed(seed), device

    def __call__(self, *shape: int, fan_in: int = 0) -> torch.Tensor:
        scale = (2.0 / fan_in) ** 0.5 if fan_in else 1.0
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device)

"""The mean and the standard deviation by which uint8 images are normalised, as a fused stem takes them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regnet.swap.refusal import SwapError


class Pixels(NamedTuple):
    """(x / 255 - mean) / std, one number a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(mean, scale), float32 (C,), for (x - mean) * scale with x from 0 to 255."""
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in self)
        return (255 * mean).float().to(device), (1 / (255 * std)).float().to(device)

    def normalise(self, x: Tensor) -> Tensor:
        """(x / 255 - mean) / std in float64, of images x: (N, C, H, W) uint8."""
        mean, std = (torch.tensor(values, dtype=torch.float64, device=x.device)[:, None, None] for values in self)
        return (x.double() / 255 - mean) / std

    def expect_channels(self, count: int) -> None:
        if len(self.mean) != count:
            raise SwapError(f"mean and std have {len(self.mean)} values, the model takes images of {count} channels; give one a channel")


def read_pixels(mean: Sequence[float] | Tensor | None, std: Sequence[float] | Tensor | None) -> Pixels | None:
    """What `optimize` was given, None for neither. Raises SwapError for what is no mean and standard deviation."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, missing = ("std", "mean") if mean is None else ("mean", "std")
        raise SwapError(f"{given} is given without {missing}; uint8 images need both, such as mean=(0.485, 0.456, 0.406), "
                        "std=(0.229, 0.224, 0.225)")
    pixels = Pixels(_numbers("mean", mean), _numbers("std", std))
    if len(pixels.mean) != len(pixels.std):
        raise SwapError(f"mean has {len(pixels.mean)} values, std has {len(pixels.std)}; give one a channel each")
    if wrong := [value for value in pixels.std if value <= 0]:
        raise SwapError(f"std holds {wrong[0]:g}, by which images are divided; it must be positive")
    if wrong := [value for value in pixels.mean if abs(value) > 1]:
        raise SwapError(f"mean holds {wrong[0]:g}; mean and std are in units of pixel / 255, as in torchvision: divide both by 255")
    return pixels


def _numbers(name: str, values: Sequence[float] | Tensor) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except TypeError:
        raise SwapError(f"{name} is {values!r}; expected a number for each channel, such as (0.485, 0.456, 0.406)") from None
    if not found or not all(map(math.isfinite, found)):
        raise SwapError(f"{name} is {found}; expected a finite number for each channel")
    return found

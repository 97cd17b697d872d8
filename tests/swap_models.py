"""Small models for the tests of the swap-in: the same weights in every run, BatchNorms that are not the identity."""

from collections.abc import Callable

import regnet
import timm
import torch
import torchvision
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and affine parameters for every BatchNorm (timm starts the last one of a block at 0); eval mode."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=random)
            module.running_var.uniform_(0.5, 2.0, generator=random)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
                nn.init.normal_(module.bias, 0, 0.2, generator=random)
    return model.eval()


def make(build: Callable[..., nn.Module], *args, **kwargs) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(build(*args, **kwargs))


def timm_model(name: str = "regnety_002", **kwargs) -> nn.Module:
    return make(timm.create_model, name, **kwargs)


def torchvision_model(name: str = "regnet_y_400mf", **kwargs) -> nn.Module:
    return make(getattr(torchvision.models, name), **kwargs)


def own_model(name: str = "regnety_200mf", **kwargs) -> nn.Module:
    return make(regnet.create_model, name, **kwargs)


def image(n: int = 2, channels: int = 3, height: int = 64, width: int = 49) -> torch.Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


class Doubled(nn.Module):
    """A user's wrapper around a block."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.block(x)


def assert_close(found, expected, tolerance: float = 1e-5) -> None:
    """Equal structure, and values equal to 1e-5 of the largest: float32 through a few dozen convolutions."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_close(*pair, tolerance)
        return
    assert found.shape == expected.shape and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))

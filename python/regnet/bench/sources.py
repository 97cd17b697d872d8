"""The same RegNet from three libraries: ours, timm's and torchvision's, with weights that make a parity check honest."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from regnet.checkpoints import load_checkpoint
from regnet.models import create_model, find_model

SOURCES = ("timm", "torchvision", "regnet")
WEIGHTS_NOTE = (
    "random weights (seeded): BatchNorm statistics measured on the photographs, then perturbed, with random scales and shifts;"
    " parity and latency are meaningful, the predicted classes are not"
)

_PAPER = re.compile(r"regnet([xy])_(\d+(?:\.\d+)?)(mf|gf)")


def canonical_name(name: str) -> str:
    """The paper's name (`regnety_1.6gf`) of a model named in the paper's, timm's or torchvision's way.

    Raises ValueError if the name is none of them, or if it is timm's name of a torchvision rounding (`regnety_008_tv`).
    """
    if name.endswith("_tv"):
        raise ValueError(f"{name!r} is timm's copy of a torchvision model: use {name[:-3]!r} with the source torchvision")
    return find_model(name)[0].name


def source_name(name: str, source: str) -> str:
    """The name under which `source` ("timm", "torchvision" or "regnet") offers the model."""
    name = canonical_name(name)
    match = _PAPER.fullmatch(name)
    if source == "regnet":
        return name
    if match is None:
        raise ValueError(f"{name} of {source} is not a RegNet X or Y: use the source regnet")
    kind, size, unit = match.groups()
    if source == "timm":
        hundreds = round(float(size) * (10 if unit == "gf" else 0.01))
        return f"regnet{kind}_{hundreds:03d}"
    if source == "torchvision":
        return f"regnet_{kind}_{format(float(size), 'g').replace('.', '_')}{unit}"
    raise ValueError(f"unknown source {source!r}: expected one of {', '.join(SOURCES)}")


def missing_source(source: str) -> str | None:
    """Why a source cannot be used here, or None if it can."""
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}: expected one of {', '.join(SOURCES)}")
    if source != "regnet" and importlib.util.find_spec(source) is None:
        return f"{source} is not installed (pip install 'regnet-kernels[bench]')"
    return None


def build_model(
    name: str,
    source: str = "timm",
    *,
    seed: int = 0,
    calibration: np.ndarray | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """An eval-mode float32 RegNet of `source`.

    With neither `checkpoint` (a file that `load_checkpoint` reads) nor `pretrained`
    (the source's own published weights; needs internet), the weights are random and `calibration` (N, 3, H, W) float32 sets
    the BatchNorm statistics: see `randomize`. Raises ValueError if the source has no such model, ImportError if it is missing.
    """
    if reason := missing_source(source):
        raise ImportError(reason)
    if checkpoint is not None and pretrained:
        raise ValueError("both a checkpoint and pretrained weights were asked for: give one")
    torch.manual_seed(seed)
    model = _create(source_name(name, source), source, pretrained).eval()
    if checkpoint is not None:
        load_checkpoint(checkpoint, model)
    elif not pretrained:
        randomize(model, calibration, seed)
    return model


def randomize(model: nn.Module, calibration: np.ndarray | None, seed: int = 0) -> None:
    """Give every BatchNorm of `model` statistics and affine parameters that a wrong folding could not survive.

    Affine: weight in 0.5..1.5, bias N(0, 0.2). Statistics: those of `calibration` (N, 3, H, W; noise if None) with variances
    scaled by 0.7..1.4 and means moved by N(0, 0.2) deviations, so that activations keep their size through any depth.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0.0, 0.2, generator=generator)
    _measure_statistics(model, norms, _calibration_batch(calibration, generator))
    for norm in norms:
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.2 * deviation * torch.randn(norm.running_mean.shape, generator=generator)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4, generator=generator)


def _calibration_batch(images: np.ndarray | None, generator: torch.Generator) -> torch.Tensor:
    if images is None:
        return torch.randn(8, 3, 64, 64, generator=generator)
    x = torch.from_numpy(images)
    # Mirrored copies with a little noise: at least two different images, as a 1x1 map of a single one has no variance.
    return torch.cat([x, x.flip(-1) + 0.1 * torch.randn(x.shape, generator=generator)])


@torch.no_grad()
def _measure_statistics(model: nn.Module, norms: list[nn.Module], x: torch.Tensor) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        norm.running_var.clamp_(min=1e-3)


def _create(name: str, source: str, pretrained: bool) -> nn.Module:
    if source == "timm":
        import timm

        if name not in timm.list_models("regnet*"):
            raise ValueError(f"timm has no model {name!r}; it has {', '.join(timm.list_models('regnet[xy]*'))}")
        return timm.create_model(name, pretrained=pretrained)
    if source == "torchvision":
        from torchvision import models

        if name not in models.list_models(include="regnet*"):
            raise ValueError(f"torchvision has no model {name!r}; it has {', '.join(models.list_models(include='regnet*'))}")
        return models.get_model(name, weights="DEFAULT" if pretrained else None)
    return create_model(name, pretrained=pretrained)

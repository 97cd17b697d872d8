"""A model by its name."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch

from regnet.errors import ConfigError, WeightsUnavailableError
from regnet.models.anynet import AnyNet
from regnet.models.features import FeatureNet
from regnet.models.registry import find_model, model_config
from regnet.models.weights import load_pretrained

PRETRAINED_CLASSES = 1000


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    widths: Literal["pycls", "torchvision"] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained: bool = False,
    weights_url: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> AnyNet | FeatureNet:
    """Build a published model by the paper's, timm's or torchvision's name (see `find_model`), in training mode.

    num_classes: 0 leaves the classifier out, so that the model gives the pooled features (N, widths[-1]).
    widths: rounding of the group compatibility, "pycls" (the paper's) or "torchvision"; None: the one that the name implies.
    features_only: a FeatureNet, which returns a list of feature maps; out_indices chooses levels, 0 (the stem) to 4.
    pretrained: pycls' ImageNet weights for RGB images, through torch.hub's cache (see `load_pretrained`; weights_url: a mirror). With
        num_classes other than 1000 all but the classifier is loaded, and the classifier is a fresh one.
    device, dtype: of parameters and buffers; device="meta" allocates nothing.

    Raises UnknownModelError, ConfigError, WeightsUnavailableError; with pretrained also what `load_checkpoint` raises.
    """
    config = model_config(name, widths=widths, num_classes=num_classes, in_chans=in_chans)
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices is for features_only=True; leave it out, or ask for features")
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"dtype {dtype} is no floating point type; use torch.float32 or torch.bfloat16")
    if pretrained:
        net = _pretrained(name, config, weights_url)
        if num_classes != PRETRAINED_CLASSES:
            net.reset_classifier(num_classes)
    else:
        with torch.device(device) if device is not None else nullcontext():
            net = AnyNet(config)
    model = FeatureNet(net, out_indices) if features_only else net
    return model.to(device=device, dtype=dtype)


def _pretrained(name, config, weights_url) -> AnyNet:
    model, _ = find_model(name)
    published = model_config(model.name)
    if config.in_chans != published.in_chans:
        raise ConfigError(f"the weights of {model.name} are for {published.in_chans} input channels, not in_chans={config.in_chans}; "
                          "use pretrained=False and load a checkpoint of your own")
    if config.widths != published.widths:
        raise WeightsUnavailableError(
            f"pycls published {model.name} with stage widths {published.widths}, not {config.widths} (torchvision's rounding); "
            "use widths='pycls', or pretrained=False and load_checkpoint with torchvision's file"
        )
    net = AnyNet(replace(config, num_classes=PRETRAINED_CLASSES))
    load_pretrained(net, model, weights_url)
    return net

"""Model names: the paper's, timm's and torchvision's, all to one entry of the table of published models."""

import difflib
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from regnet.errors import ConfigError, UnknownModelError
from regnet.models.config import AnyNetConfig
from regnet.models.named import NAMED_MODELS, NamedModel
from regnet.models.widths import ROUNDINGS

_BY_NAME = {name: (model, "pycls") for model in NAMED_MODELS for name in (model.name, *model.aliases)}
_BY_NAME |= {name: (model, "torchvision") for model in NAMED_MODELS for name in model.torchvision_aliases}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the published models that match a shell pattern such as "regnety*": 12 RegNetX, 12 RegNetY, then ResNe(X)t-50."""
    return [model.name for model in NAMED_MODELS if fnmatchcase(model.name, pattern.lower())]


def find_model(name: str) -> tuple[NamedModel, Literal["pycls", "torchvision"]]:
    """The published model of a name, and the rounding of widths that the name implies.

    Takes the paper's names ("regnety_400mf", "RegNetX-1.6GF", "regnetx_1_6gf"), timm's ("regnety_004"; "regnety_008_tv" implies
    torchvision's rounding) and torchvision's ("regnet_y_400mf", which implies its rounding), in any case.
    Raises UnknownModelError with the nearest names.
    """
    key = str(name).strip().lower().replace("-", "_")
    if key not in _BY_NAME:
        nearest = difflib.get_close_matches(key, _BY_NAME, n=3, cutoff=0.0)
        raise UnknownModelError(f"unknown model {name!r}; did you mean {' or '.join(nearest)}? regnet.list_models() gives all names")
    return _BY_NAME[key]


def model_config(
    name: str, *, widths: Literal["pycls", "torchvision"] | None = None, num_classes: int = 1000, in_chans: int = 3
) -> AnyNetConfig:
    """The configuration of a published model by any of its names.

    widths: the rounding, "pycls" (the paper's) or "torchvision"; None leaves it to the name. Raises UnknownModelError for the
    name and ConfigError for an unknown rounding or one against the name (where it would be another network).
    """
    model, implied = find_model(name)
    if widths is not None and widths not in ROUNDINGS:
        raise ConfigError(f"widths={widths!r} is no rounding; use one of {', '.join(map(repr, ROUNDINGS))}")
    if isinstance(model.config, AnyNetConfig):
        return replace(model.config, num_classes=num_classes, in_chans=in_chans)
    config = model.config.to_anynet(widths or implied)
    if widths == "pycls" and implied == "torchvision" and config.widths != model.config.to_anynet(implied).widths:
        raise ConfigError(f"{name!r} means torchvision's widths, which differ from pycls'; use {model.name!r} for widths='pycls'")
    return replace(config, num_classes=num_classes, in_chans=in_chans)

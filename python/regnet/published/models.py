"""The published models with their errors and V100 times: results.json, which names the sources, as objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from regnet.errors import UnknownModelError

if TYPE_CHECKING:
    from regnet.models.config import AnyNetConfig

FAMILIES = ("RegNetX", "RegNetY", "ResNet", "ResNeXt", "EfficientNet", "mobile")


@dataclass(frozen=True)
class PublishedModel:
    """A row of the paper's tables (arXiv 2003.13678).

    error: top-1 error in per cent. v100_ms: 64 images on a V100, as pycls timed it last; v100_ms_paper: as the paper prints it.
    flops, params, acts: of one image of resolution x resolution, as pycls counts. None where they were not published.
    regnet: name of the model here (of other depths where `depths` is given); timm: name of the model there; neither: only its error
    is known here.
    """

    name: str
    family: str
    resolution: int
    error: float
    regnet: str | None = None
    depths: tuple[int, ...] | None = None
    timm: str | None = None
    flops: int | None = None
    params: int | None = None
    acts: int | None = None
    v100_ms: float | None = None
    v100_ms_paper: int | None = None

    @property
    def config(self) -> AnyNetConfig | None:
        """The configuration of a RegNet or ResNe(X)t, else None."""
        if self.regnet is None:
            return None
        from regnet.models import model_config

        config = model_config(self.regnet)
        return config if self.depths is None else replace(config, depths=self.depths)


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """All of them, family by family."""
    rows = json.loads(resources.files("regnet.published").joinpath("results.json").read_text(encoding="utf-8"))["models"]
    return tuple(
        PublishedModel(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}) for row in rows
    )


def find_published(patterns: Sequence[str] | None = None) -> tuple[PublishedModel, ...]:
    """The published models whose name or family matches one of the shell patterns, in any case ("regnetx*", "EfficientNet-B5",
    "resnext"); all for None. Raises UnknownModelError for a pattern that matches none."""
    models = published_models()
    if patterns is None:
        return models
    chosen = set()
    for pattern in patterns:
        wanted = pattern.lower().replace("_", "-")
        found = {model for model in models if any(fnmatchcase(name.lower(), wanted) for name in (model.name, model.family))}
        if not found:
            raise UnknownModelError(
                f"no published model matches {pattern!r}; families: {', '.join(FAMILIES)}; names such as {models[0].name}"
            )
        chosen |= found
    return tuple(model for model in models if model in chosen)

"""Many networks at once: widths made compatible with the groups, and the parts that all networks of a space share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regnet.design_space.settings import Rows
from regnet.errors import ConfigError
from regnet.models.config import AnyNetConfig


@dataclass(frozen=True)
class Template:
    """What all networks of a space have in common; the fields are AnyNetConfig's. strides: one number, or one for each stage."""

    block_type: str = "X"
    se_ratio: float = 0.0
    strides: int | tuple[int, ...] = 2
    stem_type: str = "simple"
    stem_width: int = 32
    activation: str = "relu"
    in_chans: int = 3
    num_classes: int = 1000

    def __post_init__(self):
        AnyNetConfig((1,), (64,), strides=self.stage_strides(1)[0], **self.fixed_fields())  # raises for what no network has

    def fixed_fields(self) -> dict:
        """The fields that do not go by stage, as keyword arguments of AnyNetConfig."""
        names = ("block_type", "se_ratio", "stem_type", "stem_width", "activation", "in_chans", "num_classes")
        return {name: getattr(self, name) for name in names}

    def stage_strides(self, stages: int) -> tuple[int, ...]:
        """The stride of each stage. Raises ConfigError where their number is another."""
        if isinstance(self.strides, int):
            return (self.strides,) * stages
        if stages != len(self.strides) and stages != 1:
            raise ConfigError(
                f"strides {self.strides} are for {len(self.strides)} stages, not {stages}; give one number, or one a stage"
            )
        return tuple(self.strides)[:stages]

    def matches(self, config: AnyNetConfig) -> bool:
        """Whether `config` has these common parts."""
        mine = self.fixed_fields() | {"strides": self.stage_strides(len(config.widths))}
        return all(getattr(config, name) == value for name, value in mine.items())


@dataclass(frozen=True)
class Networks(Rows):
    """Final networks: depths, widths, inner_widths, group_widths (n, stages) int64, ratios (n, stages) float64."""

    depths: np.ndarray
    widths: np.ndarray
    inner_widths: np.ndarray
    group_widths: np.ndarray
    bottleneck_ratios: np.ndarray

    def configs(self, template: Template) -> list[AnyNetConfig]:
        """One AnyNetConfig a row."""
        fixed = template.fixed_fields() | {"strides": template.stage_strides(self.widths.shape[1])}
        columns = (array.tolist() for array in (self.depths, self.widths, self.bottleneck_ratios, self.group_widths))
        return [
            AnyNetConfig(depths=depths, widths=widths, bottleneck_ratios=ratios, group_widths=group_widths, **fixed)
            for depths, widths, ratios, group_widths in zip(*columns, strict=True)
        ]


def make_networks(depths, widths, bottleneck_ratios, group_widths) -> Networks:
    """Networks of raw settings (arrays of one shape); group width 0 means no groups.

    Each row as `regnet.models.adjust_group_widths` with the rounding "pycls" gives it.
    """
    widths, inner, group_widths = adjust_group_width_arrays(widths, bottleneck_ratios, group_widths)
    return Networks(depths, widths, inner, group_widths, np.broadcast_to(bottleneck_ratios, widths.shape))


def adjust_group_width_arrays(widths, ratios, group_widths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final widths, inner widths and group widths, int64, of raw ones (any one shape), equal to `adjust_group_widths` with "pycls".

    ratios must be whole numbers or one over whole numbers, as there; group width 0: no groups, the width is only made divisible.
    """
    multipliers = np.where(ratios < 1, np.rint(1 / ratios), 1).astype(np.int64)
    inner = np.maximum(1, (widths / ratios + 1e-9).astype(np.int64))
    groups = np.minimum(np.where(group_widths == 0, 1, group_widths), inner)
    step = groups if (multipliers == 1).all() else np.lcm(groups, multipliers)
    inner = np.maximum(step, np.rint(inner / step).astype(np.int64) * step)
    return np.rint(inner * ratios).astype(np.int64), inner, np.where(group_widths == 0, inner, groups)

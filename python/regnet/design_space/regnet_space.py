"""RegNet spaces: six numbers a network, block widths by the quantized linear rule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from regnet.design_space.choices import Choices, as_choices, log_uniform, one_of, uniform
from regnet.design_space.constraints import CostLimit, Where
from regnet.design_space.networks import Template, make_networks
from regnet.design_space.quantize import regnet_stages
from regnet.design_space.counts import count_settings
from regnet.design_space.regnet_cells import RegNetCellSource
from regnet.design_space.settings import RegNetSettings
from regnet.design_space.space import PROPOSALS, Size, Space
from regnet.design_space.windows import Window
from regnet.errors import ConfigError
from regnet.models.config import AnyNetConfig, RegNetConfig
from regnet.models.widths import quantized_levels, quantized_widths

NO_GROUPS = one_of(0)
PARAMETERS = ("depth", "w_0", "w_a", "w_m", "bottleneck_ratio", "group_width")


@dataclass(frozen=True)
class RegNetSpace(Space):
    """All RegNets of these choices with exactly `stages` stages, none of the levels skipped, that fulfil all constraints.

    The choices are Choices, a number or a list of numbers. w_a and w_m are real numbers, drawn on a grid; `contains` asks for their
    range alone. w_a=None: w_a = w_0, so that u_j = w_a (j + 1). Blocks other than X have no groups, V and VR no bottleneck.
    other_group_widths: such as the paper allows in other flop regimes; `contains` accepts them, samples and `size` leave them out.
    paper_size: the paper's figure for `size`. A space is a value: `constrain`, `with_blocks`, `with_stages` make others of it.

    Raises ConfigError for choices that give no network.
    """

    name: str
    depth: Choices = field(default_factory=lambda: uniform(1, 63))
    w_0: Choices = field(default_factory=lambda: log_uniform(8, 248, 8))
    w_a: Choices | None = field(default_factory=lambda: log_uniform(8.0, 255.9, 0.1))
    w_m: Choices = field(default_factory=lambda: log_uniform(1.5, 3.0, 0.001))
    bottleneck_ratio: Choices = field(default_factory=lambda: one_of(1, 2, 4))
    group_width: Choices = field(default_factory=lambda: one_of(1, 2, 4, 8, 16, 32))
    constraints: tuple = ()
    stages: int = 4
    template: Template = Template()
    other_group_widths: Choices | None = None
    paper_size: float | None = None

    def __post_init__(self):
        for name in PARAMETERS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_choices(getattr(self, name)))
        object.__setattr__(self, "constraints", tuple(self.constraints))
        if self.template.block_type != "X":
            object.__setattr__(self, "group_width", NO_GROUPS)
            object.__setattr__(self, "other_group_widths", None)
        if self.template.block_type in ("V", "VR"):
            object.__setattr__(self, "bottleneck_ratio", one_of(1))
        if self.stages < 1:
            raise ConfigError(f"stages={self.stages} must be at least 1")
        self.template.stage_strides(self.stages)
        self._check_choices()

    def constrain(self, *constraints: CostLimit | Where, name: str | None = None) -> RegNetSpace:
        """The space with further constraints, on the complexity or on RegNetSettings."""
        return replace(self, constraints=(*self.constraints, *constraints), name=name or f"{self.name}, constrained", paper_size=None)

    def with_blocks(self, kind: str, name: str | None = None) -> RegNetSpace:
        """The space with blocks "X", "Y" (X with squeeze-and-excite of ratio 0.25), "R", "V" or "VR"."""
        template = replace(self.template, block_type="X" if kind == "Y" else kind, se_ratio=0.25 if kind == "Y" else 0.0)
        return replace(self, template=template, name=name or f"{self.name}, {kind} blocks", paper_size=None)

    def with_stages(self, stages: int, name: str | None = None) -> RegNetSpace:
        """The space with another number of stages."""
        return replace(self, stages=stages, name=name or f"{self.name}, {stages} stages", paper_size=None)

    def with_choices(self, name: str, **choices) -> RegNetSpace:
        """The space with other choices for some of depth, w_0, w_a, w_m, bottleneck_ratio, group_width."""
        return replace(self, name=name, paper_size=None, **choices)

    @property
    def choices(self) -> dict[str, Choices]:
        """By parameter; without w_a where it follows w_0."""
        return {name: getattr(self, name) for name in PARAMETERS if getattr(self, name) is not None}

    @property
    def dimensions(self) -> int:
        """Free parameters."""
        return sum(len(choices) > 1 for choices in self.choices.values())

    @property
    def block(self) -> str:
        """X, Y, R, V or VR."""
        return "Y" if self.template.block_type == "X" and self.template.se_ratio else self.template.block_type

    def size(self) -> Size:
        """Settings on the grid that have the right number of stages (see `count_settings`)."""
        if self.constraints:
            return Size(self.paper_size, None, "not counted: a constraint can only be tested")
        shapes = count_settings(self.depth, self.w_0, self.w_a, self.w_m, self.stages)
        return Size(
            self.paper_size, shapes * len(self.bottleneck_ratio) * len(self.group_width), f"grid settings with {self.stages} stages"
        )

    def describe(self) -> str:
        lines = [
            f"{self.name}: {self.stages} stages of {self.block} blocks, {self.dimensions} free parameters, quantized linear widths"
        ]
        lines += [f"  {name}: {choices}" for name, choices in self.choices.items() if choices != NO_GROUPS]
        lines += ["  w_a = w_0"] if self.w_a is None else []
        return "\n".join([*lines, *(f"  {constraint}" for constraint in self.constraints)])

    def configs(self, draws) -> list[RegNetConfig] | list[AnyNetConfig]:
        """RegNetConfigs; AnyNetConfigs where the blocks are not those of a RegNetConfig."""
        template = self.template
        if not self._as_regnet_configs:
            return draws.networks.configs(template)
        columns = (
            getattr(draws.settings, name).tolist() for name in ("depth", "w_0", "w_a", "w_m", "group_width", "bottleneck_ratio")
        )
        fixed = (template.se_ratio, template.stem_width, template.activation, template.in_chans, template.num_classes)
        return [RegNetConfig(*row, *fixed) for row in zip(*columns, strict=True)]

    def contains(self, config: RegNetConfig | AnyNetConfig) -> bool:
        """Whether the parameters are in the space; of an AnyNetConfig, whether some parameters of the space give this network."""
        if isinstance(config, AnyNetConfig):
            return self._contains_network(config)
        if not isinstance(config, RegNetConfig):
            raise TypeError(f"contains takes a RegNetConfig or an AnyNetConfig, not {type(config).__name__}")
        if not self._allows(config) or (self.w_a is None and config.w_a != config.w_0):
            return False
        rule = (config.depth, config.w_0, config.w_a, config.w_m)
        if set(quantized_levels(*rule)) != set(range(self.stages)) or len(set(quantized_widths(*rule))) != self.stages:
            return False
        settings = RegNetSettings(*(np.array([getattr(config, name)]) for name in PARAMETERS))
        return self.template.matches(config.to_anynet()) and len(self.keep(settings, self.networks(settings)[1], Window())) == 1

    def networks(self, settings: RegNetSettings):
        """Whether each setting has the right stages, (n,) bool, and the Networks of those that do."""
        valid, depths, widths = regnet_stages(settings.depth, settings.w_0, settings.w_a, settings.w_m, self.stages)
        return valid, make_networks(
            depths[valid],
            widths[valid],
            settings.bottleneck_ratio[valid, None],
            np.broadcast_to(settings.group_width[valid, None], widths[valid].shape),
        )

    def source(self, window: Window, method: str = "cells"):
        return RegNetCellSource(self, window) if method == "cells" else PlainSource(self)

    @property
    def _as_regnet_configs(self) -> bool:
        template = self.template
        return template.block_type == "X" and template.stem_type == "simple" and set(template.stage_strides(self.stages)) == {2}

    def _contains_network(self, config: AnyNetConfig) -> bool:
        from regnet.design_space.recovery import regnet_parameters

        if len(config.widths) != self.stages or not self.template.matches(config):
            return False
        w_0 = [int(value) for value in self.w_0.values]
        groups = sorted({int(value) for allowed in self._all_group_widths for value in allowed.values})
        for found in regnet_parameters(config, w_0=w_0, w_m=self.w_m.array, group_widths=groups, w_a=self.w_a):
            if self._as_regnet_configs:
                if self.contains(found):
                    return True
            elif self._holds(found):
                return True
        return False

    def _holds(self, found: RegNetConfig) -> bool:
        settings = RegNetSettings(*(np.array([getattr(found, name)]) for name in PARAMETERS))
        valid, networks = self.networks(settings)
        return self._allows(found) and bool(valid[0]) and len(self.keep(settings, networks, Window())) == 1

    @property
    def _all_group_widths(self) -> list[Choices]:
        return [self.group_width] + ([self.other_group_widths] if self.other_group_widths is not None else [])

    def _allows(self, config: RegNetConfig) -> bool:
        """Whether every parameter is one of its choices."""
        if not any(config.group_width in allowed for allowed in self._all_group_widths):
            return False
        return all(getattr(config, name) in choices for name, choices in self.choices.items() if name != "group_width")

    def _check_choices(self):
        for name, low in (("depth", 1), ("w_0", 8)):
            if any(value != int(value) or value < low for value in getattr(self, name).values):
                raise ConfigError(f"{name} must take whole numbers of {low} or more, not {getattr(self, name)}")
        if any(value % 8 for value in self.w_0.values):
            raise ConfigError(f"w_0 must take multiples of 8, not {self.w_0}")
        if self.w_m.values[0] <= 1 or (self.w_a is not None and self.w_a.values[0] <= 0):
            raise ConfigError("w_m must be above 1 and w_a above 0")
        if (np.diff(self.depth.array) != 1).any():
            raise ConfigError(f"depth must take consecutive numbers, not {self.depth}; use uniform(low, high)")


class PlainSource:
    """Draws of the parameters by their own distributions, those with the right stages kept: rejection does the rest."""

    def __init__(self, space: RegNetSpace):
        self.space, self.tried = space, 0

    def propose(self, uniforms):
        space = self.space
        self.tried += PROPOSALS
        drawn = {name: choices.draw(uniforms.take(PROPOSALS)) for name, choices in space.choices.items()}
        drawn.setdefault("w_a", drawn["w_0"].astype(np.float64))
        for name in ("depth", "w_0", "group_width"):
            drawn[name] = drawn[name].astype(np.int64)
        settings = RegNetSettings(*(drawn[name] for name in PARAMETERS))
        valid, networks = space.networks(settings)
        return settings[valid], networks

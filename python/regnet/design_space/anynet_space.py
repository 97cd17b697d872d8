"""AnyNet spaces: depth, width, bottleneck ratio and group width of each stage, narrowed by constraints."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np

from regnet.design_space.anynet_cells import CellSource
from regnet.design_space.choices import Choices, as_choices, log_uniform, one_of
from regnet.design_space.constraints import FIELDS, CostLimit, Ordered, Shared, Where
from regnet.design_space.networks import Template, make_networks
from regnet.design_space.settings import AnyNetSettings
from regnet.design_space.space import PROPOSALS, Size, Space
from regnet.design_space.windows import Window
from regnet.errors import ConfigError
from regnet.models.config import AnyNetConfig, RegNetConfig

NO_GROUPS = one_of(0)


@dataclass(frozen=True)
class AnyNetSpace(Space):
    """All AnyNets whose stages take these choices, each stage drawn on its own, that fulfil all constraints.

    depth, width, bottleneck_ratio, group_width: Choices, a number or a list of numbers, the same for every stage; blocks other than
    X have no groups and V and VR no bottleneck, so the space drops those choices. paper_size: the paper's figure for `size`.
    A space is a value: `constrain`, `with_blocks` and `with_stages` make others of it.

    Raises ConfigError for choices that give no network.
    """

    name: str
    depth: Choices = field(default_factory=lambda: log_uniform(1, 16))
    width: Choices = field(default_factory=lambda: log_uniform(8, 1024, 8))
    bottleneck_ratio: Choices = field(default_factory=lambda: one_of(1, 2, 4))
    group_width: Choices = field(default_factory=lambda: one_of(1, 2, 4, 8, 16, 32))
    constraints: tuple = ()
    stages: int = 4
    template: Template = Template()
    paper_size: float | None = None

    def __post_init__(self):
        for name in ("depth", "width", "bottleneck_ratio", "group_width"):
            object.__setattr__(self, name, as_choices(getattr(self, name)))
        object.__setattr__(self, "constraints", tuple(self.constraints))
        if self.template.block_type != "X":
            object.__setattr__(self, "group_width", NO_GROUPS)
        if self.template.block_type in ("V", "VR"):
            object.__setattr__(self, "bottleneck_ratio", one_of(1))
        if self.stages < 1:
            raise ConfigError(f"stages={self.stages} must be at least 1")
        self.template.stage_strides(self.stages)
        if self.template.se_ratio and round(self.template.se_ratio * min(self.width.values[0], self.template.stem_width)) == 0:
            raise ConfigError(
                f"se_ratio {self.template.se_ratio} of the smallest width {self.width.values[0]} is no channel; "
                "use a larger se_ratio or larger widths"
            )
        self._check_networks()

    def constrain(self, *constraints, name: str | None = None, paper_size: float | None = None) -> AnyNetSpace:
        """The space with further constraints."""
        return replace(
            self, constraints=(*self.constraints, *constraints), name=name or f"{self.name}, constrained", paper_size=paper_size
        )

    def with_blocks(self, kind: str, name: str | None = None) -> AnyNetSpace:
        """The space with blocks "X", "Y" (X with squeeze-and-excite of ratio 0.25), "R", "V" or "VR"."""
        template = replace(self.template, block_type="X" if kind == "Y" else kind, se_ratio=0.25 if kind == "Y" else 0.0)
        return replace(self, template=template, name=name or f"{self.name}, {kind} blocks", paper_size=None)

    def with_stages(self, stages: int, name: str | None = None) -> AnyNetSpace:
        """The space with another number of stages."""
        return replace(self, stages=stages, name=name or f"{self.name}, {stages} stages", paper_size=None)

    @property
    def dimensions(self) -> int:
        """Free parameters."""
        free = {name: 1 if name in self.shared else self.stages for name, choices in self.choices.items() if len(choices) > 1}
        return sum(free.values())

    @property
    def choices(self) -> dict[str, Choices]:
        """By the names of AnyNetConfig."""
        return dict(zip(FIELDS, (self.depth, self.width, self.bottleneck_ratio, self.group_width), strict=True))

    @property
    def shared(self) -> frozenset[str]:
        """Fields with one value for all stages."""
        return frozenset(constraint.field for constraint in self.constraints if isinstance(constraint, Shared))

    @property
    def ordered(self) -> dict[str, tuple[bool, ...]]:
        """Fields that are ordered along the stages and not shared; for each rule whether it is decreasing."""
        found: dict[str, tuple[bool, ...]] = {}
        for rule in self.constraints:
            if isinstance(rule, Ordered) and rule.field not in self.shared and len(self.choices[rule.field]) > 1:
                found[rule.field] = tuple(sorted({*found.get(rule.field, ()), rule.decreasing}))
        return found

    def size(self) -> Size:
        """Raw settings: values of each parameter before group compatibility, which maps some of them to the same network."""
        if any(isinstance(constraint, (Where, CostLimit)) for constraint in self.constraints):
            return Size(self.paper_size, None, "not counted: a constraint can only be tested")
        exact = 1
        for name, choices in self.choices.items():
            if name in self.shared or len(self.ordered.get(name, ())) == 2:
                exact *= len(choices)
            elif name in self.ordered:
                exact *= math.comb(len(choices) + self.stages - 1, self.stages)
            else:
                exact *= len(choices) ** self.stages
        return Size(self.paper_size, exact, "raw settings")

    def describe(self) -> str:
        lines = [f"{self.name}: {self.stages} stages of {self.block} blocks, {self.dimensions} free parameters"]
        lines += [f"  {name}: {choices}" for name, choices in self.choices.items() if choices != NO_GROUPS]
        return "\n".join([*lines, *(f"  {constraint}" for constraint in self.constraints)])

    @property
    def block(self) -> str:
        """X, Y, R, V or VR."""
        return "Y" if self.template.block_type == "X" and self.template.se_ratio else self.template.block_type

    def configs(self, draws) -> list[AnyNetConfig]:
        return draws.networks.configs(self.template)

    def contains(self, config: AnyNetConfig | RegNetConfig) -> bool:
        """Whether some raw setting of the space gives exactly this network (for ordered widths, some ordered one)."""
        if isinstance(config, RegNetConfig):
            config = config.to_anynet()
        if not isinstance(config, AnyNetConfig):
            raise TypeError(f"contains takes an AnyNetConfig or a RegNetConfig, not {type(config).__name__}")
        if len(config.widths) != self.stages or not self.template.matches(config):
            return False
        origins = [self._origins(config, stage) for stage in range(self.stages)]
        if not all(map(len, origins)):
            return False
        return self._some_setting_holds(config, origins)

    def source(self, window: Window, method: str = "cells"):
        needs_cells = window.ranges or self.ordered
        return CellSource(self, window) if method == "cells" and needs_cells else PlainSource(self)

    def _origins(self, config: AnyNetConfig, stage: int) -> list[tuple[int, int]]:
        """Raw (width, group width) of this space that become those of a stage."""
        ratio = config.bottleneck_ratios[stage]
        if ratio not in self.bottleneck_ratio or config.depths[stage] not in self.depth:
            return []
        widths, groups = (grid.ravel() for grid in np.meshgrid(self.width.array, self.group_width.array, indexing="ij"))
        made = make_networks(widths * 0, widths.astype(np.int64), np.float64(ratio), groups.astype(np.int64))
        same = (made.widths == config.widths[stage]) & (made.group_widths == config.group_widths[stage])
        return [(int(width), int(group)) for width, group in zip(widths[same], groups[same], strict=True)]

    def _some_setting_holds(self, config: AnyNetConfig, origins: list[list[tuple[int, int]]]) -> bool:
        """Whether a choice of one origin a stage fulfils all constraints; tried in parts."""
        depths, ratios = np.array(config.depths), np.array(config.bottleneck_ratios)
        every = itertools.product(*origins)
        while part := list(itertools.islice(every, PROPOSALS)):
            raw = np.array(part)
            n = len(raw)
            settings = AnyNetSettings(np.tile(depths, (n, 1)), raw[:, :, 0], np.tile(ratios, (n, 1)), raw[:, :, 1])
            held = np.ones(n, bool)
            for name in self.shared:
                values = getattr(settings, name)
                held &= (values == values[:, :1]).all(axis=1)
            for constraint in self.constraints:
                if hasattr(constraint, "holds"):
                    held &= constraint.holds(settings)
            if held.any():
                return self._within_limits(config)
        return False

    def _within_limits(self, config: AnyNetConfig) -> bool:
        limits = [constraint for constraint in self.constraints if isinstance(constraint, CostLimit)]
        if not limits:
            return True
        from regnet.cost import complexity

        cost = complexity(config)
        return all(bool(limit.test(*(np.array([value]) for value in (cost.flops, cost.params, cost.acts)))[0]) for limit in limits)

    def _check_networks(self):
        """Raises ConfigError where a width and a ratio give no whole inner width."""
        widths, ratios = (grid.ravel() for grid in np.meshgrid(self.width.array, self.bottleneck_ratio.array, indexing="ij"))
        multiples = np.where(ratios < 1, 1 / ratios, ratios)
        if (np.abs(multiples - np.rint(multiples)) > 1e-6).any():
            raise ConfigError(f"bottleneck ratios {self.bottleneck_ratio} must be whole numbers or 1 over whole numbers")
        for choices in (self.depth, self.width):
            if any(value != int(value) or value < 1 for value in choices.values):
                raise ConfigError(f"depths and widths must be whole numbers of 1 or more, not {choices}")
        if any(value != int(value) or (value < 1 and self.template.block_type == "X") for value in self.group_width.values):
            raise ConfigError(f"group widths must be whole numbers of 1 or more, not {self.group_width}")


class PlainSource:
    """Draws of the space's own distribution before constraints of order, rules and windows: rejection does the rest."""

    def __init__(self, space: AnyNetSpace):
        self.space, self.tried = space, 0

    def propose(self, uniforms) -> tuple[AnyNetSettings, object]:
        space = self.space
        self.tried += PROPOSALS
        columns = {}
        for name, choices in space.choices.items():
            values = choices.draw(uniforms.take(1 if name in space.shared else space.stages, PROPOSALS)).T
            columns[name] = np.broadcast_to(values, (PROPOSALS, space.stages))
        for name in ("depths", "widths", "group_widths"):
            columns[name] = columns[name].astype(np.int64)
        settings = AnyNetSettings(**columns)
        return settings, make_networks(settings.depths, settings.widths, settings.bottleneck_ratios, settings.group_widths)

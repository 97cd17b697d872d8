"""What a network is, as plain frozen data: AnyNetConfig stage by stage, RegNetConfig by the linear rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Literal

from regnet.errors import ConfigError
from regnet.models.widths import adjust_group_widths, inner_width, quantized_widths

BLOCK_TYPES = ("X", "R", "V", "VR")
STEM_TYPES = ("simple", "resnet")
ACTIVATIONS = ("relu", "silu")
WHOLE_NUMBERS = ("depths", "widths", "strides", "group_widths")


@dataclass(frozen=True)
class BlockSpec:
    """One block: everything its module, its cost and its packed form depend on. Stage and index count from 0."""

    stage: int
    index: int
    w_in: int
    w_inner: int
    w_out: int
    stride: int
    group_width: int
    se_width: int  # 0: no squeeze-and-excite

    @property
    def has_proj(self) -> bool:
        """Whether the shortcut needs a 1x1 projection (blocks with a shortcut only)."""
        return self.w_in != self.w_out or self.stride != 1


@dataclass(frozen=True)
class AnyNetConfig:
    """A network of any number of stages; stage i is depths[i] blocks of width widths[i], the first with stride strides[i].

    widths and group_widths are the final ones (see `adjust_group_widths`). strides, bottleneck_ratios and group_widths take
    one number for all stages as well; group_widths=None means no groups. A bottleneck ratio b divides: the inner width is
    width / b, so b < 1 is an inverted bottleneck. se_ratio > 0 adds squeeze-and-excite of round(se_ratio * block input
    width) channels to X and R blocks. Block types: "X" 1x1, grouped 3x3, 1x1 and a shortcut; "R" the same without groups;
    "V" one 3x3; "VR" one 3x3 and a shortcut. num_classes=0 leaves the classifier out.

    Raises ConfigError for anything that is no network, with the nearest settings that are.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...] | int = 2
    bottleneck_ratios: tuple[float, ...] | float = 1.0
    group_widths: tuple[int, ...] | int | None = None
    se_ratio: float = 0.0
    block_type: Literal["X", "R", "V", "VR"] = "X"
    stem_type: Literal["simple", "resnet"] = "simple"
    stem_width: int = 32
    activation: Literal["relu", "silu"] = "relu"
    in_chans: int = 3
    num_classes: int = 1000

    def __post_init__(self):
        self._set("depths", tuple(self.depths))
        self._set("widths", tuple(self.widths))
        for name in ("strides", "bottleneck_ratios", "group_widths"):
            value = getattr(self, name)
            if value is not None:
                self._set(name, (value,) * len(self.widths) if isinstance(value, Real) else tuple(value))
        self._check_choices()
        self._check_sizes()
        for name in WHOLE_NUMBERS:
            if getattr(self, name) is not None:
                self._set(name, tuple(map(int, getattr(self, name))))
        self._set("bottleneck_ratios", tuple(map(float, self.bottleneck_ratios)))
        inner = self.inner_widths
        self._set("group_widths", inner if self.group_widths is None else self.group_widths)
        self._check_groups(inner)
        self._check_squeezes()

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Width of the 3x3 convolution of each stage."""
        return tuple(inner_width(width, ratio) for width, ratio in zip(self.widths, self.bottleneck_ratios, strict=True))

    def blocks(self) -> Iterator[BlockSpec]:
        """The blocks in order."""
        w_in = self.stem_width
        stages = zip(self.depths, self.widths, self.strides, self.inner_widths, self.group_widths, strict=True)
        for stage, (depth, width, stride, w_inner, group_width) in enumerate(stages):
            for index in range(depth):
                se_width = round(self.se_ratio * w_in)
                yield BlockSpec(stage, index, w_in, w_inner, width, stride if index == 0 else 1, group_width, se_width)
                w_in = width

    def _set(self, name: str, value: object):
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _check_choices(self):
        for name, choices in (("block_type", BLOCK_TYPES), ("stem_type", STEM_TYPES), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(map(repr, choices))}")

    def _check_sizes(self):
        stages = len(self.widths)
        for name in (*WHOLE_NUMBERS, "bottleneck_ratios"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != stages or not stages:
                raise ConfigError(f"{name} has {len(values)} entries and widths has {stages}; give one for each stage")
            if any(value <= 0 for value in values):
                raise ConfigError(f"{name} {values} must be positive")
            if name in WHOLE_NUMBERS and any(value != int(value) for value in values):
                raise ConfigError(f"{name} {values} must be whole numbers")
        if self.stem_width < 1 or self.in_chans < 1 or self.num_classes < 0:
            raise ConfigError(
                f"stem_width={self.stem_width}, in_chans={self.in_chans}, num_classes={self.num_classes}: "
                "use stem_width >= 1, in_chans >= 1, num_classes >= 0"
            )
        if not 0 <= self.se_ratio <= 1:
            raise ConfigError(f"se_ratio {self.se_ratio} is outside 0..1; the paper uses 0.25, and 0 for none")

    def _check_groups(self, inner: tuple[int, ...]):
        if self.block_type in ("V", "VR"):
            if self.se_ratio or any(ratio != 1 for ratio in self.bottleneck_ratios):
                raise ConfigError(f"{self.block_type} blocks are one 3x3: they have no bottleneck and no squeeze-and-excite; use "
                                  "bottleneck_ratios=1 and se_ratio=0, or block_type='X'")
        for width, group_width in zip(inner, self.group_widths, strict=True):
            if self.block_type != "X" and group_width != width:
                raise ConfigError(f"{self.block_type} blocks have no groups but group_width is {group_width}; "
                                  "use group_widths=None, or block_type='X'")
            if width % group_width:
                divisor = max(d for d in range(1, min(group_width, width) + 1) if width % d == 0)
                nearest = max(group_width, round(width / group_width) * group_width)
                raise ConfigError(f"group_width {group_width} does not divide the bottleneck width {width}; "
                                  f"use group_width={divisor} or a bottleneck width of {nearest}")

    def _check_squeezes(self):
        for spec in self.blocks() if self.se_ratio else ():
            if spec.se_width == 0:
                raise ConfigError(f"se_ratio {self.se_ratio} of the width {spec.w_in} is no channel; use a larger one, or 0 for no "
                                  "squeeze-and-excite")


@dataclass(frozen=True)
class RegNetConfig:
    """A RegNet by its parameters (arXiv 2003.13678, section 3.3): block widths w_0 + w_a j, quantized to powers of w_m.

    depth counts blocks, group_width and bottleneck_ratio hold for all stages; se_ratio 0.25 makes a RegNetY.
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    bottleneck_ratio: float = 1.0
    se_ratio: float = 0.0
    stem_width: int = 32
    activation: Literal["relu", "silu"] = "relu"
    in_chans: int = 3
    num_classes: int = 1000

    def to_anynet(self, widths: Literal["pycls", "torchvision"] = "pycls") -> AnyNetConfig:
        """The network: stages are the runs of equal block width, then made compatible with the groups.

        widths: the rounding of `adjust_group_widths`. Raises ConfigError as `quantized_widths` and AnyNetConfig do.
        """
        runs = [(width, len(list(run))) for width, run in groupby(quantized_widths(self.depth, self.w_0, self.w_a, self.w_m))]
        stage_widths, group_widths = adjust_group_widths(
            [width for width, _ in runs], [self.bottleneck_ratio] * len(runs), [self.group_width] * len(runs), widths
        )
        return AnyNetConfig(
            depths=tuple(depth for _, depth in runs),
            widths=tuple(stage_widths),
            bottleneck_ratios=self.bottleneck_ratio,
            group_widths=tuple(group_widths),
            se_ratio=self.se_ratio,
            stem_width=self.stem_width,
            activation=self.activation,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
        )

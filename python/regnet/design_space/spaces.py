"""The paper's design spaces, and the variants that it tests."""

from __future__ import annotations

import difflib
from dataclasses import replace

from regnet.design_space.anynet_space import AnyNetSpace
from regnet.design_space.choices import Choices, log_uniform, one_of, power_of_two_or_log_uniform, uniform
from regnet.design_space.constraints import Shared, acts_below_trend, non_decreasing, non_increasing, params_below_trend
from regnet.design_space.regnet_space import RegNetSpace
from regnet.errors import ConfigError

AnyNetXA = AnyNetSpace("AnyNetXA", paper_size=1.847e18)
AnyNetXB = AnyNetXA.constrain(Shared("bottleneck_ratios"), name="AnyNetXB", paper_size=6.84e16)
AnyNetXC = AnyNetXB.constrain(Shared("group_widths"), name="AnyNetXC", paper_size=3.17e14)
AnyNetXD = AnyNetXC.constrain(non_decreasing("widths"), name="AnyNetXD", paper_size=1.32e13)
AnyNetXE = AnyNetXD.constrain(non_decreasing("depths"), name="AnyNetXE", paper_size=5.50e11)
AnyNetXDDecreasing = AnyNetXC.constrain(non_increasing("widths"), name="AnyNetXDDecreasing")
AnyNetXDConstant = AnyNetXC.constrain(Shared("widths"), name="AnyNetXDConstant")
AnyNetXEDecreasing = AnyNetXD.constrain(non_increasing("depths"), name="AnyNetXEDecreasing")
AnyNetXEConstant = AnyNetXD.constrain(Shared("depths"), name="AnyNetXEConstant")

# Group widths up to 32 are for 400 MF; the paper uses larger ones in the regimes above, so those are RegNets as well.
RegNetX = RegNetSpace("RegNetX", other_group_widths=log_uniform(8, 256, 8), paper_size=3.02e8)
RegNetY = RegNetX.with_blocks("Y", "RegNetY")
RegNetXWm2 = RegNetX.with_choices("RegNetXWm2", w_m=2.0)
RegNetXW0Wa = RegNetX.with_choices("RegNetXW0Wa", w_a=None)
RegNetXInverted = RegNetX.with_choices("RegNetXInverted", bottleneck_ratio=one_of(1 / 4, 1 / 2))
RegNetXDepthwise = RegNetX.with_choices("RegNetXDepthwise", group_width=one_of(1), other_group_widths=None)
RegNetXConstrained = RegNetX.with_choices(
    "RegNetXConstrained", depth=uniform(1, 40), w_m=log_uniform(2.0, 3.0, 0.001), bottleneck_ratio=one_of(1)
).constrain(params_below_trend(), acts_below_trend(), name="RegNetXConstrained")
RegNetYConstrained = RegNetXConstrained.with_blocks("Y", "RegNetYConstrained")
RegNetXSearch = RegNetX.with_choices(
    "RegNetXSearch",
    depth=uniform(12, 28),
    w_0=log_uniform(8, 256, 8),
    w_a=log_uniform(8.0, 256.0, 0.1),
    w_m=log_uniform(2.0, 3.0, 0.001),
    bottleneck_ratio=one_of(1),
    group_width=power_of_two_or_log_uniform(8, 128, 8),
    other_group_widths=None,
)
RegNetYSearch = RegNetXSearch.with_blocks("Y", "RegNetYSearch")

_MAIN = (
    AnyNetXA, AnyNetXB, AnyNetXC, AnyNetXD, AnyNetXE, AnyNetXDDecreasing, AnyNetXDConstant, AnyNetXEDecreasing, AnyNetXEConstant,
    RegNetX, RegNetY, RegNetXWm2, RegNetXW0Wa, RegNetXInverted, RegNetXDepthwise, RegNetXConstrained, RegNetYConstrained,
    RegNetXSearch, RegNetYSearch,
)  # fmt: skip
_BASES = (AnyNetXA, AnyNetXE, RegNetX)
_VARIANTS = (
    *(space.with_stages(stages, f"{space.name}{stages}Stages") for space in _BASES for stages in (3, 5)),
    *(space.with_blocks(kind, space.name.replace("NetX", f"Net{kind}")) for space in _BASES for kind in ("Y", "R", "V", "VR")
      if (space, kind) != (RegNetX, "Y")),
)  # fmt: skip

SPACES: dict[str, AnyNetSpace | RegNetSpace] = {space.name: space for space in (*_MAIN, *_VARIANTS)}


def find_space(name: str) -> AnyNetSpace | RegNetSpace:
    """The space of a name, in any case and with or without `-`, `_` and spaces. Raises ConfigError with the nearest names."""
    keys = {key.lower(): space for key, space in SPACES.items()}
    key = "".join(letter for letter in str(name).lower() if letter not in "-_ ")
    if key not in keys:
        nearest = [keys[close].name for close in difflib.get_close_matches(key, keys, n=3, cutoff=0.0)]
        raise ConfigError(f"unknown design space {name!r}; did you mean {' or '.join(nearest)}? `regnet spaces` lists all")
    return keys[key]


def group_widths_for(flops: float) -> Choices:
    """The group widths that the paper uses in a flop regime: 1..32 by powers of two for some 400 MF, 16..64 in steps of 8 for some
    3.2 GF, larger ones above. The borders between the regimes (800 MF, 6.4 GF) are ours."""
    if flops <= 0.8e9:
        return one_of(1, 2, 4, 8, 16, 32)
    return log_uniform(16, 64, 8) if flops <= 6.4e9 else log_uniform(16, 256, 8)


def with_group_widths_for(space: AnyNetSpace | RegNetSpace, flops: float) -> AnyNetSpace | RegNetSpace:
    """The space with the group widths of `group_widths_for`."""
    return replace(space, group_width=group_widths_for(flops), paper_size=None)

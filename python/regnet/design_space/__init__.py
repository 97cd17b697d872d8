"""The design spaces of "Designing Network Design Spaces": spaces, samples, complexity of many networks at once, linear structure.

    from regnet.design_space import AnyNetXE, RegNetX, fit_linear

    sample = RegNetX.sample(500, seed=0, flops=(360e6, 400e6))      # a list of RegNetConfig; sample.draws holds arrays
    mine = AnyNetXE.constrain(Where("at most 20 blocks", lambda s: s.depths.sum(axis=1) <= 20), name="shallow")

Every space of the table `SPACES` (`regnet spaces`) is an attribute of this module, such as `RegNetV` or `AnyNetXE5Stages`.
"""

import importlib

from regnet.design_space.anynet_space import AnyNetSpace
from regnet.design_space.choices import Choices, log_uniform, one_of, power_of_two_or_log_uniform, uniform
from regnet.design_space.constraints import (
    CostLimit,
    Ordered,
    Shared,
    Where,
    acts_below_trend,
    non_decreasing,
    non_increasing,
    params_below_trend,
)
from regnet.design_space.conv_costs import CONVOLUTIONS, conv_complexity
from regnet.design_space.cost_arrays import complexity_arrays
from regnet.design_space.draws import Draws, Sample
from regnet.design_space.linear import LinearFit, fit_linear
from regnet.design_space.networks import Networks, Template, make_networks
from regnet.design_space.quantize import regnet_stages
from regnet.design_space.recovery import regnet_parameters
from regnet.design_space.regnet_space import RegNetSpace
from regnet.design_space.settings import AnyNetSettings, RegNetSettings
from regnet.design_space.space import Size, Space
from regnet.design_space.spaces import SPACES, find_space, group_widths_for, with_group_widths_for
from regnet.models.widths import quantized_widths

_STATISTICS = ("edf", "empirical_bootstrap")

__all__ = [
    "CONVOLUTIONS", "SPACES", "AnyNetSettings", "AnyNetSpace", "Choices", "CostLimit", "Draws", "LinearFit", "Networks", "Ordered",
    "RegNetSettings", "RegNetSpace", "Sample", "Shared", "Size", "Space", "Template", "Where", "acts_below_trend", "complexity_arrays",
    "conv_complexity", "find_space", "fit_linear", "group_widths_for", "log_uniform", "make_networks", "non_decreasing",
    "non_increasing", "one_of", "params_below_trend", "power_of_two_or_log_uniform", "quantized_widths", "regnet_parameters",
    "regnet_stages", "uniform", "with_group_widths_for", *_STATISTICS, *SPACES,
]  # fmt: skip

globals().update(SPACES)


def __getattr__(name: str):
    if name not in _STATISTICS:
        raise AttributeError(f"module 'regnet.design_space' has no attribute {name!r}; spaces: {', '.join(SPACES)}")
    return getattr(importlib.import_module("regnet.statistics"), name)

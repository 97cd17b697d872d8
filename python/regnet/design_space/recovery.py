"""From a network back to the RegNet parameters that give it, where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from regnet.design_space.choices import Choices
from regnet.design_space.networks import make_networks
from regnet.design_space.quantize import level_reach, level_widths
from regnet.models.config import AnyNetConfig, RegNetConfig
from regnet.models.widths import QUANTUM, quantized_widths

W_M = np.arange(1500, 3001) / 1000  # the paper's range


def regnet_parameters(
    config: AnyNetConfig,
    *,
    w_0: Sequence[int] | None = None,
    w_m: np.ndarray = W_M,
    group_widths: Sequence[int] | None = None,
    w_a: Choices | None | bool = True,
) -> Iterator[RegNetConfig]:
    """RegNetConfigs whose block widths, depths and group widths are exactly those of `config`, one for each w_0, w_m and group width.

    w_0, group_widths: those to try (None: every multiple of 8; the network's own). w_m: (n,) those to try. w_a: Choices that bound
    it, None for w_a = w_0, True for any. Block type, stem and the like are not compared. Nothing for a network that is no RegNet.
    """
    if len(set(config.bottleneck_ratios)) != 1 or any(a > b for a, b in zip(config.widths, config.widths[1:], strict=False)):
        return
    ratio, largest = config.bottleneck_ratios[0], max(config.group_widths)
    if group_widths is None:
        group_widths = [largest]
    starts = np.array(w_0 if w_0 is not None else range(QUANTUM, 2 * config.widths[0] + 2 * largest * int(max(1, ratio)) + 1, QUANTUM))
    for group_width in group_widths:
        if 0 < group_width < largest:
            continue
        first = make_networks(starts * 0, starts, np.float64(ratio), np.full_like(starts, group_width))
        same = (first.widths == config.widths[0]) & (first.group_widths == config.group_widths[0])
        for start in sorted(starts[same].tolist(), key=lambda start: abs(start - config.widths[0])):
            yield from _with_start(config, start, _near(config, start, w_m), ratio, group_width, w_a)


def _near(config, w_0, w_m):
    """The w_m that lead to the last width, give or take a factor 2: rounding to 8 and to the groups changes a width by less."""
    if len(config.widths) == 1:
        return w_m
    steps, ratio = len(config.widths) - 1, config.widths[-1] / w_0
    return w_m[(w_m >= (ratio / 2) ** (1 / steps)) & (w_m <= (ratio * 2) ** (1 / steps))]


def _with_start(config, w_0, w_m, ratio, group_width, w_a):
    stages = len(config.widths)
    starts = np.full(len(w_m), float(w_0))
    widths = level_widths(starts, w_m, stages)
    made = make_networks(widths * 0, widths, np.float64(ratio), np.full_like(widths, group_width))
    same = (made.widths == config.widths).all(axis=1) & (made.group_widths == config.group_widths).all(axis=1)
    same &= (np.diff(widths, axis=1) > 0).all(axis=1)
    found = np.flatnonzero(same)
    if not len(found):
        return
    low, high = _slopes(level_reach(starts[found], w_m[found], stages), config.depths)
    if w_a is None:
        low, high = np.maximum(low, w_0), np.minimum(high, np.nextafter(w_0, np.inf))
    elif isinstance(w_a, Choices):
        low, high = np.maximum(low, w_a.values[0]), np.minimum(high, w_a.values[-1] + (w_a.step or 0.0))
    fits = np.flatnonzero(low < high)
    if not len(fits):
        return
    for k in fits[np.argsort(np.abs(fits - (fits[0] + fits[-1]) / 2), kind="stable")]:  # from the middle of w_m outwards
        slope = float(w_0) if w_a is None else _short(float(low[k]), float(high[k]))
        parameters = RegNetConfig(
            sum(config.depths),
            w_0,
            slope,
            float(w_m[found[k]]),
            int(group_width),
            ratio,
            config.se_ratio,
            config.stem_width,
            config.activation,
            config.in_chans,
            config.num_classes,
        )
        runs = [(width, len(list(run))) for width, run in groupby(quantized_widths(parameters.depth, w_0, slope, parameters.w_m))]
        if runs == list(zip(widths[found[k]].tolist(), config.depths, strict=True)):
            yield parameters


def _slopes(reach: np.ndarray, depths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The w_a, low <= w_a < high, for which level k starts at block depths[0] + ... + depths[k - 1] and the last one goes on."""
    low, high = np.zeros(len(reach)), np.full(len(reach), np.inf)
    start = 0
    for level, depth in enumerate(depths):
        start += depth
        if level < len(depths) - 1:
            low = np.maximum(low, reach[:, level] / start)
        if start > 1:
            high = np.minimum(high, reach[:, level] / (start - 1))
    return low, np.minimum(high, 2 * low + 1e4)


def _short(low: float, high: float) -> float:
    """A number inside low..high with few decimals."""
    middle = (low + high) / 2
    for decimals in range(13):
        rounded = round(middle, decimals)
        if low < rounded < high:
            return rounded
    return middle

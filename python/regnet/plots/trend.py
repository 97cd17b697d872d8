"""Points over flops with the fitted curves and their bootstrap bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regnet.plots.style import COLORS, LINES, MARKERS, PlotError, log_ticks, new_figure, styled
from regnet.statistics.trends import Trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class TrendPoints(NamedTuple):
    """x (n,) and y (n,) of a trend, in the units that the trend was fitted in."""

    x: Sequence[float]
    y: Sequence[float]
    trend: Trend


def plot_trends(
    groups: Mapping[str, TrendPoints], *, ylabel: str, xlabel: str = "flops F, GF", title: str = "", logarithmic: bool = True
) -> Figure:
    """The points of each group, its curve and the band that the bootstrap gives it; the legend holds the formula."""
    if not groups:
        raise PlotError("nothing to plot: give at least one group of points")
    with styled():
        figure, (axis,) = new_figure()
        draw_trends(axis, groups, logarithmic)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        axis.legend(loc="upper left")
        axis.set_title(title)
    return figure


def draw_trends(axis: Axes, groups: Mapping[str, TrendPoints], logarithmic: bool = True) -> None:
    """The same on an axis that is there."""
    for place, (name, (x, y, trend)) in enumerate(groups.items()):
        color = COLORS[place % len(COLORS)]
        x = np.asarray(x, dtype=float)
        across = np.geomspace(x.min() / 1.15, x.max() * 1.15, 200) if logarithmic else np.linspace(0, x.max() * 1.05, 200)
        low, high = trend.interval(across)
        axis.fill_between(across, low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(
            across, trend(across), color=color, linestyle=LINES[place % len(LINES)], linewidth=1.5, label=f"{name}:  {_pretty(trend)}"
        )
        axis.scatter(x, y, s=26, color=color, marker=MARKERS[place % len(MARKERS)], edgecolor="white", linewidth=0.6, zorder=3)
    if logarithmic:
        log_ticks(axis, "x")
        log_ticks(axis, "y")
    else:
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)


def _pretty(trend: Trend) -> str:
    return str(trend).replace("sqrt(F)", "√F")

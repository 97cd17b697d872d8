"""The empirical bootstrap: a parameter against error with its range of good values, and that range over flops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from regnet.plots.style import COLORS, MARKERS, PlotError, log_ticks, new_figure, styled
from regnet.statistics.bootstrap import BootstrapRange
from regnet.statistics.parameter_trends import ParameterTrend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_bootstrap(
    parameters: Mapping[str, tuple[Sequence[float], BootstrapRange]], errors: Sequence[float], *, title: str = ""
) -> Figure:
    """A panel a parameter: its values (n,) against the errors (n,), the likely best value and the range of good ones."""
    if not parameters:
        raise PlotError("no parameter to plot: give at least one")
    columns = min(4, len(parameters))
    rows = -(-len(parameters) // columns)
    with styled():
        figure, axes = new_figure(rows, columns, width=max(4.6, 1.0 + 2.8 * columns), height=0.4 + 3.0 * rows, sharey=True)
        for axis in axes[len(parameters) :]:
            axis.set_visible(False)
        for place, (axis, (name, (x, best))) in enumerate(zip(axes, parameters.items(), strict=False)):
            axis.axvspan(best.low, best.high, color=COLORS[0], alpha=0.16, linewidth=0)
            axis.scatter(x, errors, s=11, color="#555555", alpha=0.5, linewidth=0)
            axis.axvline(best.median, color=COLORS[1], linewidth=1.8)
            axis.set_xlabel(name)
            axis.set_title(f"{best.median:.4g}  [{best.low:.4g}, {best.high:.4g}]", fontsize=9.5)
            if place % columns == 0:
                axis.set_ylabel("error, %")
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def plot_parameter_trends(parameters: Mapping[str, ParameterTrend], *, title: str = "") -> Figure:
    """A panel a parameter: likely best value and its interval in each flop regime (flops as multiply-adds)."""
    if not parameters:
        raise PlotError("no parameter to plot: give at least one")
    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    with styled():
        figure, axes = new_figure(rows, columns, width=max(4.6, 0.8 + 2.9 * columns), height=0.4 + 2.5 * rows)
        for axis in axes[len(parameters) :]:
            axis.set_visible(False)
        for place, (axis, (name, trend)) in enumerate(zip(axes, parameters.items(), strict=False)):
            color, gf = COLORS[place % len(COLORS)], trend.flops / 1e9
            axis.fill_between(gf, trend.low, trend.high, color=color, alpha=0.18, linewidth=0)
            axis.plot(gf, trend.median, color=color, marker=MARKERS[place % len(MARKERS)], markersize=5)
            log_ticks(axis, "x")
            axis.set_ylim(bottom=min(0.0, float(trend.low.min())))
            axis.set_title(name)
            if place + columns >= len(parameters):
                axis.set_xlabel("flops, GF")
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
        figure.supylabel(f"best value, {next(iter(parameters.values())).best[0].confidence:.0%} interval", fontsize=9)
    return figure

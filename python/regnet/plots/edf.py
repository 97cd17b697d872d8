"""Error distributions of several design spaces, and how many models a random search in them needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from regnet.plots.style import COLORS, LINES, PlotError, log_ticks, new_figure, styled
from regnet.statistics.edf import EDF
from regnet.statistics.search_efficiency import SearchEfficiency

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_edf(spaces: Mapping[str, EDF], *, title: str = "", bands: bool = True, errors: tuple[float, float] | None = None) -> Figure:
    """The EDFs of the named spaces with their bands; legend n | min | mean, as in the paper. errors: range of the x axis."""
    if not spaces:
        raise PlotError("no design space to plot: give at least one")
    with styled():
        figure, (axis,) = new_figure()
        left, right = errors or _range(list(spaces.values()))
        for (name, curve), color, line in zip(spaces.items(), _cycle(COLORS, len(spaces)), _cycle(LINES, len(spaces)), strict=True):
            e, share, low, high = curve.steps()
            end = max(right, e[-1])
            axis.step(
                [min(left, e[0]), *e, end],
                [0, *share, 1],
                where="post",
                color=color,
                linestyle=line,
                label=f"{name}  [{curve.legend}]",
            )
            if bands:
                axis.fill_between([*e, end], [*low, low[-1]], [*high, high[-1]], step="post", color=color, alpha=0.13, linewidth=0)
        axis.set_xlim(left, right)
        axis.set_ylim(0, 1.005)
        axis.set_xlabel("error, %")
        axis.set_ylabel("cumulative probability")
        first = next(iter(spaces.values()))
        kind = "of the whole curve" if first.band == "dkw" else "at each error"
        legend = axis.legend(
            loc="lower right", title="space  [n | min | mean]" + (f"\nbands: {first.confidence:.0%} {kind}" if bands else "")
        )
        legend.get_title().set_fontsize(8)
        legend.set_alignment("left")
        axis.set_title(title)
    return figure


def plot_search_efficiency(spaces: Mapping[str, SearchEfficiency], *, title: str = "") -> Figure:
    """Expected best error of m models, m on a logarithmic axis; with the interval of the expectation; for
    a single space also, lighter, the range of the outcomes of one search."""
    if not spaces:
        raise PlotError("no design space to plot: give at least one")
    with styled():
        figure, (axis,) = new_figure()
        for (name, curve), color, line in zip(spaces.items(), _cycle(COLORS, len(spaces)), _cycle(LINES, len(spaces)), strict=True):
            if len(spaces) == 1:
                axis.fill_between(curve.m, curve.low, curve.high, color=color, alpha=0.1, linewidth=0)
            axis.fill_between(curve.m, curve.expected_low, curve.expected_high, color=color, alpha=0.25, linewidth=0)
            axis.plot(
                curve.m, curve.expected, color=color, linestyle=line, marker="o", markersize=3.5, label=f"{name}  (n = {curve.n})"
            )
        log_ticks(axis, "x")
        axis.set_xlabel("models trained, m")
        axis.set_ylabel("lowest error of m, %")
        share = next(iter(spaces.values())).confidence
        single = f"\nlight: {share:.0%} of the searches" if len(spaces) == 1 else ""
        legend = axis.legend(loc="upper right", title=f"expected best; {share:.0%} band of it" + single)
        legend.get_title().set_fontsize(8)
        legend.set_alignment("left")
        axis.set_title(title)
    return figure


def _range(curves: list[EDF]) -> tuple[float, float]:
    """From the best model on to where the slowest curve has nearly ended: a few models that did not train squeeze nothing."""
    left = min(curve.min for curve in curves)
    right = max(float(np.quantile(curve.errors, 0.95)) for curve in curves)
    margin = 0.04 * (right - left) or 1.0
    return left - margin, right + margin


def _cycle(values: tuple, count: int) -> list:
    return [values[i % len(values)] for i in range(count)]

"""Complexity against runtime, and error against the latency that was measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from regnet.plots.style import COLORS, LINES, MARKERS, PlotError, log_ticks, new_figure, place_labels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_runtime(groups: Mapping[str, dict[str, Sequence[float]]], *, unit: str = "ms", title: str = "") -> Figure:
    """flops, params and acts against runtime, a panel each, with the correlation of their logarithms.

    groups: name -> {"flops": (n,), "params": (n,), "acts": (n,), "runtime": (n,)}; counts as they are, runtime in `unit`.
    """
    if not groups:
        raise PlotError("nothing to plot: give at least one group of models")
    panels = (("flops", 1e9, "flops, GF"), ("params", 1e6, "params, M"), ("acts", 1e6, "activations, M"))
    with styled():
        figure, axes = new_figure(1, 3, width=10.2, height=3.7, sharey=True)
        for axis, (field, scale, label) in zip(axes, panels, strict=True):
            xs, ys = [], []
            for place, (name, group) in enumerate(groups.items()):
                x, y = np.asarray(group[field], dtype=float) / scale, np.asarray(group["runtime"], dtype=float)
                color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
                axis.scatter(x, y, s=24, color=color, marker=marker, edgecolor="white", linewidth=0.5, label=name, zorder=3)
                xs.append(x)
                ys.append(y)
            log_ticks(axis, "x")
            x, y = np.log(np.concatenate(xs)), np.log(np.concatenate(ys))
            if len(x) > 2 and x.std() and y.std():
                axis.text(0.04, 0.95, f"r = {np.corrcoef(x, y)[0, 1]:.3f}", transform=axis.transAxes, va="top", fontsize=9)
            axis.set_xlabel(label)
        log_ticks(axes[0], "y")
        axes[0].set_ylabel(f"runtime, {unit}")
        axes[-1].legend(loc="lower right")
        figure.suptitle(title or "Complexity against runtime (r: correlation of the logarithms)", fontsize=11, fontweight="bold")
    return figure


def plot_error_latency(
    families: Mapping[str, Sequence[tuple[str, float, float]]], *, xlabel: str = "latency, ms", title: str = "", labels: bool = True
) -> Figure:
    """families: name -> [(short label, latency in ms, error in per cent)] in the order of size: a curve a family; lower and to the
    left is better."""
    if not any(families.values()):
        raise PlotError("no model with both an error and a latency: measure some first")
    with styled():
        figure, (axis,) = new_figure(width=7.4, height=5.0)
        points, curves = [], []
        for place, (name, models) in enumerate(families.items()):
            if not models:
                continue
            color = COLORS[place % len(COLORS)]
            curves.append(([ms for _, ms, _ in models], [error for _, _, error in models]))
            line, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
            axis.plot(*curves[-1], color=color, linestyle=line, marker=marker, markersize=5.5, markeredgecolor="white", label=name)
            points += [(ms, error, label, color) for label, ms, error in models]
        log_ticks(axis, "x")
        axis.set_xlabel(xlabel)
        axis.set_ylabel("top-1 error, %")
        axis.legend(loc="upper right")
        axis.set_title(title)
        if labels:
            place_labels(axis, points, curves)
    return figure

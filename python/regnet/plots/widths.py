"""Widths block by block with their quantized linear fits (the paper's figure of linear structure), and the error of those fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regnet.plots.style import COLORS, FAINT, INK, MARKERS, PlotError, log_ticks, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 16


class WidthProfile(NamedTuple):
    """A panel: name, widths of the blocks (d,), and of the fit w_0, w_a, the fitted widths (d,) and e_fit; None without a fit."""

    name: str
    widths: Sequence[int]
    w_0: float | None = None
    w_a: float | None = None
    fitted: Sequence[float] | None = None
    e_fit: float | None = None


def plot_width_profiles(profiles: Sequence[WidthProfile], *, title: str = "") -> Figure:
    """A panel a network: its block widths, the line u_j = w_0 + w_a j and the quantized widths that it gives. At most 16 panels."""
    if not profiles or len(profiles) > MOST_PANELS:
        raise PlotError(f"{len(profiles)} networks: width profiles take 1 to {MOST_PANELS}; choose some, or plot the population")
    columns = min(4, len(profiles))
    rows = -(-len(profiles) // columns)
    with styled():
        figure, axes = new_figure(
            rows, columns, width=max(4.6, 2.7 * columns + 0.3), height=0.7 + (2.4 if columns > 1 else 3.0) * rows
        )
        for axis, profile in zip(axes, profiles, strict=False):
            j = np.arange(len(profile.widths))
            if profile.w_a is not None:
                axis.plot(
                    j,
                    profile.w_0 + profile.w_a * j,
                    color=COLORS[0],
                    linewidth=1.3,
                    linestyle=(0, (5, 2)),
                    label="$u_j = w_0 + w_a j$",
                )
            if profile.fitted is not None:
                axis.step(j, profile.fitted, where="mid", color=COLORS[1], linewidth=2.4, alpha=0.75, label="quantized fit")
            axis.plot(j, profile.widths, color=INK, marker="o", markersize=3.4, linewidth=0, label="block widths")
            axis.set_ylim(0, 1.12 * max(profile.widths))
            axis.set_title(profile.name, fontsize=9)
            if profile.e_fit is not None:
                axis.text(0.04, 0.93, f"$e_{{fit}}$ = {profile.e_fit:.3f}", transform=axis.transAxes, va="top", fontsize=8.5)
        for axis in axes[len(profiles) :]:
            axis.set_visible(False)
        for place, axis in enumerate(axes[: len(profiles)]):
            if place % columns == 0:
                axis.set_ylabel("width $w_j$")
            if place + columns >= len(profiles):
                axis.set_xlabel("block $j$")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center" if not title else "outside lower center", ncols=3)
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def plot_width_population(
    widths: Sequence[Sequence[int]], errors: Sequence[float] | None = None, *, slope: float | None = 48.0, title: str = ""
) -> Figure:
    """The block widths of many networks in one panel, the better ones darker if errors are given; slope: draws w_j = slope (j + 1),
    the paper's trend of good models (48)."""
    if not widths:
        raise PlotError("no network to plot: give at least one")
    with styled():
        figure, (axis,) = new_figure()
        order = np.arange(len(widths)) if errors is None else np.argsort(errors)[::-1]
        for rank, index in enumerate(order):
            good = 0.5 if errors is None else rank / max(1, len(order) - 1)
            alpha = 0.12 + 0.6 * good**3
            axis.step(np.arange(len(widths[index])), widths[index], where="mid", color=INK, linewidth=0.7 + 0.7 * good**3, alpha=alpha)
        if slope:
            j = np.arange(max(map(len, widths)))
            axis.plot(j, slope * (j + 1), color=COLORS[1], linewidth=2.2, linestyle=(0, (6, 2)), label=f"$w_j = {slope:g}\\,(j+1)$")
            axis.legend(loc="lower right")
        log_ticks(axis, "y")
        axis.set_xlabel("block $j$")
        axis.set_ylabel("width $w_j$")
        axis.set_title(title or (f"{len(widths)} networks" + (", lower errors darker" if errors is not None else "")))
    return figure


def plot_fit_errors(spaces: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str = "") -> Figure:
    """e_fit against error, a panel a space: name -> (e_fit (n,), errors (n,)); the line joins the medians of
    equally many models each, the dashed line is the mean e_fit."""
    if not spaces:
        raise PlotError("no design space to plot: give at least one")
    with styled():
        columns = len(spaces)
        figure, axes = new_figure(1, columns, width=max(4.6, 1.2 + 3.0 * columns), height=3.5, sharex=True, sharey=True)
        for place, (axis, (name, (e_fit, errors))) in enumerate(zip(axes, spaces.items(), strict=True)):
            e_fit, errors = np.asarray(e_fit, dtype=float), np.asarray(errors, dtype=float)
            color = COLORS[place % len(COLORS)]
            axis.scatter(e_fit, errors, s=11, color=color, alpha=0.4, linewidth=0, marker=MARKERS[place % len(MARKERS)])
            parts = [part for part in np.array_split(np.argsort(e_fit), max(1, min(8, len(e_fit) // 20))) if len(part)]
            medians = [(np.median(e_fit[part]), np.median(errors[part])) for part in parts]
            axis.plot(*zip(*medians, strict=True), color=INK, linewidth=1.4, marker="o", markersize=3)
            axis.axvline(e_fit.mean(), color=FAINT, linewidth=1.1, linestyle=(0, (3, 2)))
            axis.set_title(f"{name}\nmean $e_{{fit}}$ = {e_fit.mean():.3f}", fontsize=9.5)
            axis.set_xlabel("$e_{fit}$")
        axes[0].set_ylabel("error, %")
        axes[0].set_xlim(left=0)
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def block_widths(config) -> list[int]:
    """The width of each block of an AnyNetConfig or RegNetConfig, in order."""
    stages = config if hasattr(config, "depths") else config.to_anynet()
    return [width for depth, width in zip(stages.depths, stages.widths, strict=True) for _ in range(depth)]

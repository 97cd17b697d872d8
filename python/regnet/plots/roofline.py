"""A roofline: what kernels reach, over what their arithmetic intensity allows (Williams, Waterman, Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from regnet.plots.style import COLORS, FAINT, INK, LINES, MARKERS, PlotError, log_ticks, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]


def plot_roofline(
    groups: Mapping[str, Mapping[str, Points]], *, peak: float, bandwidths: Mapping[str, float], title: str = ""
) -> Figure:
    """groups: kind of kernel -> who -> points (operations a byte, GFLOP/s); a kind has a colour and a marker, the first of all names is
    drawn filled, every other one hollow. peak: GFLOP/s; bandwidths: name -> GB/s, a slope each. Raises PlotError for no points."""
    everyone = list(dict.fromkeys(who for named in groups.values() for who in named))
    points = np.array([point for named in groups.values() for some in named.values() for point in some], dtype=float)
    if not len(points):
        raise PlotError("no point to plot: nothing was timed")
    if not bandwidths or min(peak, *bandwidths.values()) <= 0:
        raise PlotError("a roofline needs a peak and at least one bandwidth above 0")
    low, high = points[:, 0].min() / 1.6, points[:, 0].max() * 1.6
    with styled():
        from matplotlib.lines import Line2D

        figure, (axis,) = new_figure(width=8.6, height=5.4)
        bottom = points[:, 1].min() / 1.6
        for place, (name, rate) in enumerate(bandwidths.items()):
            ridge = peak / rate
            axis.plot([low, ridge], [low * rate, peak], color=FAINT, linestyle=LINES[place % len(LINES)], linewidth=1.3, zorder=1)
            at = max(low * 1.15, 1.3 * bottom / rate)
            if at < ridge:
                axis.text(at, at * rate * 1.06, f"{name}: {rate:.0f} GB/s", fontsize=7.5, rotation=np.degrees(np.arctan(rate)),
                          rotation_mode="anchor", transform_rotates_text=True, ha="left", va="bottom", zorder=1)  # fmt: skip
        axis.axhline(peak, color=INK, linewidth=1.3, zorder=1)
        axis.annotate(f"peak: {peak:.0f} GFLOP/s", (low, peak), (4, 3), textcoords="offset points", fontsize=8, va="bottom")
        handles = []
        for place, (kind, named) in enumerate(groups.items()):
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            for who, some in named.items():
                x, y = np.transpose(np.array(some, dtype=float))
                filled = who == everyone[0]
                axis.scatter(x, y, s=26 if filled else 20, marker=marker, linewidth=0.5 if filled else 0.9, zorder=3 if filled else 2,
                             facecolor=color if filled else "none", edgecolor="white" if filled else color, alpha=0.9)  # fmt: skip
            handles.append(Line2D([], [], linestyle="", marker=marker, color=color, label=kind))
        for who in everyone:
            face = INK if who == everyone[0] else "none"
            handles.append(Line2D([], [], linestyle="", marker="o", markerfacecolor=face, markeredgecolor=INK, color=INK, label=who))
        axis.set_xlim(low, high)
        axis.set_ylim(bottom, 1.9 * max(peak, points[:, 1].max()))
        log_ticks(axis, "x")
        log_ticks(axis, "y")
        axis.set_xlabel("operations a byte of compulsory traffic")
        axis.set_ylabel("GFLOP/s")
        axis.legend(handles=handles, loc="lower right")
        axis.set_title(title)
    return figure

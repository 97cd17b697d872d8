"""One look for all plots, and their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regnet.atomic import replaced_atomically
from regnet.errors import RegNetError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, the darker ones first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#8C6D31")
LINES = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)), (0, (8, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT, GRID = "#333333", "#8a929b", "#e6e9ed"
SUFFIXES = (".svg", ".png", ".pdf")
SETTINGS = {
    "font.size": 9.5, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": True, "legend.edgecolor": "none", "legend.framealpha": 0.8, "legend.fontsize": 8.5,
    "lines.linewidth": 1.8, "savefig.facecolor": "white",
    "svg.hashsalt": "regnet",  # the same figure gives the same file
}  # fmt: skip


class PlotError(RegNetError, ValueError):
    """A figure that cannot be drawn or a file that cannot be written."""


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for the block. Raises ImportError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'regnet-kernels[bench]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def new_figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2, **options) -> tuple[Figure, list[Axes]]:
    """A figure of width x height inches and its axes, row by row, with a grid. Takes no window and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for axis in axes:
        axis.grid(color=GRID, linewidth=0.8)
        axis.tick_params(length=3)
    return figure, axes


def check_figure_path(path: str | Path) -> Path:
    """The path as a Path. Raises PlotError for a suffix that is none of .svg, .png, .pdf, and for a folder."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"{path}: unknown suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise PlotError(f"{path} is a folder: name a file")
    return path


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the suffix, replacing an existing file when the new one is complete. Raises PlotError."""
    path = check_figure_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()[1:]
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with styled(), replaced_atomically(path) as file:
        figure.savefig(file, format=kind, dpi=150, metadata=date)


def log_ticks(axis: Axes, which: str, values: tuple[float, ...] = (1, 2, 5)) -> None:
    """A logarithmic x or y axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axis, f"set_{which}scale")("log")
    scale = getattr(axis, f"{which}axis")
    low, high = getattr(axis, f"get_{which}lim")()
    scale.set_major_locator(LogLocator(subs=values if high < 2000 * low else (1,)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value >= 1e-3 else f"{value:.0e}"))
    scale.set_minor_formatter(NullFormatter())


def place_labels(
    axis: Axes, points: list[tuple[float, float, str, str]], curves: list[tuple[list[float], list[float]]], size: float = 7.5
) -> None:
    """Names beside points (x, y, text, colour), each on the side where it covers least of other names, points and curves (x, y);
    one that would cover another name is left out. Call it last: it measures the axis as it is."""
    axis.figure.draw_without_rendering()
    marks = axis.transData.transform([(x, y) for x, y, _, _ in points])
    inked = np.concatenate([_along(axis.transData.transform(np.transpose(curve))) for curve in curves] + [marks[:0]])
    inside, taken = axis.bbox.padded(4), []
    for (x, y, text, color), mark in zip(points, marks, strict=True):
        others = marks[(marks != mark).any(axis=1)]
        found = []
        for rank, (dx, dy, ha, va) in enumerate(_SIDES):
            label = axis.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=size, color=color)
            box = label.get_window_extent()
            out = not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))
            blocked = out or any(box.overlaps(other) for other in taken)
            preference = 15 if abs(dy) > 6 else 0.1 * rank
            penalty = 1000 * blocked + 50 * _covered(box.padded(3), others) + 2 * _covered(box, inked) + preference
            found.append((penalty, rank, label, box))
        penalty, _, best, box = min(found, key=lambda entry: entry[:2])
        for *_, label, _ in found:
            if label is not best or penalty >= 1000:
                label.remove()
        if penalty < 1000:
            taken.append(box)


_SIDES = (
    (6, 0, "left", "center"), (4, 5, "left", "bottom"), (4, -5, "left", "top"), (0, 6, "center", "bottom"), (0, -6, "center", "top"),
    (-4, -5, "right", "top"), (-4, 5, "right", "bottom"), (-6, 0, "right", "center"), (9, 11, "left", "bottom"),
    (-9, -11, "right", "top"),
)  # fmt: skip


def _along(corners: np.ndarray, step: float = 4.0) -> np.ndarray:
    """Points every few pixels of a polyline (n, 2)."""
    parts = [corners[:1]]
    for a, b in zip(corners[:-1], corners[1:], strict=True):
        count = max(1, int(np.hypot(*(b - a)) / step))
        parts.append(a + (b - a) * np.linspace(0, 1, count, endpoint=False)[:, None])
    return np.concatenate(parts)


def _covered(box, points: np.ndarray) -> int:
    return int(((points[:, 0] > box.x0) & (points[:, 0] < box.x1) & (points[:, 1] > box.y0) & (points[:, 1] < box.y1)).sum())

"""Latency bars of every peer, with the floor as a line: one panel per model, one row per source and batch size."""

from __future__ import annotations

import textwrap
from pathlib import Path

from regnet.bench.peers import PEERS
from regnet.bench.tables import milliseconds

OURS, OTHERS, FLOOR, INK = "#c8452f", "#9fb3c8", "#1f2d3d", "#333333"


def save_plot(results: dict, path: Path) -> None:
    """Write the PNG (or whatever the suffix says). Raises ImportError without matplotlib, ValueError for an unknown suffix."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'regnet-kernels[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    latency = results["latency"]
    models = list(dict.fromkeys(record["model"] for record in latency))
    rows = list(dict.fromkeys((record["source"], record["batch"]) for record in latency))
    names = [name for name in PEERS if any(record["peer"] == name for record in latency)]
    figure, axes = plt.subplots(
        len(rows), len(models), squeeze=False, layout="constrained",
        figsize=(1.9 + 2.5 * len(models), 1.3 + (0.6 + 0.3 * len(names)) * len(rows)),
    )  # fmt: skip
    for row, (source, batch) in enumerate(rows):
        for column, model in enumerate(models):
            chosen = {r["peer"]: r for r in latency if (r["model"], r["source"], r["batch"]) == (model, source, batch)}
            axis = axes[row][column]
            _panel(axis, chosen, names, labelled=column == 0)
            if row == 0:
                axis.set_title(model, fontsize=11, color=INK, fontweight="bold")
            if column == 0:
                axis.set_ylabel(f"{source}\nbatch {batch}", fontsize=10, color=INK, fontweight="bold")
            if row == len(rows) - 1:
                axis.set_xlabel("ms a batch", fontsize=9, color=INK)
    one, machine = latency[0], results["machine"]
    isa = (machine["kernels"] or {}).get("chosen", "no extension")
    title = (
        f"RegNet inference, {one['resolution']}x{one['resolution']}, {one['dtype']}, {one['threads']} threads: median latency,"
        f" whiskers 20th to 80th percentile; dashed: floor at {machine['peak']['gflops']:.0f} GFLOP/s.",
        f"{machine['cpu']} (model {machine['cpu_model']}), kernels {isa}, torch {results['versions']['torch']}, {results['date'][:10]}",
    )
    across = int(figure.get_figwidth() * 12)  # characters of this size that fit
    figure.suptitle("\n".join(line for part in title for line in textwrap.wrap(part, across)), fontsize=10.5, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=130, facecolor="white")
    finally:
        plt.close(figure)


def _panel(axis, chosen: dict[str, dict], names: list[str], labelled: bool) -> None:
    places = range(len(names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_yticks(list(places), [PEERS[name].label for name in names] if labelled else [], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=INK)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="x", color="#e6e9ed", linewidth=0.8)
    axis.set_axisbelow(True)
    if not chosen:
        axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color="#888888", fontsize=9)
        return
    right = 1.28 * max(record["p80_ms"] for record in chosen.values())
    axis.set_xlim(0, right)
    for place, name in zip(places, names, strict=True):
        if (record := chosen.get(name)) is None:
            axis.text(0.02 * right, place, "omitted", va="center", color="#888888", fontsize=8, style="italic", zorder=5,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
            continue
        median = record["median_ms"]
        spread = [[max(0.0, median - record["p20_ms"])], [max(0.0, record["p80_ms"] - median)]]
        axis.barh(place, median, height=0.68, color=OURS if name == "ours" else OTHERS)
        axis.errorbar(median, place, xerr=spread, color=INK, linewidth=0.9, capsize=2)
        axis.text(
            record["p80_ms"] + 0.02 * right, place, milliseconds(median), va="center", fontsize=8.5, color=INK,
            fontweight="bold" if name == "ours" else "normal",
        )  # fmt: skip
    floor = next(iter(chosen.values()))["floor_ms"]
    axis.axvline(floor, color=FLOOR, linestyle=(0, (4, 2)), linewidth=1.2)

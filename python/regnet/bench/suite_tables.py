"""Results of the suites `ops` and `blocks`, and comparisons of two files, as tables for a terminal; and the points of a roofline."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regnet.bench.compare import Comparison
from regnet.bench.machine import MIB
from regnet.bench.rows import identity
from regnet.bench.suite import SUITES

STYLES = {"faster": "green", "slower": "bold red", "same": "dim"}


def print_shapes(results: dict, console: Console, most: int) -> None:
    """Machine, a line a kind, the `most` shapes that cost the models most above the floor, and what was left out."""
    about, peak = results["provenance"], results["peak"]
    rates = ", ".join(f"{rate:.0f} at {int(size) // MIB} MiB" for size, rate in results["copy_gbytes_s"].items())
    lines = [
        f"{about['machine']}, {about['threads']} of {about['cores']} cores, kernels {about['isa']}, {results['dtype']}, "
        f"torch {about['torch']}"
        + (f", commit {about['commit']}" if about["commit"] else ""),
        f"peak {peak['gflops']:.0f} GFLOP/s ({peak['method']}); copying, read and written: {rates} GB/s",
        f"{results['coverage']:.1%} of the floor time of {len(results['models'])} models, {results['shapes']} shapes in all",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if results["rows"]:
        console.print(kinds_table(results))
        console.print(losses_table(results, most))
    if results["suite"] == "ops" and results["rows"]:
        costs = {SUITES["ops"][row["peer"]].label: row["call_ms"] for row in results["rows"] if row["call_ms"]}
        text = ", ".join(f"{who} {1e3 * ms:.0f} us" for who, ms in costs.items())
        console.print(f"cost of a call, in every time of the peers: {text}", highlight=False)
    for line in results["omitted"]:
        console.print(f"omitted: {line}", highlight=False, markup=False)
    if results["interrupted"]:
        console.print("interrupted: the same command goes on from here if it has a --csv file", highlight=False)
    elif results["steps_left"]:
        left = results["steps_left"]
        console.print(f"{left} steps were left for want of time: the same command goes on if it has a --csv file", highlight=False)


def kinds_table(results: dict) -> Table:
    table = Table(title="By kind; means over shapes; the share of the floor weighs each shape by its part in the models",
                  title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    peers = SUITES[results["suite"]]
    ran = [name for name in peers if any(name in entry["peers"] for entry in results["summary"])]
    for column in ("kind", "shapes", "of the\nfloor time"):
        table.add_column(column, justify="left" if column == "kind" else "right", vertical="bottom")
    for name in ran:
        table.add_column(f"floor /\n{peers[name].heading}", justify="right", vertical="bottom")
    for name in ran[1:]:
        table.add_column(f"{peers[name].heading} /\nours (less a call)", justify="right", vertical="bottom")
    for entry in results["summary"]:
        by = entry["peers"]
        shares = [f"{by[name]['floor_over_time']:.0%}" if by.get(name, {}).get("floor_over_time") else "-" for name in ran]
        over = [_over(by[name]) if name in by else "-" for name in ran[1:]]
        table.add_row(entry["kind"], str(entry["shapes"]), f"{entry['floor_share']:.1%}", *shares, *over)
    return table


def _over(entry: dict) -> str:
    net = "-" if entry["over_ours_net"] is None else f"{entry['over_ours_net']:.2f}x"
    return f"{entry['over_ours']:.2f}x" + (f" ({net})" if net != f"{entry['over_ours']:.2f}x" else "")


def losses_table(results: dict, most: int) -> Table:
    title = "What costs the models most above its floor"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("kernel" if results["suite"] == "ops" else "block", no_wrap=True, vertical="bottom")
    columns = ("of floor\ntime", "ours\nms", "floor\nms", "GFLOP/s", "of peak", "GB/s", "flop /\nbyte", "best peer", "its ms", "over\nours")
    for column in columns:
        table.add_column(column, justify="right", vertical="bottom", no_wrap=True)
    groups = by_shape(results["rows"])
    ours = [group["ours"] for group in groups.values() if group.get("ours", {}).get("median_ms")]
    for row in sorted(ours, key=_loss, reverse=True)[:most]:
        best = best_peer(groups[identity(row, peer=False)])
        theirs = (best["peer"], milliseconds3(best["median_ms"]), f"{best['median_ms'] / row['median_ms']:.2f}x") if best else ("-",) * 3
        batch = f", batch {row['batch']}" if len(results["batches"]) > 1 else ""
        table.add_row(
            row_text(row) + batch, f"{row['floor_share']:.2%}", milliseconds3(row["median_ms"]), milliseconds3(row["floor_ms"]),
            f"{row['gflops']:.0f}", f"{row['share_of_peak']:.0%}", f"{row['gbytes_s']:.1f}", f"{row['intensity']:.1f}", *theirs,
        )  # fmt: skip
    return table


def _loss(row: dict) -> float:
    return row["floor_share"] * (row["median_ms"] / row["floor_ms"] - 1)


def shape_text(row: dict) -> str:
    """14x14, 208 > 208, g 8, stride 2"""
    channels = [row["c_in"], row["c_out"]]
    if row.get("c_mid"):
        channels.insert(1, row["c_mid"])
    parts = [f"{row['side']}x{row['side']}", " > ".join(map(str, channels))]
    parts += [f"g {row['group_width']}"] * bool(row["group_width"]) + [f"stride {row['stride']}"] * (row["stride"] > 1)
    parts += [f"se {row['se_width']}"] if row.get("se_width") else []
    return ", ".join(parts)


def row_text(row: dict) -> str:
    """1x1 14x14, 208 > 208, residual + gate"""
    winograd = "Winograd" if row.get("algorithm") == "winograd" else ""
    return ", ".join(filter(None, (f"{row['kind']} {shape_text(row)}", row.get("fused", ""), winograd)))


def milliseconds3(ms: float) -> str:
    """Three digits, for times that may be far below a millisecond."""
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def by_shape(rows: list[dict]) -> dict[tuple, dict[str, dict]]:
    """{what is measured: {peer: row}}"""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        groups.setdefault(identity(row, peer=False), {})[row["peer"]] = row
    return groups


def best_peer(group: dict[str, dict]) -> dict | None:
    """The fastest row of a shape, ours aside."""
    timed = (row for name, row in group.items() if name != "ours" and row["median_ms"] is not None)
    return min(timed, key=lambda row: row["median_ms"], default=None)


def save_roofline(results: dict, path) -> None:
    """The results as a roofline plot (.png, .svg or .pdf). Raises ValueError where nothing was timed."""
    from regnet.plots import plot_roofline, save_figure

    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for group in by_shape(results["rows"]).values():
        for who, row in (("ours", group.get("ours")), ("best peer", best_peer(group))):
            if row and row["median_ms"] is not None:
                points.setdefault(row["kind"], {}).setdefault(who, []).append((row["intensity"], row["gflops"]))
    about = results["provenance"]
    rates = {int(size): rate for size, rate in results["copy_gbytes_s"].items()}
    lines = {f"copy of {size // MIB} MiB": rate for size, rate in rates.items() if size in (min(rates), max(rates))}
    batches, threads = ", ".join(map(str, results["batches"])), about["threads"]
    title = (
        f"{about['machine']}, kernels {about['isa']}, {threads} thread{'s' * (threads > 1)}, {results['dtype']}, batch {batches}\n"
        f"{results['suite']} of {len(results['models'])} models; nominal operations: Winograd may pass the peak"
    )
    save_figure(plot_roofline(points, peak=results["peak"]["gflops"], bandwidths=lines, title=title), path)


def print_comparison(found: Comparison, console: Console, most: int) -> None:
    """What makes it doubtful, what changed (the `most` largest changes), means by kind and peer, and the noise of the two runs."""
    for difference in found.differences:
        console.print(f"not the same: {difference}", highlight=False, markup=False)
    changed = sorted((row for row in found.rows if row["verdict"] != "same"), key=lambda row: -abs(math.log(row["ratio"])))
    if changed:
        console.print(changes_table(changed[:most]))
        if len(changed) > most:
            console.print(f"and {len(changed) - most} more", highlight=False)
    table = Table(title="New / old, geometric means of medians", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "peer", "rows", "new / old", "faster", "slower", "same"):
        table.add_column(column, justify="left" if column in ("kind", "peer") else "right")
    for kind, peer, count, mean in found.means:
        mine = [row["verdict"] for row in found.rows if (row["kind"], row["peer"]) == (kind, peer)]
        table.add_row(kind, peer, str(count), f"{mean:.3f}", *(str(mine.count(verdict)) for verdict in STYLES))
    console.print(table)
    console.print(
        f"a row counts as changed beyond {found.threshold:.0%}, if the ranges from the 20th to the 80th percentile do not touch; "
        f"within a row these ranges are {found.noise[0]:.1%} (old) and {found.noise[1]:.1%} (new) of the median wide", highlight=False,
    )  # fmt: skip
    verdicts = [row["verdict"] for row in found.rows]
    alone = f"; {found.only_old} only in the old run, {found.only_new} only in the new one" if found.only_old or found.only_new else ""
    console.print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in STYLES) + alone, highlight=False)


def changes_table(rows: list[dict]) -> Table:
    table = Table(title="What changed (new / old, medians)", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("what", "peer"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "old ms", "new ms", "new / old", ""):
        table.add_column(column, justify="right")
    for row in rows:
        what = f"{row['model']} ({row['source']})" if "model" in row else row_text(row)
        table.add_row(
            what, row["peer"], str(row["batch"]), milliseconds3(row["old_ms"]), milliseconds3(row["new_ms"]), f"{row['ratio']:.2f}",
            Text(row["verdict"], STYLES[row["verdict"]]),
        )  # fmt: skip
    return table

"""Results as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regnet.bench.peers import PEERS
from regnet.bench.results import KEY, key


def print_results(results: dict, console: Console) -> None:
    """Machine, parity, latency with floor and speed-up, means, and everything that was left out."""
    machine = results["machine"]
    peak = machine["peak"]
    isa = (machine["kernels"] or {}).get("chosen", "extension not loaded")
    console.print(f"{machine['cpu']} (model {machine['cpu_model']}), {machine['cores']} cores, kernels: {isa}", highlight=False)
    console.print(
        f"peak {peak['gflops']:.0f} GFLOP/s on {peak['threads']} threads ({peak['method']}); "
        f"{len(results['images'])} images: {', '.join(results['images'])}",
        highlight=False,
    )
    console.print(f"weights: {results['weights']}", highlight=False)
    console.print(parity_table(results["parity"]))
    console.print(latency_table(results))
    if results["summary"]:
        console.print(summary_table(results["summary"]))
    for line in omitted_lines(results["omitted"]):
        console.print(f"omitted: {line}", highlight=False, markup=False)  # "[bench]" is no style


def parity_table(rows: list[dict]) -> Table:
    table = Table(title="Parity: error against the model in float64, max |y - y64| / max |y64|", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "source"):
        table.add_column(column)
    for column in ("images", "worst block", "logits", "logits of\neager", "top-1\nagrees", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["model"], row["source"], str(row["images"]), f"{row['worst_block_rel_err']:.1e}", f"{row['ours_rel_err']:.1e}", f"{row['eager_rel_err']:.1e}",
            f"{row['top1_agreement']:.0%}", Text("ok", "green") if row["passed"] else Text("FAILED", "bold red"),
        )  # fmt: skip
    return table


def latency_table(results: dict) -> Table:
    """One row per configuration: ms of every peer that ran anywhere, the best in bold; floor, floor over ours, speed-up."""
    groups: dict[tuple, dict[str, dict]] = {}
    for record in results["latency"]:
        groups.setdefault(key(record), {})[record["peer"]] = record
    names = [name for name in PEERS if any(name in group for group in groups.values())]
    rows = {tuple(row[name] for name in KEY): row for row in results["speedups"]}
    one = results["latency"][0]
    title = f"Latency: ms a batch, median, {one['resolution']}x{one['resolution']}, {one['dtype']}, {one['threads']} threads"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "source"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", *(PEERS[name].heading for name in names), "floor", "floor /\nours", "speed-up over\nthe best peer"):
        table.add_column(column, justify="right")
    for group, by_peer in groups.items():
        best = min(by_peer.values(), key=lambda record: record["median_ms"])["peer"]
        cells = [
            Text(milliseconds(by_peer[name]["median_ms"]), "bold" if name == best else "") if name in by_peer else Text("-", "dim")
            for name in names
        ]
        row = rows.get(group)
        end = (f"{row['share_of_peak']:.0%}", _speedup(row["speedup"])) if row else ("-", "-")
        floor = milliseconds(next(iter(by_peer.values()))["floor_ms"])
        table.add_row(group[0], group[1], str(group[2]), *cells, floor, *end)
    return table


def summary_table(rows: list[dict]) -> Table:
    names = [name for name in PEERS if any(name in row["geomean_over"] for row in rows)]
    table = Table(title="Speed-up of ours, geometric means over models and sources", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("batch", "over the\nbest peer", *(f"over\n{PEERS[name].heading}" for name in names), "floor /\nours", "worst over\nthe best peer"):
        table.add_column(column, justify="right", vertical="bottom")
    table.add_column("where", no_wrap=True)
    for row in rows:
        means = [f"{row['geomean_over'][name]:.2f}x" if name in row["geomean_over"] else "-" for name in names]
        table.add_row(
            str(row["batch"]), _speedup(row["geomean_speedup"]), *means, f"{row['geomean_share_of_peak']:.0%}",
            f"{row['worst_speedup']:.2f}x", row["worst_model"],
        )  # fmt: skip
    return table


def omitted_lines(omitted: list[dict]) -> list[str]:
    """One line per reason, with everything that it kept from running."""
    by_reason: dict[tuple, list[str]] = {}
    for entry in omitted:
        what = PEERS[entry["peer"]].label if entry["peer"] in PEERS else None
        where = " ".join(str(entry[name]) for name in ("model", "source") if entry[name])
        where += f" batch {entry['batch']}" if entry["batch"] else ""
        by_reason.setdefault((what, entry["reason"]), []).append(where)
    lines = []
    for (what, reason), places in by_reason.items():
        head = what or ""
        spots = ", ".join(place for place in places if place)
        where = f" ({spots})" if spots and head else spots
        lines.append(f"{head}{where}: {reason}")
    return lines


def milliseconds(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _speedup(value: float) -> Text:
    return Text(f"{value:.2f}x", "bold green" if value >= 1 else "bold red")

"""`regnet tune`: measure the CPU kernels' choices for the layers of named models on this machine, show them, forget them."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from regnet.cli.output import comma_list, comma_numbers, console, plain, positive, print_json

DTYPES = ("float32", "bfloat16")
UNSTEADY = 0.1  # between rounds of the same network
DESCRIPTION = """Measure, layer by layer and inside the whole network, what the CPU kernels' heuristics decide: direct convolution or Winograd,
images that go through together, how each convolution is cut into tasks. What gains 2 % and does so again is kept for this CPU, instruction
set and build of the kernels, and used by every network with that layer at that batch, resolution and number of threads.

Each model is kept when it is done: interrupted, the same command goes on behind it. The folder is REGNET_KERNELS_CACHE_DIR, else
regnet_kernels in the user's cache folder."""
EXAMPLES = """examples:
  regnet tune --models regnety_400mf                       batch 1, torch's threads
  regnet tune --models 'regnety*' --batches 1,16 --threads 1,2
  regnet tune --show                                       what is tuned on this machine
  regnet tune --forget                                     back to the heuristics"""


class Job(NamedTuple):
    model: str
    batch: int
    threads: int


def add(subparsers):
    parser = subparsers.add_parser("tune", help="measure the CPU kernels' choices on this machine", description=DESCRIPTION, epilog=EXAMPLES)
    what = parser.add_argument_group("what to tune")
    what.add_argument("--models", type=comma_list, default=(), metavar="A,B", help="names or patterns")
    what.add_argument("--batches", "--batch", type=comma_numbers, default=(1,), metavar="N,M", help="batch sizes (default: 1)")
    what.add_argument("--threads", type=comma_numbers, metavar="N,M", help="numbers of threads (default: torch's)")
    what.add_argument("--dtype", choices=DTYPES, default="float32", help="what the network computes in (default: %(default)s)")
    what.add_argument("--resolution", type=positive, default=224, help="image side (default: %(default)s)")
    what.add_argument("--exact", action="store_true", help="networks without Winograd, as optimize(exact=True) makes them")
    what.add_argument("--again", action="store_true", help="measure what is known too")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--show", action="store_true", help="show what is tuned, and tune nothing")
    known.add_argument("--forget", action="store_true", help="delete what is tuned on this machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    from regnet_kernels.tuning import cpu

    if options.forget:
        count = cpu.clear()
        _print(options, {"forgotten": count}, f"{count} layers forgotten; the heuristics choose")
        return 0
    if options.show:
        _show(options, cpu)
        return 0
    jobs = _jobs(options)
    rows, interrupted = _work(options, jobs)
    path = str(cpu.cache_file(cpu.identity()))
    if options.json:
        print_json({"file": path, "rows": rows, "interrupted": interrupted})
    else:
        screen = console()
        screen.print(_summary(rows, options))
        plain(screen, f"kept in {path}")
        if unsteady := [row for row in rows if row["spread"] > UNSTEADY]:
            worst = max(row["spread"] for row in unsteady)
            plain(screen, f"the times of {len(unsteady)} varied by up to {worst:.0%} while nothing changed: on a quiet machine --again may find more")
        if interrupted:
            plain(screen, f"interrupted: {len(rows)} of {len(jobs)} done and kept; the same command goes on")
    return 130 if interrupted else 0


def _jobs(options: argparse.Namespace) -> list[Job]:
    import torch

    from regnet.models import find_model, list_models

    if not options.models:
        raise ValueError("name the models to tune: --models regnety_400mf,regnetx_1.6gf, or a pattern")
    names: dict[str, None] = {}
    for what in options.models:
        found = list_models(what) if any(mark in what for mark in "*?[") else [find_model(what)[0].name]
        if not found:
            raise ValueError(f"no model matches {what!r}; `regnet list` shows all")
        names.update(dict.fromkeys(found))
    return [Job(name, batch, threads) for name in names for threads in options.threads or (torch.get_num_threads(),) for batch in options.batches]


def _work(options: argparse.Namespace, jobs: list[Job]) -> tuple[list[dict], bool]:
    """A row for each job that was done, and whether Ctrl-C ended it."""
    import torch
    from regnet_kernels.tuning import cpu

    import regnet

    before, rows, packed, name = torch.get_num_threads(), [], None, ""
    dtype = getattr(torch, options.dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[trials]}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("tuning", total=len(jobs), trials="")
            for job in jobs:
                progress.update(task, description=f"{job.model}, batch {job.batch}, {_threads(job.threads)}", trials="")
                if job.model != name:  # the jobs of a model follow each other
                    packed = None
                    packed = regnet.optimize(regnet.create_model(job.model).eval(), dtype=dtype, exact=options.exact, inplace=True).packed
                    name = job.model
                torch.set_num_threads(job.threads)
                x = torch.randn(job.batch, packed.c_in, options.resolution, options.resolution, generator=torch.Generator().manual_seed(0)).to(dtype)
                found = cpu.tune(packed, x, again=options.again, progress=lambda count: progress.update(task, trials=f"trial {count}"))
                rows.append(_row(job, found))
                progress.advance(task)
    except KeyboardInterrupt:
        return rows, True
    finally:
        torch.set_num_threads(before)
    return rows, False


def _row(job: Job, found) -> dict:
    better = [layer for layer in found.layers if layer.choice.integers != type(layer.choice)().integers]
    return {**job._asdict(), "layers": len(found.layers), "measured": sum(layer.measured for layer in found.layers), "tuned": len(better),
            "heuristic_ms": found.heuristic_ms, "ms": found.ms, "spread": found.spread, "trials": found.trials}  # fmt: skip


def _summary(rows: list[dict], options: argparse.Namespace) -> Table:
    table = Table(box=box.SIMPLE, title=f"tuned, {options.dtype}, {options.resolution}x{options.resolution}", title_justify="left")
    for heading in ("model", "batch", "threads", "layers", "new", "better", "heuristics ms", "tuned ms", "gain"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in rows:
        gain = row["heuristic_ms"] / row["ms"] - 1
        cells = (row["model"], *(str(row[key]) for key in ("batch", "threads", "layers", "measured", "tuned")))
        table.add_row(*cells, f"{row['heuristic_ms']:.3f}", f"{row['ms']:.3f}", f"{gain:.1%}" if row["tuned"] else "-")
    return table


def _show(options: argparse.Namespace, cpu) -> None:
    entries = cpu.entries()
    better = {layer: entry for layer, entry in sorted(entries.items()) if entry.choice != cpu.Choice()}
    path = str(cpu.cache_file(cpu.identity()))
    rows = [{"layer": str(layer), "choice": str(entry.choice), "heuristic_ms": entry.heuristic_ms, "ms": entry.ms} for layer, entry in better.items()]
    text = f"{len(entries)} layers measured, {len(better)} better than the heuristics' choice; {path}" if entries else f"nothing is tuned here; {path}"
    _print(options, {"file": path, "identity": cpu.identity()._asdict(), "measured": len(entries), "layers": rows}, text)
    if rows and not options.json:
        table = Table(box=box.SIMPLE)
        for heading in ("layer", "choice", "heuristics ms", "tuned ms"):
            table.add_column(heading, justify="right" if heading.endswith("ms") else "left")
        for row in rows:
            table.add_row(row["layer"], row["choice"], f"{row['heuristic_ms']:.3f}", f"{row['ms']:.3f}")
        console().print(table)


def _print(options: argparse.Namespace, value: dict, text: str) -> None:
    if options.json:
        print_json(value)
    else:
        plain(console(), text)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"

"""`regnet compare`: the paper's comparison tables, with latencies of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from regnet.cli.output import comma_list, console, plain, positive, print_json

DESCRIPTION = """Join the published errors and V100 times of RegNet, ResNe(X)t, EfficientNet and mobile models (arXiv 2003.13678)
with flops, params and activations counted here and latency measured here: RegNet and ResNe(X)t on our kernels and in eager
PyTorch, the others in eager PyTorch (channels_last), each at its published resolution with random weights. Prints the paper's
tables: the mobile regime, ResNe(X)t at equal flops and at equal activations, EfficientNet at equal flops."""

EXAMPLES = """examples:
  regnet compare --out compare.json --plot compare.svg         all 37 models; interrupted, the same line goes on
  regnet compare --no-measure                                  the published figures alone
  regnet compare --models 'regnetx*,efficientnet-b5' --batch 16 --json"""


def add(subparsers):
    parser = subparsers.add_parser(
        "compare", help="RegNet, ResNe(X)t and EfficientNet on this machine", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.add_argument("--models", type=comma_list, metavar="A,B", help="names, families or patterns (default: all)")
    parser.add_argument("--batch", type=positive, default=1, help="images a call (default: %(default)s)")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: torch's")
    parser.add_argument(
        "--resolution", type=positive, metavar="N", help="time every model at this image side (default: the published ones)"
    )
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="blocks of calls each (default: %(default)s)")
    parser.add_argument("--block-seconds", type=float, default=0.2, metavar="S", help="length of a block (default: %(default)s)")
    parser.add_argument("--no-measure", action="store_true", help="no latency here")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="keep the results here, model by model; go on from there if it exists"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="error against latency (.svg, .png or .pdf)")
    parser.add_argument("--runtime-plot", type=Path, metavar="FILE.svg", help="flops, params and activations against latency")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options: argparse.Namespace) -> None:
    from regnet.plots import check_figure_path
    from regnet.published.models import find_published
    from regnet.published.run import Plan, begin
    from regnet.published.tables import comparison_tables

    if options.models is not None and not options.models:
        raise ValueError("--models names no model; leave it out for all")
    if options.block_seconds <= 0:
        raise ValueError(f"--block-seconds {options.block_seconds:g}: expected more than 0")
    if options.resolution is not None and options.resolution < 32:
        raise ValueError(f"resolution {options.resolution} is too small: the networks halve it five times; use at least 32")
    if options.out and options.out.is_dir():
        raise IsADirectoryError(f"{options.out} is a folder: name a file")
    for path in filter(None, (options.plot, options.runtime_plot)):
        check_figure_path(path)
    if options.runtime_plot and options.no_measure:
        raise ValueError("--runtime-plot shows latencies of this machine: leave --no-measure out")
    models = find_published(options.models)
    plan = Plan(
        models, not options.no_measure, options.batch, options.threads, options.resolution, options.rounds, options.block_seconds
    )  # fmt: skip
    begin(plan, options.out)  # a file that cannot be continued is an error before anything else
    results = _with_progress(plan, options.out)
    _plot(options, results, models)
    tables = comparison_tables(results, models)
    if options.json:
        print_json(results | {"tables": {table.name: [_as_json(group) for group in table.groups] for table in tables}})
    else:
        _print(results, models, tables, measured=plan.latency)


def _with_progress(plan, out: Path | None) -> dict:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from regnet.published.run import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=plan.steps)

        def advance(text: str, count: int) -> None:
            progress.update(task, advance=count, **({"description": text} if text else {}))

        return run(plan, out, advance)


def _plot(options, results: dict, models) -> None:
    from regnet.plots import plot_error_latency, plot_runtime, save_figure
    from regnet.published.tables import complexity_and_runtime, error_over_latency

    measured = any(row["latency"] for row in results["models"].values())
    where = f"{results['machine']['cpu']}, {results['settings']['threads']} threads"
    if options.plot:
        xlabel = f"ms a batch of {results['settings']['batch']}, {where}" if measured else "ms for 64 images on a V100"
        title = (
            "RegNet and ResNe(X)t on our kernels, others eager channels_last"
            if measured
            else "Published errors and times (arXiv 2003.13678)"
        )
        save_figure(plot_error_latency(error_over_latency(results, models), xlabel=xlabel, title=title), options.plot)
    if options.runtime_plot:
        unit = f"ms a batch of {results['settings']['batch']}"
        save_figure(plot_runtime(complexity_and_runtime(results, models), unit=unit), options.runtime_plot)


def _as_json(group) -> list[dict]:
    fields = ("v100_ms", "here_ms", "eager_ms", "faster_v100", "faster_here", "faster_eager")
    return [
        {"name": row.model.name, "error": row.model.error, **row.cost} | {name: getattr(row, name) for name in fields} for row in group
    ]


def _print(results: dict, models, tables, measured: bool) -> None:
    screen = console()
    machine, settings = results["machine"], results["settings"]
    if measured:
        isa = (machine["kernels"] or {}).get("chosen", "extension not loaded")
        where = f"{machine['cpu']} (model {machine['cpu_model']}), {settings['threads']} threads, batch {settings['batch']}"
        plain(screen, f"{where}, kernels: {isa}; torch {results['versions']['torch']}, {results['date'][:10]}")
        plain(screen, results["method"], style="dim")
    for table in tables:
        screen.print(_table(table.title, table.groups, measured))
    shown = {row.model.name for table in tables for group in table.groups for row in group}
    if rest := [model for model in models if model.name not in shown]:
        from regnet.published.tables import all_rows

        screen.print(_table("Others" if tables else "Models", [all_rows(results, rest)], measured))
    for name, row in results["models"].items():
        if row.get("omitted") and name in {model.name for model in models}:
            plain(screen, f"omitted: {name}: {row['omitted']}")


def _table(title: str, groups, measured: bool):
    from rich import box
    from rich.table import Table

    from regnet.bench.tables import milliseconds

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    here = ("here\nms", "here\neager ms") if measured else ()
    faster = any(row.faster_v100 for group in groups for row in group)
    ratios = ("faster\nV100", *(("faster\nhere", "faster\neager") if measured else ())) if faster else ()
    for column in ("flops\nGF", "params\nM", "acts\nM", "error\n%", "V100\nms / 64", *here, *ratios):
        table.add_column(column, justify="right", vertical="bottom")
    for group in groups:
        for row in group:
            cost = [f"{row.cost[name] / scale:.{digits}f}" if name in row.cost else "-" for name, scale, digits in _COSTS]
            times = [row.v100_ms, *((row.here_ms, row.eager_ms) if measured else ())]
            cells = ["-" if ms is None else milliseconds(ms) if place else f"{ms:g}" for place, ms in enumerate(times)]
            gains = [row.faster_v100, *((row.faster_here, row.faster_eager) if measured else ())] if faster else []
            table.add_row(
                row.model.name, *cost, f"{row.model.error:.1f}", *cells, *("" if gain is None else f"{gain:.2f}x" for gain in gains)
            )
        table.add_section()
    return table


_COSTS = (("flops", 1e9, 2), ("params", 1e6, 1), ("acts", 1e6, 1))

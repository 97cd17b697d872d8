"""`regnet bench models`, or `regnet bench` alone: whole models beside their peers, on real photographs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from regnet.cli.bench_compare import compare_options, load_old, print_compared
from regnet.cli.output import check_outputs, comma_list, comma_numbers, console, positive, print_json

HELP = {"models": "whole models on photographs (what runs with no suite)"}
DESCRIPTIONS = {"models": "What `regnet bench` does with no suite: whole models on photographs; see `regnet bench --help`."}
EXAMPLES = """examples:
  regnet bench                                           the whole table (about 8 minutes on 2 cores)
  regnet bench --models regnety_400mf --batch 1 --plot bars.png --json run.json
  regnet bench --images holiday/ --sources torchvision --peers eager,openvino
  regnet bench --compare old.csv                         run, then say what got slower or faster
  regnet bench --compare old.json new.json               compare two files without running
  regnet bench ops --minutes 2 --csv ops.csv             single kernels instead (blocks: whole blocks)"""


def options(parser: argparse.ArgumentParser, suite: str) -> None:
    from regnet.bench.peers import PEERS
    from regnet.bench.plan import DTYPES, MODELS, Plan
    from regnet.bench.sources import SOURCES

    what = parser.add_argument_group("what to run")
    what.add_argument("--models", type=comma_list, default=MODELS, metavar="A,B", help=f"default: {','.join(MODELS)}")
    what.add_argument("--sources", type=comma_list, default=Plan.sources, metavar="A,B", help=f"some of {','.join(SOURCES)} (default: timm,torchvision)")
    what.add_argument("--batch", "--batches", type=comma_numbers, default=Plan.batches, metavar="N,M", help="batch sizes (default: 1,16)")
    what.add_argument("--peers", type=comma_list, metavar="A,B", help=f"some of {','.join(PEERS)} (default: all; ours always runs)")
    what.add_argument("--dtype", choices=tuple(DTYPES), default=Plan.dtype, help="default: %(default)s")
    what.add_argument("--resolution", type=positive, default=Plan.resolution, help="image side (default: %(default)s)")
    what.add_argument("--images", type=Path, metavar="PATH", help="image file or folder of your own (default: 5 packaged photographs)")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of the one model of --models, in any known format")
    what.add_argument("--pretrained", action="store_true", help="the sources' published weights (needs internet)")
    what.add_argument("--backend", help="force a backend of regnet_kernels (default: the dispatcher's choice)")
    how = parser.add_argument_group("how to measure")
    how.add_argument("--threads", type=positive, metavar="N", help="threads for everybody (default: torch's)")
    how.add_argument("--rounds", type=positive, default=Plan.rounds, metavar="N", help="blocks of calls a peer gets (default: %(default)s)")
    how.add_argument("--block-seconds", type=float, default=Plan.block_seconds, metavar="S", help="length of a block (default: %(default)s)")
    how.add_argument("--compile-for", choices=("first", "all"), default=Plan.compile_for, help="sources that torch.compile runs on (default: %(default)s)")
    how.add_argument("--time-limit", type=float, default=Plan.time_limit, metavar="S", help="leave out work that would take longer in all; 0: none (default: %(default)s)")
    how.add_argument("--seed", type=int, default=Plan.seed, help="of the random weights (default: %(default)s)")
    out = parser.add_argument_group("what to write")
    out.add_argument("--json", metavar="FILE", help="all results; - for standard output instead of the tables")
    out.add_argument("--csv", type=Path, metavar="FILE", help="one line per configuration and peer")
    out.add_argument("--plot", type=Path, metavar="FILE.png", help="latency bars with the floor")
    compare_options(parser)


def run(options: argparse.Namespace) -> int:
    from regnet.atomic import write_json
    from regnet.bench.rows import MODEL_COLUMNS, model_rows, save_rows
    from regnet.bench.run import run
    from regnet.bench.tables import print_results

    old = load_old(options)
    to_stdout = options.json == "-"
    screen = Console(stderr=True) if to_stdout else console()
    if len(old) == 2:
        return print_compared(*old, options, screen)
    check_outputs(options)
    plan = _plan(options)
    results = _with_progress(plan, run)
    if options.json and not to_stdout:
        write_json(Path(options.json), results)
    if options.csv:
        save_rows(options.csv, model_rows(results), MODEL_COLUMNS)
    if options.plot:
        from regnet.bench.plot import save_plot

        save_plot(results, options.plot)
    if to_stdout:
        print_json(results)
    else:
        print_results(results, screen)
    if old:
        print_compared(old[0], model_rows(results), options, screen)
    if failed := [f"{row['model']} ({row['source']})" for row in results["parity"] if not row["passed"]]:
        print(f"regnet bench: error: parity failed for {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


def _plan(options: argparse.Namespace):
    from regnet.bench.plan import Plan

    threads = {"threads": options.threads} if options.threads else {}
    return Plan(
        models=options.models, sources=options.sources, batches=options.batch, peers=options.peers,
        resolution=options.resolution, dtype=options.dtype, rounds=options.rounds, block_seconds=options.block_seconds,
        images=options.images, checkpoint=options.checkpoint, pretrained=options.pretrained, backend=options.backend,
        seed=options.seed, compile_for=options.compile_for, time_limit=options.time_limit, **threads,
    )  # fmt: skip


def _with_progress(plan, run) -> dict:
    from regnet.bench.run import steps

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring the machine's peak", total=steps(plan))

        def advance(text: str, count: int) -> None:
            progress.update(task, advance=count, **({"description": text} if text else {}))

        return run(plan, advance)

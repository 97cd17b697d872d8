"""`regnet bench ops` and `regnet bench blocks`: every distinct shape of the named models, on its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from regnet.cli.bench_compare import compare_options, load_old, print_compared
from regnet.cli.output import check_outputs, comma_list, comma_numbers, console, positive, print_json

HELP = {"ops": "single kernels: 1x1, grouped 3x3, squeeze-and-excite, stem, head", "blocks": "whole blocks"}
DESCRIPTIONS = {
    "ops": """Time every distinct kernel of the named models (shapes from their configurations): ours inside a packed step, beside eager
PyTorch, oneDNN with packed weights, and torch.compile; GFLOP/s, share of the measured peak, bytes/s, and the floor, the longer of flops
at the peak and bytes at the bandwidth of copying. The shapes that are most of the models' floor time come first, so that a part of a run
tells most.""",
    "blocks": """Time every distinct block of the named models, called as a module: ours beside eager PyTorch (channels_last),
torch.compile, and ONNX Runtime and OpenVINO where they are installed. The blocks that are most of the models' floor time come first.""",
}
EXAMPLES = """examples:
  regnet bench {suite} --models regnety_400mf
  regnet bench {suite} --minutes 2 --csv {suite}.csv         two minutes of it; the same command goes on where it stopped
  regnet bench {suite} --csv new.csv --compare old.csv       run, then say what got slower or faster
  regnet bench {suite} --compare old.csv new.csv             compare two files without running
  regnet bench {suite} --isa baseline --plot roofline.png    another instruction set, beside its own peak"""


def options(parser: argparse.ArgumentParser, suite: str) -> None:
    from regnet.bench.plan import DTYPES
    from regnet.bench.suite import SUITES, ShapePlan

    what = parser.add_argument_group("what to run")
    what.add_argument("--models", type=comma_list, default=(), metavar="A,B", help="whose shapes (default: all of `regnet list`)")
    what.add_argument("--batches", "--batch", type=comma_numbers, default=ShapePlan.batches, metavar="N,M", help="batch sizes (default: 1)")
    what.add_argument("--peers", type=comma_list, metavar="A,B", help=f"some of {','.join(SUITES[suite])} (default: all; ours always runs)")
    what.add_argument("--dtype", choices=tuple(DTYPES), default=ShapePlan.dtype, help="default: %(default)s")
    what.add_argument("--resolution", type=positive, default=ShapePlan.resolution, help="image side (default: %(default)s)")
    how = parser.add_argument_group("how to measure")
    how.add_argument("--threads", type=positive, metavar="N", help="threads for everybody (default: torch's)")
    how.add_argument("--minutes", type=float, default=ShapePlan.minutes, metavar="M", help="stop in time for this (default: no limit)")
    rounds, seconds = ShapePlan.rounds, ShapePlan.block_seconds
    how.add_argument("--rounds", type=positive, default=rounds, metavar="N", help="blocks of calls for a peer (default: %(default)s)")
    how.add_argument("--seconds", type=float, default=seconds, metavar="S", help="length of such a block (default: %(default)s)")
    how.add_argument("--seed", type=int, default=ShapePlan.seed, help="of the random weights (default: %(default)s)")
    out = parser.add_argument_group("what to write")
    out.add_argument("--csv", type=Path, metavar="FILE", help="one line per shape and peer, written after every step; what it holds "
                     "already is not run again")  # fmt: skip
    out.add_argument("--fresh", action="store_true", help="replace what the --csv file holds")
    out.add_argument("--json", metavar="FILE", help="all results; - for standard output instead of the tables")
    out.add_argument("--plot", type=Path, metavar="FILE.png", help="a roofline (.png, .svg or .pdf)")
    out.add_argument("--show", type=positive, default=20, metavar="N", help="rows to print (default: %(default)s)")
    compare_options(parser)


def run(options: argparse.Namespace) -> int:
    from regnet.atomic import write_json
    from regnet.bench.suite import ShapePlan, run
    from regnet.bench.suite_tables import print_shapes, save_roofline

    old = load_old(options)
    to_stdout = options.json == "-"
    screen = Console(stderr=True) if to_stdout else console()
    if len(old) == 2:
        return print_compared(*old, options, screen)
    threads = {"threads": options.threads} if options.threads else {}
    plan = ShapePlan(
        options.suite, options.models, options.batches, options.peers, options.dtype, resolution=options.resolution, rounds=options.rounds,
        block_seconds=options.seconds, minutes=options.minutes, seed=options.seed, **threads,
    )  # fmt: skip
    check_outputs(options)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1)
        results = run(
            plan, options.csv, fresh=options.fresh,
            advance=lambda text, done, total: progress.update(task, description=text, completed=done, total=total),
        )  # fmt: skip
    if options.json and not to_stdout:
        write_json(Path(options.json), results)
    if options.plot and any(row["median_ms"] is not None for row in results["rows"]):
        save_roofline(results, options.plot)
    if to_stdout:
        print_json(results)
    else:
        print_shapes(results, screen, options.show)
    if results["interrupted"]:
        return 130
    if old:
        print_compared(old[0], results["rows"], options, screen)
    return 0

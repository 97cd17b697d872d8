"""Better configurations for the card that is here, in one command: `make gpu-tune`, or python -m benchmarks.gpu_tune.

    python -m benchmarks.gpu_tune --minutes 8
    python -m benchmarks.gpu_tune --models 'regnety*' --batches 1 --dtypes float16 bfloat16

Tunes the distinct launches of the named models (regnet_kernels.tuning), those first whose floor of time (regnet.traffic), summed over
the models, is largest. Each is kept as soon as it is found: stopped by the clock or by Ctrl-C, the next call goes on behind it.
Without a card: one line and exit status 1.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from regnet_kernels import tuning
from regnet_kernels.backends.triton import fusion
from regnet_kernels.backends.triton.shapes import DirectShape, ExpandShape, GateShape, GroupedShape, PointwiseShape, Shape
from regnet_kernels.packing import BLOCK, CONV

from benchmarks.gpu_check import no_card
from regnet.models.registry import list_models
from regnet.traffic import CARDS, Card, Pass, Traffic, plain_network

MINUTES = 8.0
BATCHES = (1, 32, 256)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Job(NamedTuple):
    """One launch to tune. floor_ms: of all its occurrences in the models together."""

    shape: Shape
    dtype: torch.dtype
    floor_ms: float


class Outcome(NamedTuple):
    """found: what was measured now; known: jobs that the cache had; failed: (job, why); left: jobs that time did not reach."""

    found: list[tuning.Tuned]
    known: int
    failed: list[tuple[Job, str]]
    left: int


def main() -> int:
    args = parse()
    if reason := no_card():
        print(f"gpu-tune: {reason.replace('nothing was checked', 'nothing was tuned')}", file=sys.stderr)
        return 1
    names = [name for name in list_models("regnet[xy]*") if any(fnmatch.fnmatch(name, pattern) for pattern in args.models)]
    if not names:
        print(f"gpu-tune: no model matches {' '.join(args.models)}; see `regnet list`", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    todo = plan(names, args.batches, [DTYPES[name] for name in args.dtypes], card_like(torch.cuda.get_device_name(device)))
    try:
        outcome = work(todo, lambda job: tuning.tune(job.shape, job.dtype, device), time.monotonic() + 60 * args.minutes)
    except KeyboardInterrupt:
        print("gpu-tune: stopped; what was tuned is kept, the same command goes on", file=sys.stderr)
        return 130
    except tuning.TuningError as error:
        print(f"gpu-tune: {error}", file=sys.stderr)
        return 1
    print(summary(outcome))
    print(f"kept in {tuning.cache_file(tuning.identity(device))}")
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no launch after this long")
    parser.add_argument("--models", nargs="+", default=["*"], help="names or patterns (default: all named X and Y)")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=list(DTYPES))
    args = parser.parse_args()
    if args.minutes <= 0 or min(args.batches) < 1:
        parser.error("--minutes and --batches must be positive")
    return args


def card_like(name: str) -> Card:
    """The datasheet of a card, or of an H100: the order of the jobs hangs on the quotient of bandwidth and peak only."""
    short = {card.name.removeprefix("RTX "): card for card in CARDS}
    return next((card for part, card in short.items() if part in name), short["H100"])


def plan(names: Iterable[str], batches: Iterable[int], dtypes: Iterable[torch.dtype], card: Card) -> list[Job]:
    """The distinct launches of the models, the most expensive first."""
    dtypes, batches = list(dtypes), list(batches)
    floors: dict[tuple[Shape, torch.dtype], float] = defaultdict(float)
    for name in names:
        specs = plain_network(name).specs
        for batch in batches:
            for shape, one in launches(specs, batch):
                for dtype in dtypes:
                    floors[shape, dtype] += Traffic((one,), dtype.itemsize).floor_ms(card)
            for shape, both in pairs(specs, batch):
                for dtype in dtypes:
                    if not fusion.why_not(shape, dtype):  # after its two layers, because it is measured against them as they are tuned
                        floors[shape, dtype] += min(Traffic((one,), dtype.itemsize).floor_ms(card) for one in both)
    return sorted((Job(*key, floor) for key, floor in floors.items()), key=lambda job: -job.floor_ms)


def launches(specs, batch: int, resolution: int = 224) -> list[tuple[Shape, Pass]]:
    """What a forward pass launches of the kernels that can be tuned, in order, and the traffic of each."""
    found, side = [], resolution
    for spec in specs:
        c, m, o = spec.c_in, spec.c_mid, spec.c_out
        if spec.kind == CONV:
            out = (side + 2 * spec.padding - spec.kernel) // spec.stride + 1
            depth, pixels = spec.kernel**2 * c, batch * out * out
            found.append((DirectShape(batch, out, out, c, o, spec.kernel, spec.stride),
                          Pass(batch * side * side * c + depth * o, pixels * o, pixels * depth * o)))
        elif spec.kind == BLOCK:
            out = (side - 1) // spec.stride + 1
            pixels, se = batch * out * out, spec.se_width
            before = batch * side * side
            found.append((PointwiseShape(batch, side, side, c, m), Pass(before * c + c * m, before * m, before * c * m)))
            found.append((GroupedShape(batch, out, out, m, spec.group_width, spec.stride, int(se > 0)),
                          Pass(before * m + 9 * spec.group_width * m, pixels * m, 9 * spec.group_width * pixels * m)))
            if se:
                found.append((GateShape(batch, out * out, m, se), Pass(2 * se * m + batch * m, batch * m, 2 * batch * se * m)))
            shortcut = (0, c, spec.stride) if spec.has_proj else (1, 0, 1)
            extra, work = (pixels * c + c * o, pixels * c * o) if spec.has_proj else (pixels * o, 0)
            found.append((PointwiseShape(batch, out, out, m, o, 1, int(se > 0), *shortcut),
                          Pass(pixels * m + m * o + extra, pixels * o, pixels * m * o + work)))
        else:
            classes = o + -o % 8
            if classes:
                found.append((PointwiseShape(batch, 1, 1, c, classes), Pass((batch + classes) * c, batch * classes, batch * c * classes)))
            continue
        side = out
    return found


def pairs(specs, batch: int, resolution: int = 224) -> list[tuple[ExpandShape, tuple[Pass, Pass]]]:
    """A block's 1x1 and its grouped 3x3 as one launch, and the traffic of the two apart. Those of stride 2: at stride 1 the 1x1 would be
    computed three times, which is far from a gain on every card of backends/triton/cards.py."""
    ours = launches(specs, batch, resolution)
    return [(ExpandShape(two.images, two.height, two.width, one.k, two.channels, two.group_width, two.stride, two.pool), (first, second))
            for (one, first), (two, second) in zip(ours, ours[1:]) if isinstance(two, GroupedShape) and two.stride == 2]


def work(todo: list[Job], tune: Callable[[Job], tuning.Tuned], deadline: float) -> Outcome:
    """Tune the jobs until `deadline` (time.monotonic()). A job that fails is listed and the others go on, unless the card failed or the
    cache cannot be written, which raises TuningError."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    found, known, failed = [], 0, []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("tuning", total=len(todo))
        for index, job in enumerate(todo):
            if time.monotonic() >= deadline:
                return Outcome(found, known, failed, len(todo) - index)
            progress.update(task, description=f"{job.shape.kernel} {' '.join(map(str, job.shape))}")
            try:
                one = tune(job)
            except tuning.LaunchError as error:
                failed.append((job, str(error)))
            else:
                known += not one.measured
                found += [one] if one.measured else []
            progress.advance(task)
    return Outcome(found, known, failed, 0)


def summary(outcome: Outcome) -> str:
    """How many launches gained, by how much, and what is left."""
    better = [one for one in outcome.found if one.ms < one.heuristic_ms]
    lines = [f"{len(outcome.found)} launches tuned, {outcome.known} were known, {outcome.left} are left for the next call"]
    if better:
        mean = math.exp(sum(math.log(one.heuristic_ms / one.ms) for one in better) / len(better))
        lines.append(f"{len(better)} are faster than the heuristic's configuration, {mean:.2f}x in the geometric mean:")
        for one in sorted(better, key=lambda one: one.ms - one.heuristic_ms)[:10]:
            name = f"{one.shape.kernel} {' '.join(map(str, one.shape))}"
            lines.append(f"  {name}: {one.heuristic_ms:.4f} -> {one.ms:.4f} ms  {tuple(one.config)}")
    lines += [f"failed: {why}" for _, why in outcome.failed]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

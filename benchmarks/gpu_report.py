"""What can be known of the GPU path without a GPU, as docs/gpu_report.md.

    python -m benchmarks.gpu_report                       all named models, cards and dtypes
    python -m benchmarks.gpu_report --cards sm_90 --models 'regnety*' --batches 256 --dtypes float16
    python -m benchmarks.gpu_report --plan                how many forms there are, and how many are still to be compiled: seconds
    python -m benchmarks.gpu_report --kept                the report of what is compiled so far
    python -m benchmarks.gpu_report --traffic-only        seconds

Compiles the launches that our own code makes for each model, batch, dtype and card, reads the machine code, and names what falls
below the bars of regnet_kernels.testing.triton_dry_run; then the traffic model (regnet.traffic). Launches of different models that
run the same compiled form share it; a form takes about half a second of one core. Interrupted, it goes on where it stopped: what was
read of a form stays in build/gpu_report until its kernel changes. Exit status 1 if a bar is missed, 2 for a Triton without bars.
"""

import argparse
import fnmatch
import os
import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from regnet.atomic import write_text
from regnet.models.registry import list_models
from regnet.traffic import CARDS, PATHS, plain_network, traffic

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "build/gpu_report"
BATCHES = (1, 32, 256)
# arch -> multiprocessors of a card of it: how a layer is cut depends on their number
MULTIPROCESSORS = {"sm_80": 108, "sm_86": 84, "sm_90": 132, "sm_100": 148, "sm_120": 170, "gfx942": 304}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def main() -> int:
    args = parse()
    names = [name for name in list_models("regnet[xy]*") if any(fnmatch.fnmatch(name, pattern) for pattern in args.models)]
    if not names:
        print(f"no model matches {' '.join(args.models)}; see `regnet list`", file=sys.stderr)
        return 1
    parts, missed = [HEADER], 0
    if not args.traffic_only:
        from regnet_kernels.testing.triton_dry_run import BARS, bars_here

        if bars_here() is None:
            import triton

            print(f"there are no bars for Triton {triton.__version__}, only for {', '.join(BARS)}: look at what this version makes of the "
                  "kernels, then add it to BARS in regnet_kernels/testing/triton_dry_run.py", file=sys.stderr)
            return 2
        forms, uses = plan(names, args)
        kept = [launch for launch in forms if (store() / f"{launch.digest}.json").exists()]
        print(f"{sum(len(using) for using in uses.values())} uses of {len(forms)} forms by {len(names)} models; {len(kept)} are known")
        if args.plan:
            return 0
        text, missed = code_report(compile_all(kept if args.kept else forms, args.jobs), forms, uses, names, args)
        parts.append(text)
    parts.append(traffic_report(names))
    write_text(Path(args.output), "\n\n".join(parts) + "\n")
    print(f"{args.output} written" + (f"; {missed} forms fall below a bar" if missed else ""))
    return 1 if missed else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["*"], help="names or patterns (default: all named X and Y)")
    parser.add_argument("--cards", nargs="+", default=list(MULTIPROCESSORS), choices=list(MULTIPROCESSORS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that compile (default: the cores)")
    parser.add_argument("--plan", action="store_true", help="count the forms, compile nothing")
    parser.add_argument("--kept", action="store_true", help="report what is compiled already, and how many forms are not yet")
    parser.add_argument("--traffic-only", action="store_true", help="compile nothing")
    parser.add_argument("--output", default=str(ROOT / "docs/gpu_report.md"))
    return parser.parse_args()


def store() -> Path:
    import triton

    return STORE / f"triton-{triton.__version__}"


def plan(names, args):
    """([Launch], {digest: {(model, batch)}}): one launch of each distinct form, by dtype and card."""
    from regnet_kernels.backends import gpu
    from regnet_kernels.backends.triton.machine import Machine
    from regnet_kernels.testing.triton_dry_run import distinct, dry_run

    found, uses = [], defaultdict(set)
    for dtype in args.dtypes:
        for arch in args.cards:
            for name in names:
                packed = plain_network(name, DTYPES[dtype])
                for batch in args.batches:
                    image = torch.empty((batch, 3, 224, 224), dtype=DTYPES[dtype], device="meta")
                    with dry_run(Machine(arch, MULTIPROCESSORS[arch])) as launches:
                        gpu.run(image, packed.weights, packed.params, packed.program, layers="triton")
                        fuse(packed.specs, batch, image)
                    found += [launch for launch in distinct(launches) if launch.digest not in uses]
                    for launch in launches:
                        uses[launch.digest].add((name, batch))
    return found, uses


def fuse(specs, batch, image):
    """The launch of the fused 1x1 and grouped 3x3 for each block that the cost model chooses it for on this card: `layers="triton"`,
    which the networks are run with to see Triton's form of each layer, keeps the two apart."""
    from regnet_kernels.backends.gpu.layers import layers
    from regnet_kernels.backends.triton import configs, fusion, kernels
    from regnet_kernels.backends.triton.machine import machine
    from regnet_kernels.backends.triton.shapes import ExpandShape

    def new(*shape, dtype=image.dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    steps = defaultdict(dict)
    for step, part, shape in layers(specs, batch, *image.shape[2:]):
        steps[step][part] = shape
    for parts in steps.values():
        if "b" not in parts:
            continue
        a, b = parts["a"], parts["b"]
        shape = ExpandShape(batch, b.height, b.width, a.k, b.channels, b.group_width, b.stride, b.pool)
        config = configs.heuristic(machine(image.device), image.dtype, shape) if not fusion.why_not(shape, image.dtype) else None
        if config is None or config.launches == 2:
            continue
        bias = new(b.channels, dtype=torch.float32)
        kernels().expand_grouped(new(batch, a.height, a.width, a.k).permute(0, 3, 1, 2), new(b.channels, a.k), bias,
                                 new(b.channels, 3, 3, b.group_width), bias, config, stride=b.stride, activation=1, pool=bool(b.pool))


FORMS = []  # what the processes that compile inherit: a launch holds a function of this process
AT_ONCE = 12  # forms that are disassembled together


def _inspect(part):
    from regnet_kernels.testing.triton_dry_run import inspect_kernels

    return part, inspect_kernels(FORMS[part], store())


def compile_all(forms, jobs):
    """[(Launch, Inspected)] in the order of `forms`."""
    FORMS[:] = forms
    found, parts, start = {}, [], 0
    for index in range(1, len(forms) + 1):
        if index == len(forms) or index == start + AT_ONCE or forms[index].card != forms[start].card:
            parts.append(slice(start, index))
            start = index
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("compiling", total=len(forms))

        def take(part, ones):
            found.update(zip(range(part.start, part.stop), ones))
            progress.update(task, advance=len(ones), description=f"{ones[0].arch} {ones[0].dtype}")

        if jobs == 1:
            for part in parts:
                take(*_inspect(part))
        else:
            with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
                try:
                    for done in as_completed([pool.submit(_inspect, part) for part in parts]):
                        take(*done.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [(forms[index], found[index]) for index in range(len(forms))]


def code_report(inspected, forms, uses, names, args):
    """(text, number of forms below a bar)"""
    import triton

    from regnet_kernels.testing.triton_dry_run import bars_here

    lines = [f"## Machine code\n\nTriton {triton.__version__}; {len(names)} models, batch {', '.join(map(str, args.batches))}, "
             f"{', '.join(args.dtypes)} (float32 as TF32): {len(inspected)} distinct compiled forms of {len(forms)}"
             f"{not_yet(inspected, forms)}. A row is a kernel on a card in a dtype: "
             "how many forms, their most registers and shared memory; how many spill, use tensor cores (on AMD: matrix cores), copy "
             "asynchronously, load 16 bytes at once; how many fall below a bar (`BARS` in `regnet_kernels/testing/triton_dry_run.py`).\n",
             "| dtype | card | kernel | forms | registers | shared KiB | spill | tensor cores | async | 16 bytes | below a bar |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    groups = defaultdict(list)
    for launch, one in inspected:
        groups[one.dtype, one.arch, one.name].append(one)
    bars = bars_here()
    for (dtype, arch, name), ones in groups.items():
        counts = [sum(map(bool, column)) for column in ([o.spills + o.stack for o in ones], [o.tensor_core for o in ones],
                                                        [o.async_copies for o in ones], [o.wide_loads for o in ones])]
        if arch.startswith("gfx"):
            counts[2] = "-"
        cells = [len(ones), max(o.registers for o in ones), f"{max(o.shared for o in ones) / 1024:.0f}", *counts,
                 sum(bool(o.faults(bars)) for o in ones) or ""]
        lines.append(f"| {dtype} | {arch} | {name} | " + " | ".join(map(str, cells)) + " |")
    below = [(launch, one) for launch, one in inspected if one.faults(bars)]
    if below:
        lines.append("\nBelow a bar:\n")
        for launch, one in below:
            cut = ", ".join(f"{name}={value}" for name, value in one.constants.items() if value not in (False, "ieee"))
            where = ", ".join(f"{model} batch {batch}" for model, batch in sorted(uses[launch.digest])[:2])
            lines.append(f"- {one.arch} {one.name} {one.dtype} ({cut}; {one.warps} warps, {one.stages} stages): "
                         f"{'; '.join(one.faults(bars))} [{where}]")
    return "\n".join(lines), len(below)


def not_yet(inspected, forms):
    """What is left to compile, in words."""
    done = {launch.digest for launch, _ in inspected}
    left = Counter(f"{launch.dtype} {launch.card.arch}" for launch in forms if launch.digest not in done)
    return f"; not compiled yet: {', '.join(f'{n} of {what}' for what, n in left.items())}" if left else ""


def traffic_report(names):
    lines = ["## Traffic model: predictions, not measurements\n",
             "MB and launches of a forward pass in float16, 224 x 224; floor in ms of our path on each card; and the quotient of floors, "
             "inductor's and eager PyTorch's over ours: the speed-up if every path ran at its floor. Floors take no account of "
             "caches and launches, so at batch 1 they are far below what any path can do. MB and launches of ours are of separate layers; the "
             "floors take a block's 1x1 and grouped 3x3 as one launch on the cards where our cost model fuses them, and `fused` says for how "
             "many blocks on A100, H100, H200, RTX 4090.\n",
             "Cards: " + "; ".join(f"{c.name} {c.bandwidth:g} GB/s, {c.peak:g} TFLOP/s ({c.source})" for c in CARDS) + "\n",
             "| model | batch | GFLOP | MB ours | inductor | eager | launches | fused | " + " | ".join(f"{c.name} ms" for c in CARDS)
             + " | H100: inductor/ours | eager/ours |", "|---|---|---|---|---|---|---|---|" + "---|" * (len(CARDS) + 2)]
    h100 = next(card for card in CARDS if card.name == "H100")
    for name in names:
        for batch in BATCHES:
            ways = {path: traffic(name, batch, path) for path in PATHS}
            ours = ways["ours"]
            there = {card: traffic(name, batch, card=card) for card in CARDS}
            fused = " ".join(str(ours.launches - there[card].launches) for card in CARDS)
            floors = " | ".join(f"{there[card].floor_ms(card):.3f}" for card in CARDS)
            quotients = " | ".join(f"{ways[path].floor_ms(h100) / there[h100].floor_ms(h100):.2f}" for path in ("inductor", "eager"))
            megabytes = " | ".join(f"{ways[path].bytes / 1e6:.0f}" for path in PATHS)
            lines.append(f"| {name} | {batch} | {ours.flops / 1e9:.1f} | {megabytes} | {ours.launches} | {fused} | {floors} | {quotients} |")
    return "\n".join(lines)


HEADER = """# GPU report

Made by `python -m benchmarks.gpu_report` without a GPU; nothing in it was measured. What was, how to read it, and how the kernels
work: [gpu.md](gpu.md)."""

if __name__ == "__main__":
    sys.exit(main())

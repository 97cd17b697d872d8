"""What can be known of the GPU path without a GPU, as docs/gpu_report.md.

    python -m benchmarks.gpu_report                       all named models, all cards: about an hour on two cores
    python -m benchmarks.gpu_report --cards sm_90 --models 'regnety*' --batches 256
    python -m benchmarks.gpu_report --traffic-only        seconds

Compiles the launches that our own code makes for each model, batch and card, reads the machine code, and names what falls
below the bars of regnet_kernels.testing.triton_dry_run; then the traffic model (regnet.traffic). Interrupted, it goes on where
it stopped: compiled kernels stay in Triton's cache, what was read of them in build/gpu_report. Exit status 1 if a bar is missed.
"""

import argparse
import fnmatch
import sys
from collections import defaultdict
from pathlib import Path

import torch
from rich.progress import Progress

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
        inspected, uses = compile_all(names, args)
        text, missed = code_report(inspected, uses, names, args)
        parts.append(text)
    parts.append(traffic_report(names))
    write_text(Path(args.output), "\n\n".join(parts) + "\n")
    print(f"{args.output} written" + (f"; {missed} kernels fall below a bar" if missed else ""))
    return 1 if missed else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["*"], help="names or patterns (default: all named X and Y)")
    parser.add_argument("--cards", nargs="+", default=list(MULTIPROCESSORS), choices=list(MULTIPROCESSORS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=list(DTYPES))
    parser.add_argument("--traffic-only", action="store_true", help="compile nothing")
    parser.add_argument("--output", default=str(ROOT / "docs/gpu_report.md"))
    return parser.parse_args()


def compile_all(names, args):
    """([Inspected], {kernel hash: set of models}) of each distinct kernel."""
    from regnet_kernels.backends import gpu
    from regnet_kernels.backends.triton.machine import Machine
    from regnet_kernels.testing.triton_dry_run import dry_run, inspect_kernel

    found, uses = {}, defaultdict(set)
    jobs = [(arch, name, dtype, batch) for arch in args.cards for name in names for dtype in args.dtypes for batch in args.batches]
    with Progress() as progress:
        task = progress.add_task("compiling", total=len(jobs))
        for arch, name, dtype, batch in jobs:
            progress.update(task, description=f"{arch} {name} {dtype} batch {batch}: {len(found)} kernels")
            packed = plain_network(name, DTYPES[dtype])
            image = torch.empty((batch, 3, 224, 224), dtype=DTYPES[dtype], device="meta")
            with dry_run(Machine(arch, MULTIPROCESSORS[arch])) as launches:
                gpu.run(image, packed.weights, packed.params, packed.program, layers="triton")
            for launch in launches:
                key = arch, launch.kernel.metadata.hash
                uses[key].add(name)
                if key not in found:
                    found[key] = inspect_kernel(launch, STORE)
            progress.advance(task)
    return found, uses


def code_report(inspected, uses, names, args):
    import triton

    lines = [f"## Machine code\n\nTriton {triton.__version__}; {len(names)} models, batch {', '.join(map(str, args.batches))}, "
             f"{', '.join(args.dtypes)}. A row is a kernel on a card; of its distinct compiled forms: how many, the most registers and "
             "shared memory, how many spill, use tensor cores, copy asynchronously, load 16 bytes at once.\n",
             "| card | kernel | dtype | forms | registers | shared KiB | spill | tensor cores | async | 16 bytes | below a bar |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    groups = defaultdict(list)
    for (arch, _), one in inspected.items():
        groups[arch, one.name, one.dtype].append(one)
    for (arch, name, dtype), ones in sorted(groups.items(), key=lambda item: (args.cards.index(item[0][0]), *item[0][1:])):
        n = len(ones)
        known = not arch.startswith("gfx")
        counts = [sum(map(bool, column)) for column in ([o.spills + o.stack for o in ones], [o.tensor_core for o in ones],
                                                        [o.async_copies for o in ones], [o.wide_loads for o in ones])]
        cells = [max(o.registers for o in ones), f"{max(o.shared for o in ones) / 1024:.0f}", *counts]
        shown = cells if known else ["", cells[1], "", "", "", ""]
        lines.append(f"| {arch} | {name} | {dtype} | {n} | " + " | ".join(map(str, shown)) + f" | {sum(bool(o.faults()) for o in ones) or ''} |")
    below = [(key, one) for key, one in inspected.items() if one.faults()]
    if below:
        lines.append("\nBelow a bar:\n")
        for key, one in below:
            cut = ", ".join(f"{name}={value}" for name, value in one.constants.items() if value not in (False, "ieee"))
            lines.append(f"- {one.arch} {one.name} {one.dtype} ({cut}; {one.warps} warps, {one.stages} stages): {'; '.join(one.faults())} "
                         f"[{', '.join(sorted(uses[key])[:3])}]")
    return "\n".join(lines), len(below)


def traffic_report(names):
    lines = ["## Traffic model: predictions, not measurements\n",
             "MB and launches of a forward pass in float16, 224 x 224; floor in ms of our path on each card; and the quotient of floors, "
             "inductor's and eager PyTorch's over ours: the speed-up if every path ran at its floor. Floors take no account of "
             "caches and launches, so at batch 1 they are far below what any path can do.\n",
             "Cards: " + "; ".join(f"{c.name} {c.bandwidth:g} GB/s, {c.peak:g} TFLOP/s ({c.source})" for c in CARDS) + "\n",
             "| model | batch | GFLOP | MB ours | inductor | eager | launches | " + " | ".join(f"{c.name} ms" for c in CARDS)
             + " | H100: inductor/ours | eager/ours |", "|---|---|---|---|---|---|---|" + "---|" * (len(CARDS) + 2)]
    h100 = next(card for card in CARDS if card.name == "H100")
    for name in names:
        for batch in BATCHES:
            ways = {path: traffic(name, batch, path) for path in PATHS}
            ours = ways["ours"]
            floors = " | ".join(f"{ours.floor_ms(card):.3f}" for card in CARDS)
            quotients = " | ".join(f"{ways[path].floor_ms(h100) / ours.floor_ms(h100):.2f}" for path in ("inductor", "eager"))
            megabytes = " | ".join(f"{ways[path].bytes / 1e6:.0f}" for path in PATHS)
            lines.append(f"| {name} | {batch} | {ours.flops / 1e9:.1f} | {megabytes} | {ours.launches} | {floors} | {quotients} |")
    return "\n".join(lines)


HEADER = """# GPU report

Made by `python -m benchmarks.gpu_report` without a GPU. **No GPU time has been measured.** How to read it, and how the kernels
work: [gpu.md](gpu.md)."""

if __name__ == "__main__":
    sys.exit(main())

"""All that a card can tell, in one command and at most eight minutes: `make gpu-check`, or python -m benchmarks.gpu_check.

In this order, so that an early end costs the least: the GPU tests against float64; compute-sanitizer's memcheck over one pass of
every kernel, where it is installed; then times, written to benchmarks/results/<card>/gpu_check.json after each one:

    models   ours and eager PyTorch (channels_last), each plain and as a CUDA graph; torch.compile(mode="max-autotune") as far
             as time goes, because it compiles for long
    blocks   a block of each stage of one model; ops: its grouped 3x3 beside the library's convolution, BatchNorm folded, and ReLU

Needs a card, no network. Without a card: one line and exit status 1. A job that fails is written down with its error, and the
others go on.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from regnet.atomic import write_json

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 8.0
MODELS = ("regnety_400mf", "regnetx_400mf", "regnety_1.6gf", "regnetx_1.6gf", "regnety_3.2gf", "regnetx_3.2gf", "regnety_8.0gf",
          "regnetx_8.0gf", "regnety_16gf", "regnetx_16gf")
BATCHES = (256, 1, 32)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WAYS = ("ours", "ours graph", "eager", "eager graph", "compile")


class Job(NamedTuple):
    """One time to take. what: "model", "block" or "op"; way: one of WAYS."""

    what: str
    name: str
    batch: int
    dtype: str
    way: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop before this long")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results/<card>)")
    parser.add_argument("--one-pass", action="store_true", help=argparse.SUPPRESS)  # what compute-sanitizer runs
    args = parser.parse_args()
    if reason := no_card():
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 1
    if args.one_pass:
        one_pass()
        return 0
    deadline = time.monotonic() + 60 * args.minutes
    folder = args.output or ROOT / "benchmarks/results" / slug(torch.cuda.get_device_name())
    folder.mkdir(parents=True, exist_ok=True)
    record = {"card": torch.cuda.get_device_name(), "versions": versions(), "tests": run_tests(deadline), "sanitizer": sanitize(deadline),
              "times": []}
    path = folder / "gpu_check.json"
    take(jobs(args.models), Bench().measure, deadline, record, lambda: write_json(path, record))
    print(summary(record))
    print(f"{path} written")
    return 0 if record["tests"]["passed"] and record["sanitizer"]["passed"] is not False else 1


def no_card() -> str:
    """Why nothing can be checked here, "" if it can."""
    from regnet_kernels.backends import triton

    if not torch.cuda.is_available():
        return "torch finds no GPU, so nothing was checked; run it on a machine with a card (see nvidia-smi, CUDA_VISIBLE_DEVICES)"
    return triton.why_not_here(torch.device("cuda", torch.cuda.current_device()))


def jobs(models: Iterable[str]) -> list[Job]:
    """Most telling first: ours and eager over all models at each batch, then blocks and ops, bfloat16, torch.compile."""
    models = list(models)
    quick = [way for way in WAYS if way != "compile"]
    found = [Job("model", name, batch, "float16", way) for batch in BATCHES for name in models for way in quick]
    found += [Job(what, f"{name} stage {stage}", 256, "float16", way) for what in ("block", "op") for name in models[:4] for stage in range(4)
              for way in ("ours graph", "eager graph")]
    found += [Job("model", name, batch, "float16", "compile") for batch in BATCHES[:2] for name in models]
    return found + [Job("model", name, batch, "bfloat16", way) for batch in BATCHES for name in models for way in quick]


def take(plan: list[Job], measure: Callable[[Job], float], deadline: float, record: dict, save: Callable[[], None]) -> None:
    """Measure the jobs (milliseconds) until `deadline` (time.monotonic()), saving after each; the rest is listed as left out."""
    for index, job in enumerate(plan):
        if time.monotonic() >= deadline:
            record["left_out"] = [list(rest) for rest in plan[index:]]
            break
        row = job._asdict()
        try:
            row["ms"] = measure(job)
        except Exception as error:  # out of memory, a kernel that does not compile: the others still tell something
            row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        record["times"].append(row)
        save()


class Bench:
    """Makes what a job runs, and times it. The last model is kept, because the jobs of one model follow each other."""

    def __init__(self):
        self.made: dict = {}

    def measure(self, job: Job) -> float:
        with torch.inference_mode():
            call = self.compiled(job) if job.way == "compile" else self.plain(job)
            call()
            torch.cuda.synchronize()
            return milliseconds(graph(call) if job.way.endswith("graph") else call)

    def plain(self, job: Job) -> Callable:
        dtype, ours = DTYPES[job.dtype], job.way.startswith("ours")
        if job.what == "model":
            model = self.model(job.name, dtype, ours)
            image = torch.randn(job.batch, 3, 224, 224, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
            return lambda: model(image)
        name, _, stage = job.name.partition(" stage ")
        block = self.model(name, dtype, False).stages[int(stage)].blocks[1]
        side = 56 >> int(stage)
        x = torch.randn(job.batch, block.a.conv.in_channels, side, side, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
        if job.what == "block":
            import regnet

            chosen = regnet.optimize(block, dtype=dtype) if ours else block
            return lambda: chosen(x)
        conv = block.b.conv
        weight, bias = conv.weight.detach(), torch.randn(conv.out_channels, device="cuda")
        if ours:
            from regnet_kernels.backends.triton.grouped import grouped

            rows = weight.permute(0, 2, 3, 1).contiguous()
            return lambda: grouped(x, rows, bias, activation=1)
        weight, low = weight.contiguous(memory_format=torch.channels_last), bias.to(dtype)
        return lambda: F.relu(F.conv2d(x, weight, low, 1, 1, 1, conv.groups))

    def compiled(self, job: Job) -> Callable:
        model = torch.compile(self.model(job.name, DTYPES[job.dtype], False), mode="max-autotune")
        image = torch.randn(job.batch, 3, 224, 224, device="cuda").to(DTYPES[job.dtype]).contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            model(image)
        return lambda: model(image)

    def model(self, name: str, dtype: torch.dtype, ours: bool):
        import regnet

        key = name, dtype, ours
        if key not in self.made:
            if len(self.made) >= 2:
                self.made.clear()
            eager = regnet.create_model(name).eval().to("cuda", dtype, memory_format=torch.channels_last)
            self.made[key] = regnet.optimize(eager) if ours else eager
        return self.made[key]


def graph(call: Callable) -> Callable:
    """`call` as a CUDA graph's replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        call()
    return captured.replay


def milliseconds(call: Callable, budget: float = 0.4) -> float:
    """The median time of a call on the card, over as many as fit into `budget` seconds, 10 at least and 200 at most."""
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    count = max(10, min(200, int(budget / max(time.perf_counter() - start, 1e-6))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))
    return times[count // 2]


def run_tests(deadline: float) -> dict:
    return command([sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests/test_gpu.py")], min(180, deadline - time.monotonic()))


def sanitize(deadline: float) -> dict:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"passed": None, "output": "compute-sanitizer is not installed"}
    run = [tool, "--tool", "memcheck", "--error-exitcode", "1", sys.executable, "-m", "benchmarks.gpu_check", "--one-pass"]
    return command(run, min(120, deadline - time.monotonic()))


def one_pass() -> None:
    """Every kernel once, on small odd shapes."""
    from regnet_kernels.testing.gpu import small_network

    for dtype in DTYPES.values():
        small_network(dtype, "cuda")
    torch.cuda.synchronize()


def command(args: list[str], seconds: float) -> dict:
    """{"passed": bool, "output": its last lines}."""
    try:
        done = subprocess.run(args, capture_output=True, text=True, timeout=max(seconds, 1), cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"passed": False, "output": f"not done after {seconds:.0f} s"}
    return {"passed": done.returncode == 0, "output": (done.stdout + done.stderr)[-2000:]}


def versions() -> dict:
    import triton

    return {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}


def summary(record: dict) -> str:
    """Tests and sanitizer, and of each model, batch and dtype ours over the best peer, both at their best."""
    lines = [f"{record['card']}: tests {'passed' if record['tests']['passed'] else 'FAILED'}; memcheck: "
             f"{ {True: 'passed', False: 'FAILED', None: 'not installed'}[record['sanitizer']['passed']]}"]
    best: dict[tuple, dict[str, float]] = {}
    for row in record["times"]:
        if "ms" in row:
            side = best.setdefault((row["what"], row["name"], row["batch"], row["dtype"]), {})
            way = "ours" if row["way"].startswith("ours") else "peer"
            side[way] = min(row["ms"], side.get(way, float("inf")))
    for key, side in best.items():
        if len(side) == 2:
            lines.append(f"{' '.join(map(str, key))}: ours {side['ours']:.3f} ms, best peer {side['peer']:.3f} ms, {side['peer'] / side['ours']:.2f}x")
    errors = [row for row in record["times"] if "error" in row]
    lines += [f"{len(errors)} jobs failed, first: {errors[0]}"] if errors else []
    lines += [f"{len(record['left_out'])} jobs left out for want of time"] if record.get("left_out") else []
    return "\n".join(lines)


def slug(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())

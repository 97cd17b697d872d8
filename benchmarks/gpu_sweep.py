"""What the choices of the GPU backends should be, as data: each launch of some networks on every backend that can run it, Triton's in
many configurations.

    python -m benchmarks.gpu_sweep --compile 14                 # first, or beside other work: fills Triton's cache, needs no card
    python -m benchmarks.gpu_sweep --seconds 100 --output sweep.jsonl

One line of JSON a launch: its shape, the sum of its floors over the models and the time of each way, in us. A time is one of several
launches in a CUDA graph, one after the other on the same tensors, so that maps which the L2 cache holds are found there, as in a
network. Those launches come first whose floors, summed over the models, are largest. A way counts only where it agrees with cuDNN.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *([] if importlib.util.find_spec("regnet") else [str(ROOT / "python")])]  # also where it is not installed

import torch  # noqa: E402

from regnet.traffic import plain_network  # noqa: E402
from regnet_kernels.backends import cuda, hopper  # noqa: E402
from regnet_kernels.backends.gpu import choice  # noqa: E402
from regnet_kernels.backends.triton import configs, fusion  # noqa: E402
from regnet_kernels.backends.triton.machine import Machine, machine  # noqa: E402
from regnet_kernels.backends.triton.shapes import (SHAPES, DirectShape, ExpandShape, GateShape, GroupedShape,  # noqa: E402
                                                   PointwiseShape, Shape)
from regnet_kernels.backends.triton.tiles import cut_columns  # noqa: E402
from regnet_kernels.tuning import table  # noqa: E402
from regnet_kernels.tuning.launches import make  # noqa: E402

from benchmarks.gpu_plan import DTYPES, SIDE  # noqa: E402
from benchmarks.gpu_tune import Job, card_like, plan  # noqa: E402

MODELS = ("regnety_3.2gf", "regnetx_3.2gf", "regnetx_8.0gf", "regnety_16gf", "regnety_400mf")
TOLERANCE = 2e-2  # of the largest result
SMALL_ROWS = 4096  # below it a launch is one or two rounds of programs at most
# rows, columns at most, depth, warps, stages
POINTWISE = ((128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 32, 4, 4), (128, 128, 128, 8, 2),
             (128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (64, 256, 64, 4, 3), (64, 128, 64, 4, 3),
             (64, 128, 64, 4, 5), (128, 64, 64, 4, 3), (256, 64, 64, 8, 3), (64, 64, 64, 4, 3), (64, 128, 128, 4, 2),
             (256, 128, 64, 8, 2))
GROUPED = ((128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (128, 128, 32, 8, 4), (64, 128, 64, 4, 3), (64, 128, 32, 4, 4),
           (256, 128, 64, 8, 3), (256, 128, 32, 8, 3), (128, 128, 16, 4, 4), (64, 128, 64, 4, 5), (128, 64, 64, 4, 3))
SMALL = ((64, 64, 64, 4, 4), (64, 32, 64, 4, 4), (32, 64, 64, 4, 4), (32, 32, 64, 2, 4), (16, 64, 64, 4, 4), (16, 32, 64, 2, 4),
         (16, 32, 128, 2, 4), (32, 32, 128, 4, 4), (16, 64, 128, 4, 3), (64, 64, 128, 4, 3), (64, 32, 128, 4, 3), (16, 16, 128, 1, 4),
         (16, 16, 128, 2, 4), (32, 128, 64, 4, 4))
SMALL_GROUPED = ((64, 64, 64, 4, 4), (32, 64, 64, 4, 4), (16, 64, 64, 4, 4), (16, 32, 64, 2, 4), (32, 32, 32, 2, 4), (16, 32, 32, 1, 5),
                 (16, 16, 64, 1, 4), (16, 16, 64, 2, 5), (32, 32, 64, 4, 4))
DIRECT = ((128, 32, 32, 4, 1), (128, 32, 32, 8, 1), (256, 32, 32, 8, 1), (256, 32, 32, 4, 1), (64, 32, 32, 2, 1), (32, 32, 32, 2, 1))
# images, depth, units, columns, warps, stages, launches
GATES = ((16, 64, 64, 32, 4, 2, 1), (16, 64, 64, 32, 4, 2, 2), (16, 128, 16, 64, 4, 2, 2), (16, 128, 32, 32, 4, 3, 2),
         (16, 256, 16, 32, 4, 2, 2), (16, 256, 32, 32, 4, 2, 2), (16, 512, 16, 32, 4, 2, 2), (16, 512, 16, 16, 8, 1, 2),
         (16, 128, 16, 32, 2, 4, 2), (16, 256, 16, 64, 8, 3, 2))


def main() -> int:
    args = parse()
    card = Machine(args.arch, args.multiprocessors) if args.compile else machine(torch.device("cuda", torch.cuda.current_device()))
    if args.compile:
        return compile_all(args, card)
    todo = jobs(args, card_like(torch.cuda.get_device_name()))
    device, end = torch.device("cuda", torch.cuda.current_device()), time.monotonic() + args.seconds
    torch.backends.cudnn.benchmark = True
    with args.output.open("a") as file, torch.inference_mode():
        for count, job in enumerate(todo):
            if time.monotonic() > end:
                print(f"sweep: {count} of {len(todo)} launches, the time is over", flush=True)
                return 0
            found = {"kernel": job.shape.kernel, "shape": list(job.shape), "dtype": str(job.dtype).removeprefix("torch."),
                     "summed_floor_us": 1e3 * job.floor_ms, "us": sweep(card, job.shape, job.dtype, device, end)}
            print(json.dumps(found), file=file, flush=True)
    print(f"sweep: all {len(todo)} launches", flush=True)
    return 0


def parse(given: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[256])
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=list(DTYPES))
    parser.add_argument("--kernels", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--output", type=Path, default=Path("gpu_sweep.jsonl"))
    parser.add_argument("--compile", type=int, metavar="PROCESSES", help="compile what the sweep and the networks launch, measure nothing")
    parser.add_argument("--networks-only", action="store_true", help="with --compile: only what the networks launch")
    parser.add_argument("--arch", default="sm_90", help="with --compile")
    parser.add_argument("--multiprocessors", type=int, default=132, help="with --compile")
    return parser.parse_args(given)


def jobs(args, card) -> list[Job]:
    """The launches batch by batch, of each the most expensive first; the floor of a job is of all its occurrences."""
    found = []
    for batch in args.batches:
        found += plan(args.models, [batch], [DTYPES[name] for name in args.dtypes], card)
    return [job for job in found if job.shape.kernel in args.kernels]


def candidates(card: Machine, dtype: torch.dtype, shape: Shape) -> list:
    """Configurations to try, the heuristic's first; of those that cut a layer alike only one."""
    first = configs.heuristic(card, dtype, shape)
    if isinstance(shape, ExpandShape):
        one = configs.expand_config(card, dtype, shape)
        return [one, one._replace(lines=min(64, 2 * one.lines)), one._replace(warps=8 if one.warps == 4 else 4)]
    if isinstance(shape, GateShape):
        return list(dict.fromkeys([first, *(configs.GateConfig(*numbers) for numbers in GATES)]))
    small = shape.rows <= SMALL_ROWS
    if isinstance(shape, PointwiseShape):
        numbers, outputs, depth = (SMALL if small else POINTWISE), shape.o, max(shape.k, shape.k2)
    elif isinstance(shape, GroupedShape):
        outputs = depth = configs.group_span(shape.group_width, shape.channels)
        numbers, depth = (SMALL_GROUPED if small else GROUPED), 9 * depth
    else:
        numbers, outputs, depth = DIRECT, shape.o, 1024
    found = {}
    for config in [first, *(configs.Config(*one) for one in numbers)]:
        cut = cut_columns(outputs, config.columns)
        if config.depth >= 2 * depth and config.depth > 16 and config != first:
            continue
        if configs._fits(card, dtype, shape, config) or config == first:
            steps = -(-depth // config.depth)
            key = (config.rows, cut, config.depth, config.warps, min(config.stages, steps))
            found.setdefault(key, config)
    return list(found.values())


def ways(card: Machine, shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Callable]]:
    """(name, () -> the function to time), cuDNN's first, with which the others are compared."""
    for name in ("cudnn", "cuda"):
        if not isinstance(shape, ExpandShape) and not choice.why_not(name, shape, dtype, device):
            yield name, partial(make, shape, dtype, device, name)
    if isinstance(shape, GroupedShape) and card.arch == "sm_90" and dtype != torch.float32:
        yield "cuda without wgmma", partial(make, shape, dtype, device, run=without_wgmma)
        found = hopper.candidates(*shape[:5], shape.stride, bool(shape.pool), card.multiprocessors)
        for tile in list(dict.fromkeys([*found[:8], *found[8:32:4]])):
            yield f"wgmma {' '.join(map(str, tile))}", partial(make, shape, dtype, device, run=partial(with_wgmma, tile))
    for name in fused_library(shape):
        yield name, partial(library, name, shape, dtype, device)
    for config in candidates(card, dtype, shape):
        yield " ".join(map(str, config)), partial(on_trial, shape, dtype, device, config)


def on_trial(shape: Shape, dtype: torch.dtype, device: torch.device, config) -> Callable:
    call = make(shape, dtype, device)

    def run():
        with table.trial(shape, dtype, config):
            return call()

    return run


def with_wgmma(tile, x, w, bias, *, stride=1, activation=0, pool=False):
    y, sums = cuda.wgmma(x, w, bias, stride, activation, pool, tile)
    return y, sums if pool else None


def without_wgmma(x, w, bias, *, stride=1, activation=0, pool=False):
    y, sums = cuda.gconv3x3(x, w, bias, stride, activation, pool)
    return y, sums if pool else None


def fused_library(shape: Shape) -> tuple[str, ...]:
    """What the libraries can do with bias, residual and ReLU in one call."""
    if isinstance(shape, GroupedShape):
        return ("cudnn fused",)
    if isinstance(shape, PointwiseShape):
        if shape.gated:
            return ("scaled, cudnn fused", "scaled by torch, cudnn fused")
        plain = shape.stride == 1 and not shape.residual and not shape.k2
        return ("cudnn fused", *(("cublaslt",) if plain else ()))
    return ("cudnn fused",) if isinstance(shape, DirectShape) else ()


def library(name: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> Callable:
    """The layer by cuDNN's or cuBLASLt's fused operations, on the tensors of `make`."""
    conv = torch.cudnn_convolution_relu

    def pointwise(x, w, bias, *, stride=1, activation=0, gate=None, residual=None, shortcut=None, w_shortcut=None, shortcut_stride=1):
        low = bias.to(x.dtype)
        if gate is not None:
            from regnet_kernels.backends.triton.scale import scale

            x = scale(x, gate) if name.startswith("scaled,") else x * gate[:, :, None, None]
        if name == "cublaslt":
            n, k, height, width = x.shape
            y = torch._addmm_activation(low, x.permute(0, 2, 3, 1).reshape(-1, k), w.t())
            return y.view(n, height, width, -1).permute(0, 3, 1, 2)
        w = w[:, :, None, None]
        if shortcut is not None:
            residual = torch.conv2d(shortcut, w_shortcut[:, :, None, None], None, shortcut_stride)
        if residual is not None:
            return torch.cudnn_convolution_add_relu(x, w, residual, 1.0, low, (stride, stride), (0, 0), (1, 1), 1)
        return conv(x, w, low, (stride, stride), (0, 0), (1, 1), 1)

    def grouped(x, w, bias, *, stride=1, activation=0, pool=False):
        y = conv(x, w.permute(0, 3, 1, 2), bias.to(x.dtype), (stride, stride), (1, 1), (1, 1), w.shape[0] // w.shape[3])
        return y, y.sum((2, 3), dtype=torch.float32)[:, None] if pool else None

    def direct(x, w, bias, side, *, stride=1, padding=0, activation=0):
        c = x.shape[1]
        weight = w[:, :side * side * c].reshape(-1, side, side, c).permute(0, 3, 1, 2)
        return conv(x, weight, bias.to(w.dtype), (stride, stride), (padding, padding), (1, 1), 1)

    return make(shape, dtype, device, run={"pointwise": pointwise, "grouped": grouped, "direct": direct}[shape.kernel])


def sweep(card: Machine, shape: Shape, dtype: torch.dtype, device: torch.device, end: float) -> dict[str, float | str]:
    """{way: us, or why there is no time}."""
    found: dict[str, float | str] = {}
    expected = None
    for name, prepare in ways(card, shape, dtype, device):
        if time.monotonic() > end:
            break
        try:
            call = prepare()
            result = call()
            result = [result[0].float(), *(sums.sum(1) for sums in result[1:])]
            if expected is None:
                expected = result
            wrong = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(result, expected))
            found[name] = round(microseconds(call), 2) if wrong <= TOLERANCE else f"differs by {wrong:.3g}"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
            torch.cuda.synchronize()
    return found


def microseconds(call: Callable) -> float:
    """Of a launch among several in a CUDA graph: the least of three replays."""
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    marks[0].record()
    call()
    marks[1].record()
    torch.cuda.synchronize()
    count = max(3, min(20, int(2.0 / max(marks[0].elapsed_time(marks[1]), 1e-3))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    times = []
    for _ in range(4):
        marks[0].record()
        graph.replay()
        marks[1].record()
        torch.cuda.synchronize()
        times.append(1e3 * marks[0].elapsed_time(marks[1]) / count)
    return min(times[1:])


FORMS: list = []  # what the processes that compile inherit: a launch holds a function of this process


def compile_all(args, card: Machine) -> int:
    """Compile each form that the networks and the sweep launch, in parallel."""
    from regnet_kernels.backends import gpu
    from regnet_kernels.testing.triton_dry_run import distinct, dry_run

    start, device, launches = time.monotonic(), torch.device("meta"), []
    with dry_run(card) as launches:
        for name in args.models:
            for dtype in (DTYPES[name] for name in args.dtypes):
                packed = plain_network(name, dtype)
                for batch in args.batches:
                    image = torch.empty((batch, 3, SIDE, SIDE), dtype=dtype, device=device)
                    gpu.run(image, packed.weights, packed.params, packed.program, layers="triton")
        if not args.networks_only:
            for job in jobs(args, card_like("H100")):
                for config in candidates(card, job.dtype, job.shape):
                    on_trial(job.shape, job.dtype, device, config)()
    FORMS[:] = distinct(launches)
    print(f"sweep: {len(FORMS)} forms of {len(launches)} launches, found in {time.monotonic() - start:.0f} s", flush=True)
    failed = 0
    with ProcessPoolExecutor(args.compile, mp_context=get_context("fork")) as pool:
        for done in as_completed([pool.submit(_compile, index) for index in range(len(FORMS))]):
            failed += bool(done.result())
            if done.result():
                print(done.result(), flush=True)
    print(f"sweep: compiled in {time.monotonic() - start:.0f} s, {failed} failed", flush=True)
    return 0


def _compile(index: int) -> str:
    try:
        FORMS[index].compile()
        return ""
    except Exception as error:
        return f"{FORMS[index].name} {FORMS[index].constants}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]


if __name__ == "__main__":
    sys.exit(main())

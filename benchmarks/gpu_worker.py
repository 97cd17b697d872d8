"""Takes the times of `make gpu-check` on the card, in a process of its own: one that hangs or loses the card costs one job.

    python -m benchmarks.gpu_worker                        # a job a line on stdin (JSON), its result a line on stdout
    python -m benchmarks.gpu_worker --one-pass triton cuda # every kernel once, for compute-sanitizer
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_plan import BLOCKS, DTYPES, EFFICIENTNET, EFFICIENTNET_SIDE, SIDE, Job

BUDGET = 0.25  # seconds of timed calls a job
COLD_BYTES = 256 << 20  # of maps between two reads of the same one: no L2 cache holds that


class Sizes(NamedTuple):
    """Smaller ones let the paths run on a CPU, in tests."""

    side: int = SIDE
    efficientnet_side: int = EFFICIENTNET_SIDE
    copied: int = 1 << 30
    matrix: int = 8192
    cold: int = COLD_BYTES


class Bench:
    """Makes what a job runs, and times it. What belongs to the last model is kept, because the jobs of one model follow each other."""

    def __init__(self, device: str = "cuda", sizes: Sizes = Sizes()):
        self.device, self.sizes = torch.device(device), sizes
        self.owner: str = ""
        self.made: dict[tuple, Any] = {}

    def measure(self, job: Job) -> dict:
        """{"ms": median time of a call, ...}; of a card job what the card can do as well."""
        if job.what == "card":
            return self.card(job)
        if job.name == EFFICIENTNET:
            return self.largest_that_fits(job)
        return self.time(job)

    def time(self, job: Job) -> dict:
        with torch.no_grad():  # parameters made in inference mode could not be compiled
            calls = self.calls(job)
        with torch.inference_mode():
            if not bool(torch.isfinite(calls[0]()).all()):
                raise ArithmeticError("the result is not finite")
            run = self.graph(calls) if job.way.endswith("graph") else partial(run_all, calls)
            return {"ms": milliseconds(run, self.device) / len(calls)}

    def largest_that_fits(self, job: Job) -> dict:
        """The time at the job's batch or, where the card's memory does not hold it, at half of it, and so on."""
        batch = job.batch
        while True:
            try:
                return self.time(job._replace(batch=batch)) | {"images": batch}
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
            batch //= 2
            self.forget()

    def card(self, job: Job) -> dict:
        """The card's copy bandwidth, GB/s read and written together, or its rate of dense products, TFLOP/s."""
        dtype = DTYPES[job.dtype]
        if job.name == "copy":
            source = torch.ones(self.sizes.copied // dtype.itemsize, device=self.device, dtype=dtype)
            target = torch.empty_like(source)
            ms = milliseconds(lambda: target.copy_(source), self.device)
            return {"ms": ms, "gb_per_s": 2 * source.nbytes / ms / 1e6}
        side = self.sizes.matrix
        a, b = torch.randn(2, side, side, device=self.device).to(dtype)
        out = torch.empty_like(a)
        ms = milliseconds(lambda: torch.mm(a, b, out=out), self.device)
        return {"ms": ms, "tflop_per_s": 2 * side**3 / ms / 1e9}

    def calls(self, job: Job) -> list[Callable[[], Tensor]]:
        """What to run: one call of a model or block, or calls of an operation on so many maps that each finds cold caches."""
        dtype, side = DTYPES[job.dtype], self.sizes.efficientnet_side if job.name == EFFICIENTNET else self.sizes.side
        way = job.way.partition(" ")[0]
        if job.what == "model":
            image = self.map(job.batch, 3, side, dtype)
            return [partial(self.runner(job, way, self.model(job.name)), image)]
        stage = self.model(job.name).stages[job.stage].blocks
        block = stage[0 if job.what.endswith("stride 2") else -1]
        side = side // 2 >> job.stage if block is stage[0] else side // 4 >> job.stage
        if job.what in BLOCKS:
            if job.what == "block without SE":
                block = copy.deepcopy(block)
                block.se = None
            return [partial(self.runner(job, way, block), self.map(job.batch, block.a.conv.in_channels, side, dtype))]
        layer = block.a if job.what == "1x1" else block.b
        one = self.map(job.batch, layer.conv.in_channels, side, dtype)
        run = self.operation(way, layer, dtype)
        count = max(2, -(-self.sizes.cold // (2 * one.nbytes)))
        return [partial(run, one if index == 0 else one.clone()) for index in range(count)]

    def runner(self, job: Job, way: str, source: nn.Module) -> Callable[[Tensor], Tensor]:
        """A model or block by one way of computing."""
        key = job.what, job.stage, job.dtype, way, job.batch if way == "compile" else 0
        if key not in self.made:
            self.made[key] = self.make(way, source, DTYPES[job.dtype])
        return self.made[key]

    def make(self, way: str, source: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        import regnet

        if way == "ours":
            return regnet.optimize(source, dtype=dtype)
        eager = copy.deepcopy(source).to(dtype=dtype, memory_format=torch.channels_last)
        return eager if way == "eager" else compiled(eager)

    def operation(self, way: str, layer: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Convolution, BatchNorm and ReLU: one call of ours; the library's with the BatchNorm folded, as a peer that knows how would."""
        import regnet_kernels

        conv = layer.conv
        weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        bias = torch.randn(conv.out_channels, device=self.device)
        if way == "ours":
            fixed = {"stride": conv.stride[0], "groups": conv.groups, "activation": "relu"}
            return partial(regnet_kernels.conv_bn_act, weight=weight, bias=bias, **fixed)
        bias = bias.to(dtype)

        def library(x):
            return F.relu(F.conv2d(x, weight, bias, conv.stride, conv.padding, 1, conv.groups))

        return library if way == "eager" else compiled(library)

    def model(self, name: str) -> nn.Module:
        """The float32 model, its BatchNorms set by random images, so that activations keep their size."""
        if self.owner != name:
            self.forget()
            model = efficientnet(self.device) if name == EFFICIENTNET else regnet_model(name, self.device)
            self.owner, self.made["source"] = name, settled(model, self.sizes.side)
        return self.made["source"]

    def map(self, batch: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(batch, channels, side, side, device=self.device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def graph(self, calls: list[Callable[[], Tensor]]) -> Callable[[], object]:
        """The calls as one CUDA graph's replay; each keeps its result, so that none writes into another's."""
        if self.device.type != "cuda":
            return partial(run_all, calls)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                calls[0]()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            kept = run_all(calls)
        return lambda: (captured.replay(), kept)

    def forget(self) -> None:
        """Give back what belongs to the last model."""
        self.owner, self.made = "", {}
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run_all(calls: list[Callable[[], Tensor]]) -> list[Tensor]:
    return [call() for call in calls]


def compiled(target: Callable) -> Callable:
    """torch.compile at its best: every choice tuned, BatchNorm folded into the weights. Graphs are captured outside, on inputs that stay
    in place, which saves the copy that torch.compile's own would make."""
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.reset()  # beyond a few compiled models it would run eagerly, without a word
    torch._inductor.config.freezing = True
    return torch.compile(target, mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)


def regnet_model(name: str, device: torch.device) -> nn.Module:
    import regnet

    return regnet.create_model(name, device=device)


def efficientnet(device: torch.device) -> nn.Module:
    """EfficientNet-B5 of torchvision or timm with random weights. Raises ModuleNotFoundError where neither is installed."""
    with torch.device(device):
        try:
            import torchvision

            return torchvision.models.efficientnet_b5(weights=None)
        except ImportError:
            pass
        try:
            import timm

            return timm.create_model("efficientnet_b5", pretrained=False)
        except ImportError:
            raise ModuleNotFoundError("EfficientNet-B5 needs torchvision or timm, and neither is installed") from None


@torch.no_grad()
def settled(model: nn.Module, side: int) -> nn.Module:
    """`model` in eval mode, with the statistics of random images in its BatchNorms."""
    device = next(model.parameters()).device
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean over the calls
            norm.reset_running_stats()
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # one pass is not worth the search
    try:
        model.train()(torch.randn(8, 3, side, side, device=device))
    finally:
        torch.backends.cudnn.benchmark = benchmark
    return model.eval()


def milliseconds(call: Callable[[], object], device: torch.device, budget: float = BUDGET) -> float:
    """The median time of a call, over as many as fit into `budget` seconds, 5 at least and 200 at most."""
    for _ in range(3):
        call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    count = max(5, min(200, int(budget / max(time.perf_counter() - start, 1e-6))))
    if device.type != "cuda":
        times = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    else:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        wait(device)
        times = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
    return sorted(times)[count // 2]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def serve(bench: Bench, requests, answers) -> int:
    """A result for each job, {"error": ...} where it failed. Returns 1 when the card is lost, which the result says as well: a new
    process has to go on."""
    for line in requests:
        job, result = Job(**json.loads(line)), {}
        try:
            result = bench.measure(job)
        except Exception as error:  # out of memory, a kernel that does not compile: the others still tell something
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        if "error" in result and not recovered(bench):
            result["lost"] = True
        print(json.dumps(result), file=answers, flush=True)
        if "lost" in result:
            return 1
    return 0


def recovered(bench: Bench) -> bool:
    """Whether the card still works after an error; after a fault on it nothing can run in this process."""
    try:
        bench.forget()
        wait(bench.device)
    except Exception:
        return False
    return True


def one_pass(backends: list[str]) -> None:
    """Every kernel of the backends once, on small odd shapes."""
    from regnet_kernels.testing.gpu import run_every_kernel

    for dtype in (*DTYPES.values(), torch.float32):
        for backend in backends:
            print(f"{backend}, {dtype}: {run_every_kernel(dtype, backend)} calls", flush=True)
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-pass", nargs="+", metavar="BACKEND")
    args = parser.parse_args()
    if args.one_pass:
        one_pass(args.one_pass)
        return 0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, and only results to the pipe
    torch.backends.cudnn.benchmark = True  # the peers choose their best algorithms
    return serve(Bench(), sys.stdin, answers)


if __name__ == "__main__":
    sys.exit(main())

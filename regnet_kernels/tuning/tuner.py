"""The search for the best configuration of one launch: from the heuristic's, one step at a time, as long as a step helps; and the
times of the other backends that can run the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..backends import triton as backend
from ..backends.triton.machine import machine, on_device
from ..backends.triton.shapes import Shape
from . import table
from .store import Entry, LaunchError, TuningError

Timer = Callable[[Callable[[], Any]], float]  # a call -> its time in milliseconds

ROUNDS = 3  # steps away from the heuristic
GAIN = 0.02  # what a configuration must gain over the heuristic's to take its place: less is noise
TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 4e-2}  # of the largest result; float32 may be TF32
SHORT_MS = 0.1  # below it the time of a launch is Python's, so it is taken from a CUDA graph


class Tuned(NamedTuple):
    """What `tune` found. config, ms: Triton's best; others: the times of the other backends that can run the layer; measured:
    configurations and backends timed, 0 if the cache knew; failed: those that did not compile, run or agree."""

    shape: Shape
    dtype: torch.dtype
    config: Any
    ms: float
    heuristic_ms: float
    measured: int
    failed: int
    others: dict[str, float] = {}


def tune(shape: Shape, dtype: torch.dtype, device: torch.device | str | None = None, *, timer: Timer | None = None,
         again: bool = False) -> Tuned:
    """Measure the launch of `shape` and keep its best configuration on disk, and the times of other backends for that layer, between
    which backends/gpu then chooses; what the cache knows is not measured `again`.

    dtype: float32, float16 or bfloat16; device: the current card by default; timer: for tests, else triton.testing's on the card.
    A configuration counts only if its results agree with the heuristic's. Raises LaunchError where the heuristic's own configuration
    fails, for want of memory perhaps; TuningError where the kernels cannot run, the card fails or the result cannot be written.
    """
    device = torch.device(device if device is not None else "cuda")
    if dtype not in TOLERANCE:
        raise TuningError(f"{dtype} cannot be tuned; use one of {', '.join(map(str, TOLERANCE))}")
    if reason := backend.why_not_here(device):
        raise TuningError(f"nothing can be tuned here: {reason}")
    from ..backends.triton import configs

    known = table.tuned(device, shape, dtype)
    if known is not None and not again:
        kind = {"gate": configs.GateConfig, "expand_grouped": configs.ExpandConfig}.get(shape.kernel, configs.Config)
        return Tuned(shape, dtype, kind(*known.config), known.ms, known.heuristic_ms, 0, 0, known.others)
    with on_device(torch.empty(0, device=device)), torch.inference_mode():
        found = _search(shape, dtype, device, timer or _CardTimer())
    table.keep(device, shape, dtype, Entry(tuple(found.config), found.ms, found.heuristic_ms, found.others))
    return found


def _search(shape: Shape, dtype: torch.dtype, device: torch.device, timer: Timer) -> Tuned:
    from ..backends.gpu import choice
    from ..backends.triton import configs
    from .launches import make

    card = machine(device)
    start = best = configs.heuristic(card, dtype, shape)
    try:
        call = make(shape, dtype, device)
        with table.trial(shape, dtype, start):
            expected = _results(call())
            times = {start: timer(call)}
    except Exception as error:
        _require_card(device, shape, start)
        raise LaunchError(f"{shape}: the heuristic's own {start} fails: {_first_line(error)}") from error
    failed = set()
    for _ in range(ROUNDS):
        for config in configs.neighbours(card, dtype, shape, best):
            if config in times or config in failed:
                continue
            try:
                with table.trial(shape, dtype, config):
                    if not _agree(_results(call()), expected, TOLERANCE[dtype]):
                        raise TuningError("other results than the heuristic's")
                    times[config] = timer(call)
            except Exception:  # too much shared memory, a compiler's limit: not a candidate
                failed.add(config)
                _require_card(device, shape, config)
        nearest, best = best, min(times, key=times.get)
        if best == nearest:
            break
    if times[best] > (1 - GAIN) * times[start]:
        best = start
    others = {}
    for name in () if shape.kernel == "expand_grouped" else choice.candidates(shape, dtype, device):  # fused or not is its `launches`
        if name == "triton":
            continue
        try:
            call = make(shape, dtype, device, name)
            if not _agree(_results(call()), expected, TOLERANCE[dtype]):
                raise TuningError("other results than Triton's")
            others[name] = timer(call)
        except Exception:
            failed.add(name)
            _require_card(device, shape, name)
    return Tuned(shape, dtype, best, times[best], times[start], len(times) + len(others), len(failed), others)


def _results(outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What does not depend on how a launch was cut: the map, and the sum over the tiles of partial sums."""
    return [outputs[0], *(sums.sum(1) for sums in outputs[1:])]


def _agree(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> bool:
    return all(bool((a - e).abs().max() <= tolerance * e.abs().max()) for a, e in zip(actual, expected))


def _require_card(device: torch.device, shape: Shape, config: Any) -> None:
    """After a fault on the card nothing more can run in this process."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            raise TuningError(f"the card failed at {shape} with {config}: {_first_line(error)}; start again, what was tuned before is "
                              "kept") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _CardTimer:
    """triton.testing's timers; which of the two is settled by the first call, so that all times of a shape compare."""

    def __init__(self):
        self.graph: bool | None = None

    def __call__(self, call: Callable[[], Any]) -> float:
        from triton.testing import do_bench, do_bench_cudagraph

        if not self.graph:
            ms = do_bench(call, warmup=5, rep=20, return_mode="median")
            if self.graph is None:
                self.graph = ms < SHORT_MS
            if not self.graph:
                return ms
        return do_bench_cudagraph(call, rep=20, return_mode="median")

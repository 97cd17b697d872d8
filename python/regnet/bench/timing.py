"""Timing several peers beside each other, so that each is as fast as it can be and all see the same machine.

Alternating single calls made every peer up to twice as slow at batch 1 as it is alone, because the threads of the peer before
still spin: ONNX Runtime's for some 35 ms (two cores: calls of 2 ms took 4 to 6 as long). So each peer gets a short block of calls: some that are not
timed, for 50 ms where such a runtime takes part, then several that are; then the next peer; and the whole round again, so that a drift of the machine falls on all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS = 0.2
SETTLE_SECONDS = 0.05  # beside runtimes whose threads spin on
CALLS_AT_LEAST, CALLS_AT_MOST = 2, 20


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: median, 20th and 80th percentile, fastest; and how many calls were timed."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    best_ms: float
    calls: int


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    block_seconds: float = BLOCK_SECONDS,
    settle_seconds: float = 0.0,
    tick: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Time each callable in blocks, `rounds` blocks each; `tick(name)` is called after each block.

    A block lasts about `block_seconds` and has 2 to 20 timed calls, after `settle_seconds` of calls that are not timed, at least one. Raises ValueError if rounds < 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds {rounds}: expected 1 or more")
    sizes = {name: block_size(call, block_seconds) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name] += timed_block(call, sizes[name], settle_seconds)
            if tick is not None:
                tick(name)
    return {name: summarize(seconds) for name, seconds in samples.items()}


def summarize(seconds: list[float]) -> Timing:
    """Samples in seconds -> a Timing."""
    ms = 1e3 * np.asarray(seconds)
    p20, median, p80 = np.percentile(ms, (20, 50, 80))
    return Timing(float(median), float(p20), float(p80), float(ms.min()), len(ms))


def block_size(call: Callable[[], object], block_seconds: float) -> int:
    """How many timed calls make a block of about `block_seconds`."""
    call()  # first call: allocations, lazy initialisation
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return int(np.clip(block_seconds / max(seconds, 1e-9), CALLS_AT_LEAST, CALLS_AT_MOST))


def timed_block(call: Callable[[], object], size: int, settle_seconds: float = 0.0) -> list[float]:
    """Calls that are not timed for `settle_seconds`, one at least, then the seconds of each of `size` calls."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        settled = time.perf_counter() + settle_seconds
        call()
        while time.perf_counter() < settled:
            call()
        seconds = []
        for _ in range(size):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return seconds

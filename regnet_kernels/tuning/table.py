"""The configuration of a launch: the one on trial, the tuned one, else the heuristic's. Files are read once a device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ..backends.triton.machine import pretending
from ..backends.triton.shapes import Shape
from . import store
from .identities import identity

TRIAL, TUNED, HEURISTIC = "trial", "tuned", "heuristic"
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_tables: dict[int, store.Entries] = {}  # by index of the CUDA device, -1 for the interpreter
_trials: dict[tuple, tuple[int, ...]] = {}
_generation = 0
_watchers: list[list[Choice]] = []


class Choice(NamedTuple):
    """What one launch took. source: "tuned", "heuristic", or "trial" while a tuner measures."""

    shape: Shape
    dtype: torch.dtype
    config: Any
    source: str

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self.config._asdict().items())
        return f"{self.shape.kernel} {_NAMES[self.dtype]} {' '.join(map(str, self.shape))}: {numbers} ({self.source})"


def choose(device: torch.device, dtype: torch.dtype, shape: Shape, kind: type, heuristic: Callable[[], Any]) -> Any:
    """The configuration, a `kind`, of a launch. Called at every launch: two look-ups in dictionaries."""
    key, source = (shape.kernel, _NAMES[dtype], shape), TUNED
    if _trials and key in _trials:
        config, source = kind(*_trials[key]), TRIAL
    else:
        entry = _table(device).get(key)
        if entry is not None:
            config = kind(*entry.config)
        else:
            config, source = heuristic(), HEURISTIC
    for seen in _watchers:
        seen.append(Choice(shape, dtype, config, source))
    return config


@contextlib.contextmanager
def watch() -> Iterator[list[Choice]]:
    """Inside, the choice of each launch is added to the list. Replays of a CUDA graph choose nothing."""
    seen: list[Choice] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        del _watchers[next(index for index, other in enumerate(_watchers) if other is seen)]


@contextlib.contextmanager
def trial(shape: Shape, dtype: torch.dtype, config: tuple[int, ...]) -> Iterator[None]:
    """Inside, launches of `shape` take `config`."""
    key = store.key(shape, _NAMES[dtype])
    _trials[key] = tuple(config)
    try:
        yield
    finally:
        del _trials[key]


def tuned(device: torch.device, shape: Shape, dtype: torch.dtype) -> store.Entry | None:
    return _table(device).get(store.key(shape, _NAMES[dtype]))


def keep(device: torch.device, shape: Shape, dtype: torch.dtype, entry: store.Entry) -> None:
    """On disk and in memory. Raises TuningError where the folder cannot be written."""
    known = identity(device)
    global _generation
    _generation += 1
    _tables[_index(device)] = store.merge(store.cache_file(known), known, {store.key(shape, _NAMES[dtype]): entry})


def forget() -> None:
    """Read the files again at the next launch: after REGNET_KERNELS_CACHE_DIR changed, or another process tuned."""
    global _generation
    _generation += 1
    _tables.clear()


def generation() -> int:
    """A number that changes when another configuration may be the tuned one."""
    return _generation


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return -1
    return device.index if device.index is not None else torch.cuda.current_device()


def _table(device: torch.device) -> store.Entries:
    if pretending():  # compiled for another card than the one here
        return {}
    index = _index(device)
    if index not in _tables:
        try:
            known = identity(device)
            _tables[index] = store.read(store.cache_file(known))
        except store.TuningError:  # no home, no name of a folder: nothing was ever kept
            _tables[index] = {}
    return _tables[index]

"""The choices that the kernels know: those of this machine's file, read once a process, or those on trial."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import torch

from ... import packing, quick
from ..._extension import CPU
from .. import files
from . import store
from .identity import identity
from .layer import Choice, Layer, Made

_lock = threading.RLock()
_entries: store.Entries | None = None


def load() -> None:
    """Gives the kernels what was tuned on this machine, unless they have it. Called before the first network of a process."""
    global _entries
    with _lock:
        if _entries is None:
            _entries = _read()
            if _entries:
                _install()


def entries() -> store.Entries:
    """What is tuned on this machine, for any number of threads."""
    load()
    return dict(_entries)


def keep(new: store.Entries) -> None:
    """On disk and in the kernels. Raises TuningError where the folder cannot be written."""
    global _entries
    known = identity()
    with _lock:
        _entries = store.merge(store.cache_file(known), known, new)
        _install()


def forget() -> None:
    """Read the file again at the next network: after REGNET_KERNELS_CACHE_DIR changed, or another process tuned."""
    global _entries
    with _lock:
        _entries = None
        quick.tuning_is_loaded = False
        if CPU.loaded:
            torch.ops.regnet_kernels._set_cpu_choices([])


def clear() -> int:
    """Delete what was tuned on this machine; returns how many layers that were."""
    count = len(entries())
    with contextlib.suppress(files.TuningError):
        store.cache_file(identity()).unlink(missing_ok=True)
    forget()
    return count


@contextlib.contextmanager
def trials() -> Iterator:
    """Gives a function that puts {layer: choice} in the place of what is tuned for these layers, in the whole process, until the end."""
    load()
    try:
        yield _install
    finally:
        _install()


def layers(packed: packing.PackedNetwork, x: torch.Tensor) -> list[tuple[Made, bool]]:
    """Of each step on x (N, C, H, W) with the threads of now: what is done with it, and whether that was tuned."""
    load()
    return [(made, made.layer in _entries and _entries[made.layer].choice != Choice()) for made in made_for(packed, x)]


def made_for(packed: packing.PackedNetwork, x: torch.Tensor) -> list[Made]:
    table = torch.ops.regnet_kernels._network_layers(x, packed.weights, packed.params, packed.program)
    return [Made.of(row) for row in table.tolist()]


def _install(trial: Mapping[Layer, Choice] | None = None) -> None:
    if not CPU.loaded:
        return
    chosen = {**{layer: entry.choice for layer, entry in (_entries or {}).items()}, **(trial or {})}
    rows = [number for layer, choice in chosen.items() if choice != Choice() for number in (*layer, *choice.integers)]
    torch.ops.regnet_kernels._set_cpu_choices(rows)


def _read() -> store.Entries:
    try:
        if not CPU.loaded or not any(files.cache_dir().glob("cpu-*.json")):  # the usual case, and no library to be hashed for it
            return {}
        return store.read(store.cache_file(identity()))
    except (files.TuningError, OSError):  # no home, no folder that can be read: nothing was ever kept
        return {}

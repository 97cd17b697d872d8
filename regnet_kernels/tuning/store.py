"""The file of tuned configurations of one card's identity (files.py says how it is read and written).

    "grouped float16 256,56,56,48,8,1,1": {"config": [...], "ms": .., "heuristic_ms": .., "others": {"cuda": .., "cudnn": ..}}

The key is kernel, dtype and the numbers of the shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..backends.triton.shapes import SHAPES, Shape
from . import files
from .files import TuningError, cache_dir
from .identities import Identity

FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
OTHER_BACKENDS = ("cuda", "cudnn")
STAGES = {"gate": (7, 5), "expand_grouped": (9, 7)}  # numbers of a configuration, and the place of `stages`; of the other kernels:
OTHERS = 5, 4


class LaunchError(TuningError):
    """One launch cannot be tuned; others may."""


class Entry(NamedTuple):
    """config: the numbers of Triton's best configuration, as the kernel's Config holds them; others: the times of the other backends
    that can run the layer; times in milliseconds."""

    config: tuple[int, ...]
    ms: float
    heuristic_ms: float
    others: dict[str, float] = {}


Entries = dict[tuple[str, str, tuple[int, ...]], Entry]  # (kernel, dtype, shape) -> Entry


def cache_file(known: Identity) -> Path:
    return cache_dir() / known.file_name


def key(shape: Shape, dtype: str) -> tuple[str, str, tuple[int, ...]]:
    return shape.kernel, dtype, tuple(shape)


def read(path: Path) -> Entries:
    """As files.read."""
    return files.read(path, _FORM)


def merge(path: Path, known: Identity, new: Entries) -> Entries:
    """As files.merge."""
    return files.merge(path, known._asdict(), new, _FORM)


def _entry(name: str, value) -> tuple[tuple[str, str, tuple[int, ...]], Entry]:
    try:
        kernel, dtype, numbers = name.split(" ")
        shape = tuple(map(int, numbers.split(",")))
        others = {name: float(ms) for name, ms in value.get("others", {}).items()}
        entry = Entry(tuple(value["config"]), float(value["ms"]), float(value["heuristic_ms"]), others)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"entry {name!r}: {error!r}") from None
    length, stages = STAGES.get(kernel, OTHERS)
    sound = len(entry.config) == length and all(type(number) is int and 0 < number <= 1024 and (at == stages or number & (number - 1) == 0)
                                                for at, number in enumerate(entry.config))
    sound = sound and all(name in OTHER_BACKENDS and ms > 0 for name, ms in others.items())
    if kernel not in SHAPES or dtype not in DTYPES or len(shape) != len(SHAPES[kernel]._fields) or not sound:
        raise ValueError(f"entry {name!r} is no configuration of a kernel")
    return (kernel, dtype, shape), entry


def _show(key: tuple[str, str, tuple[int, ...]], entry: Entry) -> tuple[str, dict]:
    kernel, dtype, shape = key
    return f"{kernel} {dtype} {','.join(map(str, shape))}", entry._asdict()


_FORM = files.Form(FORMAT, _entry, _show)

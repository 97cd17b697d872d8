"""The file of tuned choices of one CPU (tuning/files.py says how it is read and written).

    "float32 block 48,104,104,3,1,1,8,26,0,1,28,28,1,2": {"choice": [0, 2, 98, 1, 0, 0, 0, 0, 0, 0, 2], "ms": .., "heuristic_ms": ..}

The key is the layer, the value its choice; a choice of zeros says that the heuristics' was the best.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .. import files
from .identity import CpuIdentity
from .layer import DTYPES, KINDS, Choice, Layer

FORMAT = 2
LARGEST = 1 << 20  # of a number of a choice


class Entry(NamedTuple):
    """Milliseconds of all layers of this shape in the network on which they were measured."""

    choice: Choice
    ms: float
    heuristic_ms: float


Entries = dict[Layer, Entry]


def cache_file(known: CpuIdentity) -> Path:
    return files.cache_dir() / known.file_name


def read(path: Path) -> Entries:
    """As files.read."""
    return files.read(path, _FORM)


def merge(path: Path, known: CpuIdentity, new: Entries) -> Entries:
    """As files.merge."""
    return files.merge(path, known._asdict(), new, _FORM)


def _parse(name: str, value) -> tuple[Layer, Entry]:
    try:
        dtype, kind, numbers = name.split(" ")
        layer = Layer(DTYPES.index(dtype), KINDS.index(kind), *map(int, numbers.split(",")))
        choice = Choice.of(value["choice"])
        entry = Entry(choice, float(value["ms"]), float(value["heuristic_ms"]))
        sound = len(value["choice"]) == 11 and all(type(number) is int and 0 <= number <= LARGEST for number in choice.integers) and max(choice.winograd, *(cut[2] for cut in choice[2:])) <= 2
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"entry {name!r}: {error!r}") from None
    if not sound:
        raise ValueError(f"entry {name!r} is no choice for a layer")
    return layer, entry


def _show(layer: Layer, entry: Entry) -> tuple[str, dict]:
    name = f"{DTYPES[layer.dtype]} {KINDS[layer.kind]} {','.join(map(str, layer[2:]))}"
    return name, {**entry._asdict(), "choice": entry.choice.integers}


_FORM = files.Form(FORMAT, _parse, _show)

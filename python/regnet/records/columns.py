"""Numbers out of records: fields of the record, of its configuration, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Real

import numpy as np

from regnet.records.schema import RecordError

ALIASES = {"d": "depth", "b": "bottleneck_ratio", "g": "group_width"}
_INDEXED = re.compile(r"(\w+)\[(\d+)\]")


def columns(records: Iterable[dict], names: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    """The named numbers of all records that have them all: {name: (n,) float64}, and how many records were left out.

    A name is a field of the record (`error`, `flops`, ...) or of its configuration (`w_m`; of an AnyNet also `depth`, the blocks of
    all stages, `group_width` and `bottleneck_ratio` where all stages have the same); `widths[0]` is the first stage's; `d`, `b` and
    `g` are short for depth, bottleneck_ratio and group_width. Raises RecordError with the names that occur if one
    occurs in no record.
    """
    records = list(records)
    values = {name: [number(record, name) for record in records] for name in names}
    for name, found in values.items():
        if records and all(value is None for value in found):
            raise RecordError(f"no record has the number {name!r}; there are {', '.join(_known(records[0])) or 'none'}")
    table = np.array([[np.nan if value is None else value for value in found] for found in values.values()], dtype=np.float64)
    kept = np.isfinite(table.reshape(len(names), len(records))).all(axis=0)
    return {name: row[kept] for name, row in zip(names, table, strict=True)}, int((~kept).sum())


def number(record: dict, name: str) -> float | None:
    """One number of a record, or None where it has none of that name."""
    name = ALIASES.get(name, name)
    config = record.get("config") or {}
    if match := _INDEXED.fullmatch(name):
        values = config.get(match[1])
        return _real(values[int(match[2])]) if isinstance(values, list) and int(match[2]) < len(values) else None
    if name in record:
        return _real(record[name])
    if name in config:
        return _real(config[name])
    if name == "depth" and isinstance(config.get("depths"), list):
        return float(sum(config["depths"]))
    shared = config.get({"group_width": "group_widths", "bottleneck_ratio": "bottleneck_ratios"}.get(name))
    return _real(shared[0]) if isinstance(shared, list) and shared and len(set(shared)) == 1 else None


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def _known(record: dict) -> list[str]:
    names = [key for key, value in record.items() if _real(value) is not None and key != "schema"]
    config = record.get("config") or {}
    names += [key for key, value in config.items() if _real(value) is not None]
    names += [f"{key}[0]" for key, value in config.items() if isinstance(value, list)]
    derived = [name for name in ("depth", "group_width", "bottleneck_ratio") if number(record, name) is not None]
    return sorted({*names, *derived})

"""Results of whole models as one plain dict: summed up, and read back from JSON. (As rows of a CSV file: rows.py.)"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

SCHEMA = "regnet-bench/1"
KEY = ("model", "source", "batch", "resolution", "dtype", "threads")


def geometric_mean(values: Iterable[float]) -> float:
    """Raises ValueError for no values."""
    values = list(values)
    if not values:
        raise ValueError("the geometric mean of nothing")
    return math.exp(sum(math.log(v) for v in values) / len(values))


def key(record: dict) -> tuple:
    """What a latency record measures, without who ran it."""
    return tuple(record[name] for name in KEY)


def speedups(latency: list[dict]) -> list[dict]:
    """Per configuration: our time, the floor, and the time of each peer over ours; `best_peer` is the fastest of them."""
    groups: dict[tuple, dict[str, dict]] = {}
    for record in latency:
        groups.setdefault(key(record), {})[record["peer"]] = record
    found = []
    for group, by_peer in groups.items():
        ours = by_peer.get("ours")
        others = {name: record["median_ms"] for name, record in by_peer.items() if name != "ours"}
        if ours is None or not others:
            continue
        best = min(others, key=others.get)
        mine = ours["median_ms"]
        found.append(
            dict(zip(KEY, group, strict=True))
            | {"ours_ms": mine, "best_peer": best, "best_peer_ms": others[best], "speedup": others[best] / mine}
            | {"over_peers": {name: ms / mine for name, ms in others.items()}}
            | {"floor_ms": ours["floor_ms"], "share_of_peak": ours["floor_ms"] / mine}
        )
    return found


def summary(rows: list[dict]) -> list[dict]:
    """Per batch size: geometric mean and worst of the speed-up over the best peer, and over each peer where it ran."""
    found = []
    for batch in sorted({row["batch"] for row in rows}):
        chosen = [row for row in rows if row["batch"] == batch]
        names = {name for row in chosen for name in row["over_peers"]}
        worst = min(chosen, key=lambda row: row["speedup"])
        found.append(
            {
                "batch": batch,
                "configurations": len(chosen),
                "geomean_speedup": geometric_mean(row["speedup"] for row in chosen),
                "worst_speedup": worst["speedup"],
                "worst_model": f"{worst['model']} ({worst['source']})",
                "geomean_share_of_peak": geometric_mean(row["share_of_peak"] for row in chosen),
                "geomean_over": {
                    name: geometric_mean(row["over_peers"][name] for row in chosen if name in row["over_peers"])
                    for name in sorted(names)
                },
            }
        )
    return found


def load(path: Path) -> dict:
    """A file of results as JSON. Raises FileNotFoundError, or ValueError for any other content."""
    if not path.is_file():
        raise FileNotFoundError(f"no results file at {path}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, expected {SCHEMA!r}: write it with `regnet bench --json FILE`")
    return results

"""Results as one plain dict: summed up, written to JSON and CSV, read back and compared with another run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

from regnet.atomic import write_text

SCHEMA = "regnet-bench/1"
KEY = ("model", "source", "batch", "resolution", "dtype", "threads")
CSV_COLUMNS = (*KEY, "peer", "median_ms", "p20_ms", "p80_ms", "best_ms", "calls", "rel_err", "multiply_adds", "floor_ms")
SAME_WITHIN = 0.03  # medians nearer than this count as equal


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


def save_csv(results: dict, path: Path) -> None:
    """One line per configuration and peer."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(results["latency"])
    write_text(path, text.getvalue())


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


def compare(old: dict, new: dict) -> list[dict]:
    """Records present in both runs: ratio new / old, and a verdict.

    "faster" or "slower" only if the medians differ by more than 3 % and the ranges from the 20th to the 80th percentile do
    not touch; "same" otherwise.
    """
    before = {(*key(record), record["peer"]): record for record in old["latency"]}
    rows = []
    for record in new["latency"]:
        past = before.get((*key(record), record["peer"]))
        if past is None:
            continue
        ratio = record["median_ms"] / past["median_ms"]
        apart = record["p20_ms"] > past["p80_ms"] or record["p80_ms"] < past["p20_ms"]
        verdict = "same" if not apart or abs(ratio - 1) <= SAME_WITHIN else "slower" if ratio > 1 else "faster"
        names = {name: record[name] for name in (*KEY, "peer")}
        rows.append(names | {"old_ms": past["median_ms"], "new_ms": record["median_ms"], "ratio": ratio, "verdict": verdict})
    if not rows:
        raise ValueError("the two runs have no configuration in common: nothing to compare")
    return rows


def machine_differences(old: dict, new: dict) -> list[str]:
    """What makes a comparison of the two runs doubtful: another CPU, core count, instruction set or torch."""
    found = []
    for what in ("cpu", "cpu_model", "cores"):
        if old["machine"].get(what) != new["machine"].get(what):
            found.append(f"{what}: {old['machine'].get(what)} then, {new['machine'].get(what)} now")
    isa = [(r["machine"].get("kernels") or {}).get("chosen") for r in (old, new)]
    if isa[0] != isa[1]:
        found.append(f"instruction set of our kernels: {isa[0]} then, {isa[1]} now")
    for package, version in new["versions"].items():
        if (past := old["versions"].get(package)) != version:
            found.append(f"{package}: {past} then, {version} now")
    return found

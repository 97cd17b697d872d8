"""Two runs of a suite beside each other: what got slower, what faster, and whether the difference means anything."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from regnet.bench import results
from regnet.bench.results import geometric_mean
from regnet.bench.rows import IDENTITY, PROVENANCE, identity, load_rows, model_rows
from regnet.bench.suite import SCHEMA

THRESHOLD = 0.05


@dataclass(frozen=True)
class Comparison:
    """rows: those in both runs, with old_ms, new_ms, ratio (new / old) and verdict ("faster", "slower", "same"); means: (kind, peer,
    rows, geometric mean of the ratios); only_old, only_new: rows without a partner; noise: median spread (p80 - p20) / median of the
    old and the new run; differences: what makes the comparison doubtful, in words."""

    rows: list[dict]
    means: list[tuple[str, str, int, float]]
    only_old: int
    only_new: int
    noise: tuple[float, float]
    differences: list[str]
    threshold: float


def load(path: Path) -> list[dict]:
    """Rows of a file that `regnet bench` wrote, any suite's CSV or JSON. Raises FileNotFoundError, or ValueError for any other content."""
    if path.suffix.lower() != ".json":
        return load_rows(path)
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if isinstance(content, dict) and content.get("schema") == SCHEMA:
            return content["rows"]
    return model_rows(results.load(path))


def compare(old: list[dict], new: list[dict], threshold: float = THRESHOLD) -> Comparison:
    """Compare rows by what they measure. A row is faster or slower only if its medians differ by more than `threshold` and the ranges
    from the 20th to the 80th percentile do not touch. Raises ValueError for rows with nothing in common, or a negative threshold."""
    if threshold < 0:
        raise ValueError(f"threshold {threshold}: expected 0 or more")
    old, new = ([row for row in rows if row["median_ms"] is not None] for rows in (old, new))
    before = {identity(row): row for row in old}
    pairs = [(before[identity(row)], row) for row in new if identity(row) in before]
    if not pairs:
        suites = [", ".join(sorted({row["suite"] for row in rows})) or "no times" for rows in (old, new)]
        raise ValueError(f"the two runs have nothing in common to compare (old: {suites[0]}; new: {suites[1]})")
    rows = [_row(past, now, threshold) for past, now in pairs]
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["peer"]), []).append(row["ratio"])
    means = [(kind, peer, len(ratios), geometric_mean(ratios)) for (kind, peer), ratios in groups.items()]
    noise = tuple(statistics.median(_spread(row) for row in side) for side in zip(*pairs, strict=True))
    return Comparison(rows, means, len(old) - len(pairs), len(new) - len(pairs), noise, differences(old, new), threshold)


def differences(old: list[dict], new: list[dict]) -> list[str]:
    """Machine, instruction set, threads, versions and builds that differ, as "isa: avx2 then, baseline now"."""
    found = []
    for name in (name for name in PROVENANCE if name != "build"):  # which is why one compares
        then, now = ({str(row.get(name) or "unknown") for row in rows} for rows in (old, new))
        if then != now:
            found.append(f"{name}: {', '.join(sorted(then))} then, {', '.join(sorted(now))} now")
    return found


def _row(past: dict, now: dict, threshold: float) -> dict:
    ratio = now["median_ms"] / past["median_ms"]
    apart = now["p20_ms"] > past["p80_ms"] or now["p80_ms"] < past["p20_ms"]
    changed = apart and abs(ratio - 1) > threshold
    verdict = ("slower" if ratio > 1 else "faster") if changed else "same"
    known = {name: now[name] for name in IDENTITY if now.get(name) not in (None, "")}
    return known | {"old_ms": past["median_ms"], "new_ms": now["median_ms"], "ratio": ratio, "verdict": verdict}


def _spread(row: dict) -> float:
    return (row["p80_ms"] - row["p20_ms"]) / row["median_ms"]

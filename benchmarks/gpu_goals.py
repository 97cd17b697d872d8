"""What a run of `make gpu-check` says about the project's goals on GPUs, as a table of met, missed and open; and its times as tables.

Reads only the record (gpu_check.json), so it also tells an unfinished run: a goal is "met" or "missed" once what is left to measure
cannot change that, else "open". Another peer can only lower a lead, so a lead below its goal without one is missed already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from regnet.traffic import CARDS, Card

from benchmarks.gpu_plan import DTYPES, EFFICIENTNET, MODELS, OPS, Job, floor

LEAD = {256: 2.0, 1: 1.5}  # over the best peer, by batch
FLOOR_SHARE = 0.70
COPY_SHARE = 0.80
SE_SHARE = 0.10
HEADLINE = 5.0
PEERS = ("eager", "compile")


class Goal(NamedTuple):
    """wanted: in words; value: what was measured, "" for nothing yet; verdict: "met", "missed" or "open"."""

    wanted: str
    value: str
    verdict: str
    detail: str = ""


class Times:
    """The times of a record by what they are of."""

    def __init__(self, record: dict):
        self.rows = record.get("times", [])
        self._ms = {_key(row): row for row in self.rows if "ms" in row}
        self.card = measured_card(self.rows, record.get("card", ""))

    def row(self, *key: str | int) -> dict | None:
        """The row of a time; key: the fields of its job."""
        return self._ms.get(key)

    def per_image(self, what: str, name: str, batch: int, dtype: str, ways: Iterable[str]) -> float | None:
        """The best of some ways, ms an image at the batch that fitted."""
        found = [self._ms[key] for way in ways if (key := (what, name, -1, batch, dtype, way)) in self._ms]
        return min((row["ms"] / row.get("images", batch) for row in found), default=None)

    def of(self, what: str, way: str, batch: int = 256, dtype: str = "float16") -> list[dict]:
        return [row for row in self._ms.values() if (row["what"], row["way"], row["batch"], row["dtype"]) == (what, way, batch, dtype)]


def measured_card(rows: list[dict], name: str) -> Card | None:
    """The card as measured: its copy bandwidth; the higher of its rate of products and its datasheet's peak. None before that."""
    copied = [row["gb_per_s"] for row in rows if "gb_per_s" in row]
    rates = [row["tflop_per_s"] for row in rows if "tflop_per_s" in row]
    if not copied or not rates:
        return None
    sheet = datasheet(name)
    return Card(name, max(copied), max([*rates, *([sheet.peak] if sheet else [])]), "measured here")


def datasheet(name: str) -> Card | None:
    """The datasheet of a card by its name, None for one that is not in regnet.traffic.CARDS."""
    return next((card for card in CARDS if card.name.removeprefix("RTX ") in name), None)


def goals(record: dict, models: Iterable[str] = MODELS) -> list[Goal]:
    """All goals for 16-bit inference, in the order in which the project states them."""
    times, models = Times(record), list(models)
    found = [lead(times, models, batch, dtype) for batch in LEAD for dtype in DTYPES]
    found += [of_the_floor(times, models, dtype) for dtype in DTYPES]
    return [*found, copy_share(times), se_share(times), headline(times, record)]


def lead(times: Times, models: list[str], batch: int, dtype: str) -> Goal:
    """The geometric mean over models of the best peer's time over ours."""
    graphs = batch == 1  # the goal at batch 1 is with CUDA graphs
    ways = {kind: (f"{kind} graph",) if graphs else (kind, f"{kind} graph") for kind in ("ours", *PEERS)}
    ratios, whole = {}, 0
    for name in models:
        best = {kind: times.per_image("model", name, batch, dtype, ways[kind]) for kind in ways}
        peers = [best[kind] for kind in PEERS if best[kind] is not None]
        if best["ours"] is not None and peers:
            ratios[name] = min(peers) / best["ours"]
            whole += len(peers) == len(PEERS)
    wanted = f"{dtype}, batch {batch}{' with CUDA graphs' if graphs else ''}: {LEAD[batch]:.1f}x the best peer (geometric mean)"
    if not ratios:
        return Goal(wanted, "", "open", "nothing measured")
    value = mean(ratios.values())
    worst = min(ratios, key=ratios.get)
    detail = f"{len(ratios)} of {len(models)} models, torch.compile among the peers of {whole}; lowest {worst} {ratios[worst]:.2f}x"
    complete = len(ratios) == whole == len(models)
    lost = value < LEAD[batch] and len(ratios) == len(models)
    return Goal(wanted, f"{value:.2f}x", "met" if complete and not lost else "missed" if lost else "open", detail)


def of_the_floor(times: Times, models: list[str], dtype: str) -> Goal:
    """The geometric mean over models of our traffic's floor over our time."""
    wanted = f"{dtype}, batch 256: {FLOOR_SHARE:.0%} of the traffic floor of our own path (geometric mean)"
    shares = {}
    for name in models:
        ours = times.per_image("model", name, 256, dtype, ("ours", "ours graph"))
        if ours is not None and times.card is not None:
            shares[name] = floor(Job("model", name, -1, 256, dtype, "ours"), times.card)[0] / (256 * ours)
    if not shares:
        return Goal(wanted, "", "open", "nothing measured")
    value, worst = mean(shares.values()), min(shares, key=shares.get)
    verdict = "open" if len(shares) < len(models) else "met" if value >= FLOOR_SHARE else "missed"
    return Goal(wanted, f"{value:.0%}", verdict, f"{len(shares)} of {len(models)} models; lowest {worst} {shares[worst]:.0%}")


def copy_share(times: Times) -> Goal:
    """The lowest share of the copy bandwidth among the grouped convolutions that memory bounds."""
    wanted = f"grouped 3x3 + BatchNorm + ReLU, float16, batch 256: {COPY_SHARE:.0%} of the copy bandwidth wherever memory bounds it"
    shares, whats = {}, set()
    for what in OPS[:2]:
        for row in times.of(what, "ours graph"):
            bound = floor(_job(row), times.card) if times.card else None
            if bound and bound[1] == "memory":
                shares[f"{row['name']} stage {row['stage']}{what.removeprefix(OPS[0])}"] = bound[0] / row["ms"]
                whats.add(what)
    if not shares:
        return Goal(wanted, "", "open", "nothing measured")
    worst = min(shares, key=shares.get)
    below = sum(share < COPY_SHARE for share in shares.values())
    detail = f"{len(shares)} layers, {below} below, geometric mean {mean(shares.values()):.0%}; lowest {worst}"
    return Goal(wanted, f"{shares[worst]:.0%}", "missed" if below else "met" if len(whats) == 2 else "open", detail)


def se_share(times: Times) -> Goal:
    """The largest share that the squeeze-excite takes of a Y block: its time less that of the same block without one."""
    wanted = f"squeeze-excite, float16, batch 256: at most {SE_SHARE:.0%} of a Y block's time"
    shares = {}
    for row in times.of("block", "ours graph"):
        without = times.row("block without SE", row["name"], row["stage"], 256, "float16", "ours graph")
        if without is not None and row["name"].startswith("regnety"):
            shares[f"{row['name']} stage {row['stage']}"] = 1 - without["ms"] / row["ms"]
    if not shares:
        return Goal(wanted, "", "open", "nothing measured")
    worst = max(shares, key=shares.get)
    over = sum(share > SE_SHARE for share in shares.values())
    return Goal(wanted, f"{shares[worst]:.1%}", "missed" if over else "met", f"{len(shares)} blocks, {over} above; largest {worst}")


def headline(times: Times, record: dict) -> Goal:
    """Images a second of RegNetX-8GF on our kernels over those of EfficientNet-B5 at its best."""
    wanted = f"RegNetX-8GF, float16: {HEADLINE:.0f}x the throughput of EfficientNet-B5"
    ours = times.per_image("model", "regnetx_8.0gf", 256, "float16", ("ours", "ours graph"))
    peers = {kind: times.per_image("model", EFFICIENTNET, 256, "float16", (kind, f"{kind} graph")) for kind in PEERS}
    known = {kind: ms for kind, ms in peers.items() if ms is not None}
    if ours is None or not known:
        errors = [row["error"] for row in times.rows if row["name"] == EFFICIENTNET and "error" in row]
        return Goal(wanted, "", "open", errors[0] if errors else "nothing measured")
    value = min(known.values()) / ours
    images = max(row.get("images", 256) for row in times.rows if row["name"] == EFFICIENTNET and "ms" in row)
    verdict = "missed" if value < HEADLINE else "met" if len(known) == len(PEERS) else "open"
    detail = f"{1e3 / ours:.0f} and {1e3 / min(known.values()):.0f} images/s (batch {images}, 456x456, {' and '.join(known)})"
    return Goal(wanted, f"{value:.2f}x", verdict, detail)


def mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def report(record: dict, models: Iterable[str] = MODELS) -> str:
    """Markdown: how the checks went, the goals, and the times with their floors."""
    times = Times(record)
    lines = [f"# {record.get('card', 'GPU')}", "", *checks(record), ""]
    if times.card:
        sheet = datasheet(times.card.name)
        known = f" (datasheet: {sheet.bandwidth} GB/s, {sheet.peak} TFLOP/s)" if sheet else ""
        figures = f"Copy bandwidth {times.card.bandwidth:.0f} GB/s, peak {times.card.peak:.0f} TFLOP/s{known}"
        lines += [f"{figures}; the floors are made of these.", ""]
    lines += table(("goal", "measured", "", "of what"), [(one.wanted, one.value, one.verdict, one.detail) for one in goals(record, models)])
    lines += ["", "Milliseconds a call, median; in brackets the share of the floor of that way's own traffic.", ""]
    lines += table(("what", "batch", "dtype", *WAY_NAMES), [row for row in rows_of(times)])
    errors = [row for row in times.rows if "error" in row]
    lines += ["", f"{len(errors)} jobs failed:"] if errors else []
    lines += [f"- {_job(row)}: {row['error']}" for row in errors]
    if record.get("left"):
        lines += ["", f"{record['left']} jobs are left; the same command goes on with them."]
    return "\n".join(lines) + "\n"


WAY_NAMES = ("ours graph", "ours", "eager graph", "eager", "compile graph", "compile")


def rows_of(times: Times) -> list[tuple[str, ...]]:
    """A row for each model, block and operation, batch and dtype that has a time."""
    keys = dict.fromkeys(_key(row)[:5] for row in times.rows if "ms" in row and row["what"] != "card")
    found = []
    for what, name, stage, batch, dtype in keys:
        cells = []
        for way in WAY_NAMES:
            row = times.row(what, name, stage, batch, dtype, way)
            bound = floor(Job(what, name, stage, batch, dtype, way), times.card) if row and times.card else None
            cells.append("" if row is None else f"{row['ms']:.3f}" + (f" ({bound[0] / row['ms']:.0%})" if bound else "")
                         + (f" of {row['images']} images" if row.get("images", batch) != batch else ""))
        label = name if what == "model" else f"{what}, {name} stage {stage}"
        found.append((label, str(batch), dtype, *cells))
    return found


def checks(record: dict) -> list[str]:
    """A line for each of the build, the tests and the sanitizer's tools."""
    words = {True: "passed", False: "FAILED", None: "not run"}
    lines = []
    for name in ("build", "tests", "memcheck", "racecheck"):
        if name in record:
            done = record[name]
            lines.append(f"- {name}: {words[done['passed']]}" + (f" ({done['why']})" if done.get("why") else ""))
    return lines


def table(header: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
    """Aligned Markdown."""
    widths = [max(len(line[at]) for line in (header, *body)) for at in range(len(header))]
    rule = tuple("-" * width for width in widths)
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in (header, rule, *body)]


def _key(row: dict) -> tuple:
    return row["what"], row["name"], row["stage"], row["batch"], row["dtype"], row["way"]


def _job(row: dict) -> Job:
    return Job(*_key(row))

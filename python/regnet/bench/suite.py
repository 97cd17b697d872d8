"""A run over layer shapes, the suites `ops` and `blocks`: the shapes that matter most first, a row as soon as it is measured, within a
budget of minutes; the same command goes on where the last one stopped."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from regnet.bench import machine
from regnet.bench.blocks import BLOCK_PEERS, measure_block
from regnet.bench.ops import OP_PEERS, call_costs, measure_step, peers_of
from regnet.bench.peers import Peer, choose_peers
from regnet.bench.plan import DTYPES
from regnet.bench.profile import require_kernels
from regnet.bench.results import geometric_mean
from regnet.bench.rows import SHAPE_COLUMNS, check_same_run, derive, floor_ms, identity, load_rows, rates_from, save_rows
from regnet.bench.shapes import OpShape, StepShape, Use, distinct_steps
from regnet.bench.sources import canonical_name
from regnet.models import list_models

SCHEMA = "regnet-bench-shapes/1"
SUITES = {"ops": OP_PEERS, "blocks": BLOCK_PEERS}
Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ShapePlan:
    """One run. Raises ValueError on construction for anything that cannot be run.

    models: names; () for all. minutes: 0 for no limit. block_seconds: of each of the `rounds` blocks of calls that a peer gets.
    """

    suite: str
    models: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    peers: tuple[str, ...] | None = None
    dtype: str = "float32"
    threads: int = field(default_factory=torch.get_num_threads)
    resolution: int = 224
    rounds: int = 5
    block_seconds: float = 0.03
    minutes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"suite {self.suite!r}: expected one of {', '.join(SUITES)}")
        names = dict.fromkeys(canonical_name(name) for name in self.models or list_models())
        object.__setattr__(self, "models", tuple(names))
        object.__setattr__(self, "batches", tuple(dict.fromkeys(self.batches)))
        if not self.batches:
            raise ValueError("no batch size to run: name at least one")
        for what, value in (("batch size", min(self.batches)), ("threads", self.threads), ("rounds", self.rounds)):
            if value < 1:
                raise ValueError(f"{what} {value}: expected 1 or more")
        if self.resolution < 32:
            raise ValueError(f"resolution {self.resolution} is too small: the network halves it five times; use at least 32")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.minutes < 0 or self.block_seconds <= 0:
            raise ValueError("times must be positive (0 minutes mean no limit)")
        self.chosen_peers()

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def chosen_peers(self) -> list[Peer]:
        return choose_peers(self.peers, SUITES[self.suite])


def run(plan: ShapePlan, path: Path | None = None, *, fresh: bool = False, advance: Advance | None = None) -> dict:
    """Measure what `plan` wants and `path` (a CSV file, written after every step) does not hold yet; return the results.

    fresh: measure everything again. advance(text, done, total): called as the work proceeds, in steps. A KeyboardInterrupt ends the run
    with what there is, "interrupted" set. Raises ValueError where `path` holds results of another machine, build or setting, RuntimeError
    without our kernels or where their output is wrong.
    """
    require_kernels()
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        return _Runner(plan, path, fresh, advance or (lambda text, done, total: None)).run()
    finally:
        torch.set_num_threads(before)


class _Runner:
    def __init__(self, plan: ShapePlan, path: Path | None, fresh: bool, advance: Advance) -> None:
        self.plan, self.path, self.advance = plan, path, advance
        self.start = time.monotonic()
        self.provenance = machine.provenance(plan.threads)
        self.common = {"suite": plan.suite, "dtype": plan.dtype}
        self.rows = load_rows(path) if path is not None and path.exists() and not fresh else []
        if self.rows:
            check_same_run(path, self.rows, self.common | self.provenance)
        self.kept = len(self.rows)
        self.omitted = []
        self.peers = []
        for peer in plan.chosen_peers():
            if reason := peer.missing(plan.torch_dtype):
                self.omitted.append(f"{peer.label}: {reason}")
            else:
                self.peers.append(peer)

    def run(self) -> dict:
        plan = self.plan
        self.advance("measuring the machine's peak and bandwidths", 0, 1)
        self.peak = machine.measure_peak(plan.threads, plan.torch_dtype)
        self.gflops = max([self.peak.gflops, *(row["peak_gflops"] for row in self.rows)])
        self.bandwidth = machine.measure_bandwidth(plan.threads)
        for text in {row["copy_gbytes_s"] for row in self.rows}:
            self.bandwidth = self.bandwidth.merged(rates_from(text))
        work, uses = distinct_steps(plan.models, plan.batches, plan.resolution, self._floor, per_op=plan.suite == "ops")
        self.uses = {self._key(shape): use for shape, use in uses.items()}
        todo = [(step, wanted) for step, ops in work.items() if (wanted := self._missing(step, ops))]
        interrupted = False
        try:
            left = self._measure_all(todo, len(work))
        except KeyboardInterrupt:
            interrupted, left = True, None
        self._finish_rows()
        rows = [row for row in self.rows if identity(row, peer=False) in self.uses]
        return {
            "schema": SCHEMA, "suite": plan.suite, "date": _now(), "seconds": round(time.monotonic() - self.start, 1),
            "machine": machine.describe(), "versions": machine.versions(), "provenance": self.provenance, "models": plan.models,
            "batches": plan.batches, "resolution": plan.resolution, "dtype": plan.dtype, "threads": plan.threads, "rounds": plan.rounds,
            "block_seconds": plan.block_seconds,
            "peak": {"gflops": self.gflops, "method": self.peak.method},
            "copy_gbytes_s": {str(size): rate for size, rate in self.bandwidth.rates.items()},
            "shapes": len(uses), "coverage": sum(row["floor_share"] for row in rows if row["peer"] == "ours"),
            "kept_rows": self.kept, "steps_left": left, "interrupted": interrupted, "omitted": self.omitted + _notes(rows),
            "rows": rows, "summary": summary(rows),
        }  # fmt: skip

    def _measure_all(self, todo: list[tuple[StepShape, dict]], total: int) -> int:
        """Returns how many steps the budget left out."""
        plan, durations = self.plan, []
        costs = call_costs(self.peers, plan.torch_dtype) if plan.suite == "ops" and todo else {}
        for index, (step, wanted) in enumerate(todo):
            self.advance(_text(step), total - len(todo) + index, total)
            expected = sum(durations) / len(durations) if durations else 0.0
            if plan.minutes and time.monotonic() - self.start + expected > 60 * plan.minutes:
                return len(todo) - index
            begin = time.monotonic()
            args = (self.peers, plan.torch_dtype)
            if plan.suite == "ops":
                found = measure_step(step, wanted, *args, plan.rounds, plan.block_seconds, plan.seed)
            else:
                found = measure_block(step, *args, plan.threads, plan.rounds, plan.block_seconds, plan.seed)
            durations.append(time.monotonic() - begin)
            now = {"date": _now(), **self.common, **self.provenance}
            found = [row | now | {"call_ms": costs.get(row["peer"])} for row in found]
            replaced = {identity(row) for row in found}
            self.rows = [row for row in self.rows if identity(row) not in replaced] + found
            self._finish_rows()
            if self.path is not None:
                save_rows(self.path, self.rows, SHAPE_COLUMNS)
        self.advance("", total, total)
        return 0

    def _missing(self, step: StepShape, ops: dict[str, OpShape]) -> dict[str, OpShape] | bool:
        """What of a step's work has no row yet for one of the peers."""
        have = {identity(row) for row in self.rows}

        def done(shape: OpShape | StepShape, peers: list[Peer]) -> bool:
            known = self.common | shape.columns()
            return all(identity(known | {"peer": peer.name}) in have for peer in peers)

        if self.plan.suite == "blocks":
            return not done(step, self.peers)
        ours = [peer for peer in self.peers if peer.name == "ours"]
        return {name: op for name, op in ops.items() if not done(op, ours + peers_of(op, self.peers))}

    def _finish_rows(self) -> None:
        """The best peak and bandwidth seen by any of the runs count for all rows; shares are those of this run's models."""
        finished = []
        for row in self.rows:
            use = self.uses.get(identity(row, peer=False), Use(0.0, ()))
            row = derive(row, self.gflops, self.bandwidth) | {"floor_share": use.share}
            finished.append(row | ({"models": " ".join(use.models)} if use.models else {}))
        self.rows = finished

    def _floor(self, shape: OpShape | StepShape) -> float:
        return floor_ms(2e-9 * shape.macs, shape.bytes(self.plan.torch_dtype.itemsize), self.gflops, self.bandwidth)

    def _key(self, shape: OpShape | StepShape) -> tuple:
        return identity(self.common | shape.columns(), peer=False)


def summary(rows: list[dict]) -> list[dict]:
    """Per kind, and "all" of them: shapes; floor_share; per peer the share of the floor that it reaches (floor time over time, each shape
    by its part in the models), and over the same shapes the geometric mean of its time over ours, as measured (over_ours); and, over the
    net_shapes whose time is at least twice the cost of a call, with that cost taken off (over_ours_net, None for no such shape)."""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        groups.setdefault(identity(row, peer=False), {})[row["peer"]] = row
    shapes = [group for group in groups.values() if "ours" in group]
    kinds = list(dict.fromkeys(group["ours"]["kind"] for group in shapes))
    found = []
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
        chosen = [group for group in shapes if kind in ("all", group["ours"]["kind"])]
        entry = {"kind": kind, "shapes": len(chosen), "floor_share": sum(group["ours"]["floor_share"] for group in chosen), "peers": {}}
        for peer in dict.fromkeys(name for group in chosen for name in group):
            timed = [group for group in chosen if group.get(peer, {}).get("median_ms") is not None]
            if timed:
                entry["peers"][peer] = _beside_ours([(group["ours"], group[peer]) for group in timed])
        found.append(entry)
    return found


def _beside_ours(pairs: list[tuple[dict, dict]]) -> dict:
    total = sum(theirs["floor_share"] for _, theirs in pairs)
    spent = sum(theirs["floor_share"] * theirs["median_ms"] / theirs["floor_ms"] for _, theirs in pairs)
    over = geometric_mean(theirs["median_ms"] / ours["median_ms"] for ours, theirs in pairs)
    costs = [theirs.get("call_ms") or 0.0 for _, theirs in pairs]
    net = [
        (theirs["median_ms"] - cost) / ours["median_ms"]
        for (ours, theirs), cost in zip(pairs, costs, strict=True)
        if theirs["median_ms"] >= 2 * cost
    ]
    return {
        "shapes": len(pairs), "floor_over_time": total / spent if spent else None, "over_ours": over,
        "net_shapes": len(net), "over_ours_net": geometric_mean(net) if net else None,
    }  # fmt: skip


def _notes(rows: list[dict]) -> list[str]:
    """One line a reason, with how often it was given."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["note"]:
            counts[row["peer"], row["note"]] = counts.get((row["peer"], row["note"]), 0) + 1
    return [f"{peer} ({count} shapes): {note}" for (peer, note), count in counts.items()]


def _text(step: StepShape) -> str:
    groups = f", groups of {step.group_width}" if step.group_width else ""
    return f"{step.kind} {step.side}x{step.side}, {step.c_in} > {step.c_out}{groups}, batch {step.batch}"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

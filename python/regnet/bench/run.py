"""The benchmark itself: each model of each source, checked for parity and timed beside its peers, in one process."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from regnet.bench import accuracy, machine, results
from regnet.bench.images import batch_of, find_images, load_images
from regnet.bench.peers import WRONG_BEYOND, Peer, Subject, one_line
from regnet.bench.plan import Budget, Plan
from regnet.bench.sources import WEIGHTS_NOTE, build_model, missing_source
from regnet.bench.timing import CALLS_AT_LEAST, CALLS_AT_MOST, SETTLE_SECONDS, interleave
from regnet.cost import complexity

Advance = Callable[[str, int], None]
METHOD = (
    "one process, the same numpy batch; each peer in turn: one untimed call, then {least} to {most} timed calls (about {seconds:g} s),"
    " then the next peer; {rounds} rounds; medians with the 20th and 80th percentile; torch.inference_mode; {threads} threads"
    " for everybody; floor = nominal multiply-adds x 2 / measured peak"
)


def steps(plan: Plan) -> int:
    """How many times `advance` counts in a run of `plan`, for a progress bar."""
    return len(plan.models) * len(plan.sources) + len(plan.configurations()) * _configuration_steps(plan)


def run(plan: Plan, advance: Advance | None = None) -> dict:
    """Run `plan` and return the results (see docs/benchmarks.md for the fields).

    advance(text, n): called as the work proceeds, `steps(plan)` counts in all. Raises ValueError or ImportError if nothing at
    all can be run, and whatever our own code raises; a peer's failure is recorded under "omitted" with its reason.
    """
    runner = _Runner(plan, advance or (lambda text, n: None))
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        return runner.run()
    finally:
        torch.set_num_threads(before)


class _Runner:
    def __init__(self, plan: Plan, advance: Advance) -> None:
        self.plan, self.advance, self.budget = plan, advance, Budget(plan.time_limit)
        self.parity: list[dict] = []
        self.latency: list[dict] = []
        self.omitted: list[dict] = []
        paths = find_images(plan.images)
        self.image_names = [path.name for path in paths]
        self.images = load_images(paths, plan.resolution)
        self.peers = self._available_peers()
        self.sources = self._available_sources()

    def run(self) -> dict:
        plan = self.plan
        peak = machine.measure_peak(plan.threads, plan.torch_dtype)
        self.peak = peak
        todo = [(m, s) for m in plan.models for s in self.sources]
        for position, (model, source) in enumerate(todo):
            self._one_model(model, source, len(todo) - position - 1)
        if not self.latency:
            raise ValueError("nothing was timed: " + "; ".join(sorted({o["reason"] for o in self.omitted})))
        self.advance("measuring the peak again", 0)
        record = machine.peak_record(peak, machine.measure_peak(plan.threads, plan.torch_dtype))
        for entry in self.latency:
            entry["floor_ms"] = 2e3 * entry["multiply_adds"] * entry["batch"] / (record["gflops"] * 1e9)
        rows = results.speedups(self.latency)
        return {
            "schema": results.SCHEMA,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self.budget.elapsed(), 1),
            "machine": machine.describe() | {"peak": record},
            "versions": machine.versions(),
            "provenance": machine.provenance(plan.threads),
            "method": METHOD.format(least=CALLS_AT_LEAST, most=CALLS_AT_MOST, seconds=plan.block_seconds, rounds=plan.rounds, threads=plan.threads),
            "weights": self._weights(),
            "images": self.image_names,
            "parity": self.parity,
            "latency": self.latency,
            "speedups": rows,
            "summary": results.summary(rows),
            "omitted": self.omitted,
        }

    def _one_model(self, name: str, source: str, models_left: int) -> None:
        plan = self.plan
        self.advance(f"{name} ({source}): parity", 0)
        try:
            model = build_model(
                name, source, seed=plan.seed, calibration=self.images, checkpoint=plan.checkpoint, pretrained=plan.pretrained
            )
        except ValueError as error:
            if plan.checkpoint is not None:
                raise
            self._omit(str(error), model=name, source=source)
            self.advance("", 1 + len(plan.batches) * _configuration_steps(plan))
            return
        with tempfile.TemporaryDirectory(prefix="regnet-bench-") as folder:
            subject = Subject(model, plan.threads, plan.torch_dtype, Path(folder), plan.resolution, plan.backend)
            truth = accuracy.float64_output(model, self.images)
            cost = complexity(model, plan.resolution).flops
            with torch.inference_mode():
                self._check_parity(name, source, subject, truth)
                for index, batch in enumerate(plan.batches):
                    rest = (len(plan.batches) - index) + models_left * len(plan.batches)
                    self._one_configuration(name, source, batch, subject, truth, cost, rest)

    def _check_parity(self, name: str, source: str, subject: Subject, truth: np.ndarray) -> None:
        where = {"model": name, "source": source, "dtype": self.plan.dtype, "resolution": self.plan.resolution}
        self.parity.append(where | accuracy.parity_record(subject.model, subject.optimized, self.images, truth))
        self.advance("", 1)

    def _one_configuration(
        self, name: str, source: str, batch: int, subject: Subject, truth: np.ndarray, cost: int, configurations_left: int
    ) -> None:
        plan, where = self.plan, {"model": name, "source": source, "batch": batch}
        estimate = self.budget.estimate(self.peak.floor_ms(cost * batch), len(self.peers), plan)
        if self.budget.left() < 0:
            self._omit(f"the time limit of {plan.time_limit:g} s was reached", **where)
            self.advance("", _configuration_steps(plan))
            return
        x = batch_of(self.images, batch)
        expected = truth[np.arange(batch) % len(truth)]
        calls, errors = {}, {}
        for peer in self.peers:
            self.advance(f"{name} ({source}), batch {batch}: preparing {peer.label}", 0)
            reason = self._prepare(peer, source, subject, x, expected, calls, errors, estimate * configurations_left)
            if reason:
                self._omit(reason, peer=peer.name, **where)
            self.advance("", 1)
        text = f"{name} ({source}), batch {batch}: timing"
        tick = lambda peer: self.advance(text, 1)  # noqa: E731
        timings = interleave(calls, rounds=plan.rounds, block_seconds=plan.block_seconds, settle_seconds=SETTLE_SECONDS, tick=tick)
        self.advance("", (len(plan.chosen_peers()) - len(calls)) * plan.rounds + len(plan.chosen_peers()) - len(self.peers))
        for peer, timing in timings.items():
            self.latency.append(
                {"model": name, "source": source, "batch": batch, "resolution": plan.resolution, "dtype": plan.dtype}
                | {"threads": plan.threads, "peer": peer}
                | asdict(timing)
                | {"rel_err": errors[peer], "multiply_adds": cost}
            )

    def _prepare(
        self, peer: Peer, source: str, subject: Subject, x: np.ndarray, expected: np.ndarray, calls: dict, errors: dict, rest: float
    ) -> str | None:
        """Add the peer's call and its error; or the reason why there is none."""
        if peer.name == "compile":
            if self.plan.compile_for == "first" and source != self.sources[0]:
                return f"compiled for {self.sources[0]} only, to save time (--compile-for all compiles every source)"
            if not self.budget.fits_compile(rest):
                return f"a compilation would not fit in the time limit of {self.plan.time_limit:g} s (--time-limit)"
        start = time.monotonic()
        try:
            call = peer.prepare(subject, x)
            error = accuracy.relative_error(call(), expected)
        except Exception as failure:
            if peer.name == "ours":
                raise
            return f"failed: {one_line(failure)}"
        if peer.name == "compile":
            self.budget.note_compile(time.monotonic() - start)
        if error > WRONG_BEYOND[subject.dtype] and peer.name != "ours":
            return f"wrong result: relative error {error:.1e} against float64"
        calls[peer.name], errors[peer.name] = call, error
        return None

    def _available_peers(self) -> list[Peer]:
        available = []
        for peer in self.plan.chosen_peers():
            if reason := peer.missing(self.plan.torch_dtype):
                self._omit(reason, peer=peer.name)
            else:
                available.append(peer)
        return available

    def _available_sources(self) -> list[str]:
        available = []
        for source in self.plan.sources:
            if reason := missing_source(source):
                self._omit(reason, source=source)
                self.advance("", len(self.plan.models) * (1 + len(self.plan.batches) * _configuration_steps(self.plan)))
            else:
                available.append(source)
        if not available:
            raise ImportError("no source of models: " + "; ".join(o["reason"] for o in self.omitted if o["source"]))
        return available

    def _omit(self, reason: str, model: str | None = None, source: str | None = None, batch: int | None = None, peer: str | None = None):
        self.omitted.append({"model": model, "source": source, "batch": batch, "peer": peer, "reason": reason})

    def _weights(self) -> str:
        if self.plan.checkpoint is not None:
            return f"checkpoint {self.plan.checkpoint.name}"
        return "the source's published weights" if self.plan.pretrained else WEIGHTS_NOTE


def _configuration_steps(plan: Plan) -> int:
    return len(plan.chosen_peers()) * (1 + plan.rounds)

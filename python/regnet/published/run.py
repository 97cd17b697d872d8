"""The comparison on this machine, model by model, kept in a file after each so that an interrupted run goes on."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from regnet.atomic import write_json
from regnet.errors import RegNetError
from regnet.published import measure
from regnet.published.models import PublishedModel

SCHEMA = "regnet-compare/1"
Advance = Callable[[str, int], None]


class CompareError(RegNetError, ValueError):
    """A file of results that cannot be continued."""


@dataclass(frozen=True)
class Plan:
    """What to measure. resolution: None for each model's published one. latency: False counts complexity only."""

    models: tuple[PublishedModel, ...]
    latency: bool = True
    batch: int = 1
    threads: int | None = None
    resolution: int | None = None
    rounds: int = measure.ROUNDS
    block_seconds: float = 0.2

    @property
    def steps(self) -> int:
        """How far `advance` counts in a run."""
        return sum(_steps(model, self) for model in self.models)


def run(plan: Plan, out: Path | None = None, advance: Advance | None = None) -> dict:
    """Compare: complexity and, if wanted, latency of each model; {"schema", "machine", "settings", "models": {name: row}}.

    out: a file that is read first (see `begin`) and replaced atomically after each model. A row is the published model's fields,
    "computed" (flops, params, acts), "latency" (see `measure.latency`), and "omitted", the reason where something is missing.
    advance(text, n): progress.
    """
    import torch

    advance = advance or (lambda text, count: None)
    results = begin(plan, out)
    before = torch.get_num_threads()
    torch.set_num_threads(results["settings"]["threads"])
    try:
        for model in plan.models:
            _one(model, plan, results, advance, out)
        return results
    finally:
        torch.set_num_threads(before)


def begin(plan: Plan, out: Path | None = None) -> dict:
    """Results without a model, or those of an earlier run in `out`, whose rows need not be measured again.

    Raises CompareError if `out` is no such file, or was measured on another machine or with other settings.
    """
    fresh = _header(plan)
    return _continued(Path(out), fresh, plan.latency) if out and Path(out).exists() else fresh


def load(path: Path) -> dict:
    """A file that `run` wrote. Raises CompareError for any other content."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CompareError(f"{path} is not JSON: {error}") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise CompareError(f"{path} is no file of `regnet compare --out`: name another one, or delete it")
    return results


def _one(model: PublishedModel, plan: Plan, results: dict, advance: Advance, out: Path | None) -> None:
    reason = measure.why_not(model)
    row = results["models"].get(model.name)
    if row is not None and (row["latency"] or reason or (row["computed"] and not plan.latency)):
        advance(model.name, _steps(model, plan))
        return
    row = {key: value for key, value in asdict(model).items() if value is not None} | {"computed": None, "latency": None}
    if reason is None:
        advance(f"{model.name}: complexity", 0)
        row["computed"] = measure.cost(model)
        advance("", 1)
        if plan.latency:
            advance(f"{model.name}: building", 0)
            tick = lambda peer: advance(f"{model.name}: timing", 1)  # noqa: E731
            try:
                row["latency"] = measure.latency(
                    model, plan.batch, resolution=plan.resolution, rounds=plan.rounds, block_seconds=plan.block_seconds, tick=tick
                )
            except RuntimeError as error:  # memory; the other models may fit
                reason = " ".join(str(error).split())[:200]
    if reason is not None:
        row["omitted"] = reason
    results["models"][model.name] = row
    if out:
        write_json(Path(out), results)


def _header(plan: Plan) -> dict:
    import torch

    from regnet.bench import machine

    settings = {name: getattr(plan, name) for name in ("batch", "threads", "resolution", "rounds", "block_seconds")}
    settings["threads"] = plan.threads or torch.get_num_threads()
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    header = {"schema": SCHEMA, "date": date, "machine": machine.describe(), "versions": machine.versions()}
    return header | {"method": measure.METHOD, "settings": settings, "models": {}}


def _continued(path: Path, fresh: dict, with_latency: bool) -> dict:
    """The results of an earlier run, if its times can stand beside new ones."""
    old = load(path)
    if not with_latency:
        return old
    if not any(row["latency"] for row in old["models"].values()):
        return fresh | {"models": old["models"]}
    for what, names in (("settings", fresh["settings"]), ("machine", ("cpu", "cpu_model", "cores")), ("versions", ("torch", "timm"))):
        for name in names:
            if (then := old[what].get(name)) != (now := fresh[what].get(name)):
                raise CompareError(f"{path} was measured with {name} {then}, not {now}: name another file, or delete it")
    return old


def _steps(model: PublishedModel, plan: Plan) -> int:
    if measure.why_not(model):
        return 0
    return 1 + (measure.peers(model) * plan.rounds if plan.latency else 0)

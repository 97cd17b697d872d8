"""The paper's comparison tables for this machine, as rows of plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from regnet.published.comparison import equal_cost_pairs, mobile_regime
from regnet.published.models import PublishedModel


class Row(NamedTuple):
    """A line of a table.

    cost: flops, params, acts, counted here, or as published, or absent. v100_ms: as the paper prints it, for 64 images. here_ms,
    eager_ms: median of a batch here, ours (eager for models that are none of ours) and eager. faster_v100, faster_here,
    faster_eager: time of the model that opens the group over this one's; None for that model itself.
    """

    model: PublishedModel
    cost: dict[str, int]
    v100_ms: float | None
    here_ms: float | None
    eager_ms: float | None
    faster_v100: float | None = None
    faster_here: float | None = None
    faster_eager: float | None = None


class ComparisonTable(NamedTuple):
    """name: in files; title: over the table; groups: models that are compared with each other, the one to beat first."""

    name: str
    title: str
    groups: list[list[Row]]


def comparison_tables(results: dict, models: Sequence[PublishedModel]) -> list[ComparisonTable]:
    """The tables that `models` fill: mobile regime, ResNe(X)t at equal flops and at equal activations, EfficientNet at equal flops.

    results: of `regnet.published.run.run`. The RegNets beside a model are those of `equal_cost_pairs`.
    """
    families = {name: [model for model in models if model.family == name] for name in ("RegNetX", "RegNetY", "EfficientNet")}
    resnets = [model for model in models if model.family in ("ResNet", "ResNeXt")]
    regnets = [families["RegNetX"], families["RegNetY"]]
    tables = [
        ComparisonTable("resnet_flops", "ResNe(X)t at equal flops", _beside(resnets, regnets, "flops", results)),
        ComparisonTable("resnet_acts", "ResNe(X)t at equal activations", _beside(resnets, regnets, "acts", results)),
        ComparisonTable(
            "efficientnet_flops", "EfficientNet at equal flops", _beside(families["EfficientNet"], regnets, "flops", results)
        ),
    ]
    mobile = all_rows(results, mobile_regime(models))
    if any(row.model.family == "mobile" for row in mobile):
        tables.insert(0, ComparisonTable("mobile", "Mobile regime, about 600 MF", [mobile]))
    return [table for table in tables if table.groups]


def all_rows(results: dict, models: Sequence[PublishedModel]) -> list[Row]:
    """A row for each model, compared with none."""
    return [_row(model, results) for model in models]


def error_over_latency(results: dict, models: Sequence[PublishedModel]) -> dict[str, list[tuple[str, float, float]]]:
    """{family: [(short name, ms, error)]} for `plot_error_latency`: latency here, or the paper's V100 times if none was measured."""
    rows = all_rows(results, models)
    pick: Callable[[Row], float | None] = (lambda row: row.here_ms) if any(row.here_ms for row in rows) else (lambda row: row.v100_ms)
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if (ms := pick(row)) is not None:
            family = row.model.name if row.model.family == "mobile" else row.model.family
            short = "" if row.model.family == "mobile" else row.model.name.split("-", 1)[1]
            found.setdefault(family, []).append((short, ms, row.model.error))
    return found


def complexity_and_runtime(results: dict, models: Sequence[PublishedModel], *, measured: bool = True) -> dict[str, dict[str, list]]:
    """{family: {"flops", "params", "acts", "runtime": lists}} for `plot_runtime` and trends; measured: only models timed here."""
    found: dict[str, dict[str, list]] = {}
    for row in all_rows(results, models):
        if row.cost and (row.here_ms is not None or not measured):
            family = found.setdefault(row.model.family, {"flops": [], "params": [], "acts": [], "runtime": []})
            for name, value in (row.cost | {"runtime": row.here_ms}).items():
                family[name].append(value)
    return found


def _beside(others: Sequence[PublishedModel], regnets: Sequence[Sequence[PublishedModel]], by: str, results: dict) -> list[list[Row]]:
    groups = []
    for other in others:
        beside = [pair.regnet for family in regnets for pair in equal_cost_pairs([other], family, by)]
        if beside:
            first = _row(other, results)
            groups.append([first, *(_against(first, _row(model, results)) for model in beside)])
    return groups


def _row(model: PublishedModel, results: dict) -> Row:
    found = results["models"].get(model.name, {})
    published = {name: getattr(model, name) for name in ("flops", "params", "acts") if getattr(model, name) is not None}
    latency = found.get("latency") or {}
    here = latency.get("ours") or latency.get("eager") or {}
    return Row(
        model,
        found.get("computed") or published,
        model.v100_ms_paper,
        here.get("median_ms"),
        latency.get("eager", {}).get("median_ms"),
    )


def _against(first: Row, row: Row) -> Row:
    def ratio(name: str) -> float | None:
        mine, theirs = getattr(row, name), getattr(first, name)
        return theirs / mine if mine and theirs else None

    return row._replace(faster_v100=ratio("v100_ms"), faster_here=ratio("here_ms"), faster_eager=ratio("eager_ms"))

"""Points of a trend over flops, from benchmark results, comparisons, files of records and named models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

UNITS = {"acts": (1e6, "activations, M"), "params": (1e6, "params, M"), "runtime": (1.0, "runtime, ms a batch")}
Points = dict[str, tuple[list[float], list[float]]]


def trend_points(what: str, sources: Sequence[str], peers: Sequence[str]) -> Points:
    """{group: (flops in GF, values)}; `what`: acts and params in millions, runtime in ms a batch.

    A source is a file of `regnet bench --json` (groups: peer and batch size) or of `regnet compare --out` (families), a .jsonl file of
    records (one group; flops, params and acts are counted where the record lacks them), or, but for runtime, a model name or
    pattern. Raises ValueError for a source that holds no such points.
    """
    found: Points = {}
    for source in sources:
        path = Path(source)
        if path.suffix == ".json":
            groups = _from_results(what, path, peers)
        elif path.suffix == ".jsonl":
            groups = {path.stem: _from_records(what, path)}
        elif what == "runtime":
            raise ValueError(
                f"a runtime trend needs measured times, and {source!r} is no .json or .jsonl file: "
                "measure with `regnet bench --json run.json` or `regnet compare --out run.json`"
            )
        else:
            groups = {source: _from_names(what, source)}
        groups = {name: points for name, points in groups.items() if points[0]}
        if not groups:
            raise ValueError(f"{source} holds no model with flops and {what}")
        for name, (x, y) in groups.items():
            old = found.setdefault(name, ([], []))
            old[0].extend(x)
            old[1].extend(y)
    return found


def _from_results(what: str, path: Path, peers: Sequence[str]) -> Points:
    if not path.is_file():
        raise FileNotFoundError(f"no results file at {path}")
    try:
        schema = json.loads(path.read_text(encoding="utf-8")).get("schema")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no file of results: {error}") from error
    if schema == "regnet-compare/1":
        return _from_comparison(what, path)
    from regnet.bench.results import load

    results = load(path)
    if what != "runtime":
        raise ValueError(f"{path} holds runtimes: fit --trend runtime")
    if unknown := [peer for peer in peers if peer not in {record["peer"] for record in results["latency"]}]:
        raise ValueError(
            f"{path} holds no times of {unknown[0]!r}; it has {', '.join(sorted({record['peer'] for record in results['latency']}))}"
        )
    found: Points = {}
    for record in results["latency"]:
        if record["peer"] in peers:
            x, y = found.setdefault(f"{record['peer']}, batch {record['batch']}", ([], []))
            x.append(record["multiply_adds"] / 1e9)
            y.append(record["median_ms"])
    return found


def _from_comparison(what: str, path: Path) -> Points:
    from regnet.published.models import published_models
    from regnet.published.run import load
    from regnet.published.tables import complexity_and_runtime

    groups = complexity_and_runtime(load(path), published_models(), measured=what == "runtime")
    scale = UNITS[what][0]
    return {
        name: ([flops / 1e9 for flops in group["flops"]], [value / scale for value in group[what]])
        for name, group in groups.items()
        if len(group["flops"]) > 2  # a family of two models has no trend
    }


def _from_records(what: str, path: Path) -> tuple[list[float], list[float]]:
    from regnet.cost import complexity
    from regnet.records import RecordError, config_from_json, read_records

    field, scale = ("runtime_ms" if what == "runtime" else what), UNITS[what][0]
    x, y = [], []
    for line, record in enumerate(read_records(path), 1):
        lacking = [name for name in ("flops", field) if record.get(name) is None and name != "runtime_ms"]
        if lacking and record.get("config") is not None:
            try:
                cost = complexity(config_from_json(record["config"]))
            except ValueError as error:
                raise RecordError(f"{path}, record {line}: {error}") from error
            record = {"flops": cost.flops, "params": cost.params, "acts": cost.acts} | {
                k: v for k, v in record.items() if v is not None
            }
        if record.get("flops") is not None and record.get(field) is not None:
            x.append(record["flops"] / 1e9)
            y.append(record[field] / scale)
    return x, y


def _from_names(what: str, source: str) -> tuple[list[float], list[float]]:
    from regnet.cli.networks import networks
    from regnet.cost import complexity

    costs = [complexity(network.config) for network in networks(source)]
    return [cost.flops / 1e9 for cost in costs], [getattr(cost, what) / UNITS[what][0] for cost in costs]

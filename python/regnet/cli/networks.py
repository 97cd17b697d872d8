"""Networks on the command line: model names and patterns, configurations as JSON, files of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from regnet.models.config import AnyNetConfig, RegNetConfig


class Network(NamedTuple):
    """A name to show, the configuration, and the record it came from ({} for a named model)."""

    name: str
    config: AnyNetConfig | RegNetConfig
    record: dict


def networks(what: str) -> list[Network]:
    """The networks of one argument: a model name or pattern ("regnetx*"), a .jsonl file of records, a .json file with one
    configuration, or the configuration itself ('{"type": "regnet", "depth": 13, ...}').

    Raises UnknownModelError, FileNotFoundError, RecordError with the file and line, ConfigError.
    """
    from regnet.models import find_model, list_models
    from regnet.records import config_from_json, read_configs, read_records

    if what.lstrip().startswith("{"):
        return [Network("config", config_from_json(_json(what, "the argument")), {})]
    path = Path(what)
    if path.suffix == ".jsonl":
        return [
            Network(record.get("name") or f"{path.stem}:{line}", config, record)
            for line, (record, config) in enumerate(zip(read_records(path), read_configs(path), strict=True), 1)
        ]
    if path.suffix == ".json":
        if not path.is_file():
            raise FileNotFoundError(f"no configuration at {path}")
        return [Network(path.stem, config_from_json(_json(path.read_text(encoding="utf-8"), str(path))), {})]
    names = list_models(what) if any(mark in what for mark in "*?[") else [what]
    if not names:
        raise ValueError(f"no model matches {what!r}; `regnet list` shows all")
    return [Network(model.name, model.config, {}) for model in (find_model(name)[0] for name in names)]


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error

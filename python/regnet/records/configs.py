"""Configurations as JSON objects and back; `type` says which of the two kinds."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from regnet.records.schema import RecordError

if TYPE_CHECKING:
    from regnet.models.config import AnyNetConfig, RegNetConfig


def config_to_json(config: AnyNetConfig | RegNetConfig) -> dict:
    """Every field of the configuration, defaults included (they may change), tuples as lists, and "type". Raises TypeError."""
    for name, kind in _kinds().items():
        if isinstance(config, kind):
            values = ((field.name, getattr(config, field.name)) for field in fields(kind))
            return {"type": name} | {key: list(value) if isinstance(value, tuple) else value for key, value in values}
    raise TypeError(f"config_to_json takes an AnyNetConfig or a RegNetConfig, not {type(config).__name__}")


def config_from_json(value: dict) -> AnyNetConfig | RegNetConfig:
    """What `config_to_json` wrote. Fields that are unknown here are ignored, absent ones take their defaults.

    Raises RecordError for a missing or unknown "type" and for missing fields, ConfigError for a configuration of no network.
    """
    kinds = _kinds()
    name = value.get("type") if isinstance(value, dict) else None
    if name not in kinds:
        raise RecordError(f'config of type {name!r}: expected an object with "type": {" or ".join(map(repr, kinds))}')
    known = {field.name for field in fields(kinds[name])}
    settings = {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items() if key in known}
    try:
        return kinds[name](**settings)
    except TypeError as error:
        raise RecordError(f"config of type {name!r}: {error}") from error


def _kinds() -> dict[str, type]:
    from regnet.models.config import AnyNetConfig, RegNetConfig  # here: it imports torch

    return {"anynet": AnyNetConfig, "regnet": RegNetConfig}

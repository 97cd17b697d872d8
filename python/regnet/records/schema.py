"""What a record is: an object with a schema version; every other field is optional, and unknown ones are kept.

| field | meaning |
|---|---|
| schema | 1 |
| config | the network, as `config_to_json` writes it |
| space | name of the design space that it was drawn from |
| flops, params, acts | complexity of one image (multiply-adds, parameters, activations) |
| error | top-1 error in per cent; null for a model that did not train |
| epochs, seed | of the training |
| runtime_ms | latency of a batch in ms |
"""

from __future__ import annotations

import json
import math

from regnet.errors import RegNetError

SCHEMA = 1
NUMBERS = ("flops", "params", "acts", "error", "epochs", "seed", "runtime_ms")


class RecordError(RegNetError, ValueError):
    """A record or a file of records that cannot be read or written."""


def encode(record: dict) -> str:
    """A record as one line of JSON without its end. Adds the schema version; configurations and numpy values are converted.

    Raises RecordError for anything that could not be read back: NaN and infinities, fields of a wrong type, another schema.
    """
    if not isinstance(record, dict):
        raise RecordError(f"a record is a dict, not {type(record).__name__}")
    try:
        line = json.dumps({"schema": SCHEMA} | record, allow_nan=False, default=_plain, separators=(", ", ": "))
    except ValueError as error:
        raise RecordError(f"record {_shortened(record)}: {error}; write None for a value that is not known") from error
    except TypeError as error:
        raise RecordError(f"record {_shortened(record)}: {error}") from error
    if reason := why_not(json.loads(line)):
        raise RecordError(f"record {_shortened(record)}: {reason}")
    return line


def decode(line: str | bytes) -> dict:
    """A line back to a record. Raises RecordError with the reason; unknown fields are kept."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from error
    if reason := why_not(record):
        raise RecordError(reason)
    return record


def why_not(record: object) -> str | None:
    """Why this is no record of a schema that can be read here, or None."""
    if not isinstance(record, dict):
        return f"a record is an object, not {type(record).__name__}"
    version = record.get("schema")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return f"schema {version!r}: expected {SCHEMA}" if "schema" in record else f'no schema version: expected "schema": {SCHEMA}'
    if version > SCHEMA:
        return f"schema {version} is newer than {SCHEMA}, the newest known here: update regnet-kernels"
    for name in NUMBERS:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)):
            return f"{name} is {value!r}: expected a number or null"
    if record.get("config") is not None and not isinstance(record["config"], dict):
        return f"config is a {type(record['config']).__name__}: expected an object"
    return None


def _plain(value: object) -> object:
    """For json: numpy scalars and arrays, and configurations."""
    if hasattr(value, "tolist"):
        return value.tolist()
    from regnet.records.configs import config_to_json

    try:
        return config_to_json(value)
    except TypeError:
        raise TypeError(f"a value of type {type(value).__name__} has no JSON form") from None


def _refuse_constant(name: str):
    raise RecordError(f"{name} is no JSON number: expected a number or null")


def _shortened(record: dict, most: int = 80) -> str:
    text = repr(record)
    return text if len(text) <= most else text[: most - 3] + "..."

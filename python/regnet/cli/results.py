"""Files of results on the command line: read, named, and made into samples of errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def share(text: str) -> float:
    """argparse type: a number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def labelled_files(files: Sequence[Path], by: str, names: Sequence[str] | None) -> tuple[dict[str, np.ndarray], int]:
    """{name: errors (n,)} of files of records, by "file" or by the records' "space", and the number of records without an error.

    Raises ValueError for names that do not match the files, for files without an error and for records without a space.
    """
    from regnet.records import columns, read_records

    if names is not None and (by != "file" or len(names) != len(files)):
        raise ValueError(
            f"{len(names)} names for {len(files)} files: give one for each file" if by == "file" else "--names is for --by file"
        )
    labels = list(names) if names is not None else _stems(files)
    if len(set(labels)) < len(labels):
        raise ValueError(f"two curves would have one name: {', '.join(labels)}; give different --names")
    groups: dict[str, list[dict]] = {}
    for label, path in zip(labels, files, strict=True):
        records = read_records(path)
        if not any(record.get("error") is not None for record in records):
            raise ValueError(f"{path} holds {len(records)} records and none has an error: give results of trainings")
        for record in records:
            if by == "space" and record.get("space") is None:
                raise ValueError(f"{path}: a record has no space; use --by file")
            groups.setdefault(str(record["space"]) if by == "space" else label, []).append(record)
    samples, left_out = {}, 0
    for name, records in groups.items():
        table, dropped = columns(records, ["error"]) if any(r.get("error") is not None for r in records) else ({}, len(records))
        left_out += dropped
        if table:
            samples[name] = table["error"]
    return samples, left_out


def _stems(files: Sequence[Path]) -> list[str]:
    """File names without suffix, or whole paths where two are the same."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]

"""A file is replaced whole or not at all: an interrupted program leaves the old one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_atomically(path: Path):
    """A binary file that takes the place of `path` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """text as UTF-8 at `path`, whose folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """value as indented JSON, as `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")

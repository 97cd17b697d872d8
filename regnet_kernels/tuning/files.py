"""Files of measured entries: read without a lock, written under one, always whole.

    {"format": 1, "identity": {...}, "entries": {"<key>": {...}, ...}}

Writers take the lock beside the file, read what others wrote meanwhile, add theirs and replace the file; of two values for a key
the later stays. What a key and an entry are is for the two stores to say: store.py for GPUs, cpu/store.py for the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class TuningError(RuntimeError):
    """Something cannot be tuned here, or what was measured cannot be kept."""


class Form(NamedTuple):
    """number: the format's; parse: (name, value) -> (key, entry), raising ValueError; show: (key, entry) -> (name, value)."""

    number: int
    parse: Callable[[str, Any], tuple[Any, Any]]
    show: Callable[[Any, Any], tuple[str, Any]]


def cache_dir() -> Path:
    """REGNET_KERNELS_CACHE_DIR, else regnet_kernels in the user's cache folder of this platform; it need not exist.

    Raises TuningError where the user has no home.
    """
    if named := os.environ.get("REGNET_KERNELS_CACHE_DIR"):
        return Path(named).expanduser()
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library/Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise TuningError("there is no home folder to keep tuned configurations in; set REGNET_KERNELS_CACHE_DIR") from error
    return base / "regnet_kernels"


def read(path: Path, form: Form) -> dict:
    """The entries of a file, {} if there is none. A file that cannot be understood is set aside, one that cannot be read is left;
    either way with one warning, and the heuristics go on."""
    try:
        return _parse(path.read_bytes(), form)
    except FileNotFoundError:
        return {}
    except OSError as error:
        warnings.warn(f"tuned configurations cannot be read, so heuristics choose: {error}", RuntimeWarning, stacklevel=3)
        return {}
    except ValueError:
        with contextlib.suppress(OSError, TuningError), _locked(path):
            return _read_or_set_aside(path, form)
        warnings.warn(f"{path} holds no tuned configurations that can be understood, and its folder cannot be written; heuristics "
                      "choose. Delete the file", RuntimeWarning, stacklevel=3)
        return {}


def merge(path: Path, identity: dict, new: dict, form: Form) -> dict:
    """Add `new` to the file, made if absent, and return all its entries. Raises TuningError where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            entries = {**_read_or_set_aside(path, form), **new}
            _replace(path, identity, entries, form)
            return entries
    except OSError as error:
        raise TuningError(f"tuned configurations cannot be kept in {path.parent}: {error}; set REGNET_KERNELS_CACHE_DIR to a folder that "
                          "can be written") from error


def _read_or_set_aside(path: Path, form: Form) -> dict:
    """Under the lock: another process may have mended the file since it was found broken."""
    try:
        return _parse(path.read_bytes(), form)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        aside = path.with_name(f"{path.name}.broken-{secrets.token_hex(4)}")
        path.replace(aside)
        warnings.warn(f"{path.name} could not be understood ({error}) and was set aside as {aside}; heuristics choose until it is tuned "
                      "again", RuntimeWarning, stacklevel=4)
        return {}


def _parse(text: bytes, form: Form) -> dict:
    """Raises ValueError for anything that `_replace` would not have written."""
    content = json.loads(text)  # its errors, and those of decoding, are ValueErrors
    if not isinstance(content, dict) or content.get("format") != form.number or not isinstance(content.get("entries"), dict):
        raise ValueError(f"no table of format {form.number}")
    return dict(form.parse(name, value) for name, value in content["entries"].items())


def _replace(path: Path, identity: dict, entries: dict, form: Form) -> None:
    content = {"format": form.number, "identity": identity, "entries": dict(form.show(key, entries[key]) for key in sorted(entries))}
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with partial.open("x") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the writers of `path`; the lock ends with the process that holds it."""
    try:
        import fcntl
    except ImportError as error:
        raise TuningError("tuned configurations are kept under POSIX file locks, which this system lacks") from error
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

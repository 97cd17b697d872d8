"""The file of tuned configurations of one identity: read without a lock, written under one, always whole.

    {"format": 1, "identity": {...}, "entries": {"grouped float16 256,56,56,48,8,1,1": {"config": [...], "ms": .., "heuristic_ms": ..,
                                                                "others": {"cuda": .., "cudnn": ..}}}}

The key is kernel, dtype and the numbers of the shape. Writers take the lock beside the file, read what others wrote meanwhile,
add theirs and replace the file; of two values for a key the later stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..backends.triton.shapes import SHAPES, Shape
from .identities import Identity

FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
OTHER_BACKENDS = ("cuda", "cudnn")
STAGES = {"gate": (7, 5), "expand_grouped": (9, 7)}  # numbers of a configuration, and the place of `stages`; of the other kernels:
OTHERS = 5, 4


class TuningError(RuntimeError):
    """A launch cannot be tuned here, or what was measured cannot be kept."""


class LaunchError(TuningError):
    """One launch cannot be tuned; others may."""


class Entry(NamedTuple):
    """config: the numbers of Triton's best configuration, as the kernel's Config holds them; others: the times of the other backends
    that can run the layer; times in milliseconds."""

    config: tuple[int, ...]
    ms: float
    heuristic_ms: float
    others: dict[str, float] = {}


Entries = dict[tuple[str, str, tuple[int, ...]], Entry]  # (kernel, dtype, shape) -> Entry


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


def cache_file(known: Identity) -> Path:
    return cache_dir() / known.file_name


def key(shape: Shape, dtype: str) -> tuple[str, str, tuple[int, ...]]:
    return shape.kernel, dtype, tuple(shape)


def read(path: Path) -> Entries:
    """The entries of a file, {} if there is none. A file that cannot be understood is set aside, one that cannot be read is left;
    either way with one warning, and the heuristics go on."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        warnings.warn(f"tuned configurations cannot be read, so heuristics choose: {error}", RuntimeWarning, stacklevel=2)
        return {}
    except ValueError:
        with contextlib.suppress(OSError, TuningError), _locked(path):
            return _read_or_set_aside(path)
        warnings.warn(f"{path} holds no tuned configurations that can be understood, and its folder cannot be written; heuristics "
                      "choose. Delete the file", RuntimeWarning, stacklevel=2)
        return {}


def merge(path: Path, known: Identity, new: Entries) -> Entries:
    """Add `new` to the file, made if absent, and return all its entries. Raises TuningError where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            entries = {**_read_or_set_aside(path), **new}
            _replace(path, known, entries)
            return entries
    except OSError as error:
        raise TuningError(f"tuned configurations cannot be kept in {path.parent}: {error}; set REGNET_KERNELS_CACHE_DIR to a folder that "
                          "can be written") from error


def _read_or_set_aside(path: Path) -> Entries:
    """Under the lock: another process may have mended the file since it was found broken."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        aside = path.with_name(f"{path.name}.broken-{secrets.token_hex(4)}")
        path.replace(aside)
        warnings.warn(f"{path.name} could not be understood ({error}) and was set aside as {aside}; heuristics choose until it is tuned "
                      "again", RuntimeWarning, stacklevel=3)
        return {}


def _parse(text: bytes) -> Entries:
    """Raises ValueError for anything that `_replace` would not have written."""
    content = json.loads(text)  # its errors, and those of decoding, are ValueErrors
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("entries"), dict):
        raise ValueError(f"no table of format {FORMAT}")
    return dict(_entry(name, value) for name, value in content["entries"].items())


def _entry(name: str, value) -> tuple[tuple[str, str, tuple[int, ...]], Entry]:
    try:
        kernel, dtype, numbers = name.split(" ")
        shape = tuple(map(int, numbers.split(",")))
        others = {name: float(ms) for name, ms in value.get("others", {}).items()}
        entry = Entry(tuple(value["config"]), float(value["ms"]), float(value["heuristic_ms"]), others)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"entry {name!r}: {error!r}") from None
    length, stages = STAGES.get(kernel, OTHERS)
    sound = len(entry.config) == length and all(type(number) is int and 0 < number <= 1024 and (at == stages or number & (number - 1) == 0)
                                                for at, number in enumerate(entry.config))
    sound = sound and all(name in OTHER_BACKENDS and ms > 0 for name, ms in others.items())
    if kernel not in SHAPES or dtype not in DTYPES or len(shape) != len(SHAPES[kernel]._fields) or not sound:
        raise ValueError(f"entry {name!r} is no configuration of a kernel")
    return (kernel, dtype, shape), entry


def _replace(path: Path, known: Identity, entries: Entries) -> None:
    content = {"format": FORMAT, "identity": known._asdict(),
               "entries": {f"{kernel} {dtype} {','.join(map(str, shape))}": entry._asdict()
                           for (kernel, dtype, shape), entry in sorted(entries.items())}}
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

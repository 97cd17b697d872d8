"""Files of records: read with the line of what is wrong, written whole and atomically, appended to by several processes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from regnet.atomic import replaced_atomically
from regnet.errors import ConfigError
from regnet.records.configs import config_from_json
from regnet.records.schema import RecordError, decode, encode

if TYPE_CHECKING:
    from regnet.models.config import AnyNetConfig, RegNetConfig

TAIL_BLOCK = 1 << 16


def read_records(path: str | Path) -> list[dict]:
    """All records of a file, in order; see `iter_records`."""
    return list(iter_records(path))


def iter_records(path: str | Path) -> Iterator[dict]:
    """The records of a file, one at a time; blank lines are skipped, unknown fields kept.

    Raises FileNotFoundError, and RecordError with file, line number and reason for a bad line. A last line that has no end and
    cannot be read was left by a killed writer: it is skipped with a warning (the next `append_records` removes it).
    """
    for _, record in _numbered(Path(path)):
        if record is not None:
            yield record


def read_configs(path: str | Path) -> list[AnyNetConfig | RegNetConfig]:
    """The configuration of every record. Raises as `iter_records`, and RecordError for a record without one or with a bad one."""
    found = []
    for number, record in _numbered(Path(path)):
        if record is None:
            continue
        if record.get("config") is None:
            raise RecordError(f"{path}, line {number}: the record has no config")
        try:
            found.append(config_from_json(record["config"]))
        except (RecordError, ConfigError) as error:
            raise RecordError(f"{path}, line {number}: {error}") from error
    return found


def write_records(path: str | Path, records: Iterable[dict]) -> int:
    """Write a file of `records` (see `schema`) and return their number; an existing file is replaced when all is written.

    Readers see the old file or the new one, never a part; an interruption leaves the old one. Raises RecordError for a record
    that could not be read back, OSError where the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replaced_atomically(path) as file:
        for record in records:
            file.write(encode(record).encode() + b"\n")
            count += 1
    return count


def append_records(path: str | Path, records: Iterable[dict]) -> int:
    """Append `records` to a file, made if absent, and return their number. Safe from any number of processes at once.

    All records are checked first, then written by one call under a lock on the file, so that lines of several writers never mix
    and an error leaves the file as it was. Of a killed writer whole lines may remain; its torn last line is removed by the next
    one. The records are on disk when the function returns.
    Raises RecordError and OSError as `write_records`.
    """
    lines = [encode(record).encode() + b"\n" for record in records]
    if not lines:
        return 0
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as descriptor:
        end = _mend_tail(descriptor, path)
        try:
            _write_all(descriptor, b"".join(lines))
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, end)
            raise
    return len(lines)


def _numbered(path: Path) -> Iterator[tuple[int, dict | None]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file of records at {path}")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, decode(line)
            except RecordError as error:
                if not line.endswith(b"\n") and str(error).startswith("not JSON"):
                    warnings.warn(f"{path}, line {number}: skipped, it was cut off while being written", RuntimeWarning, stacklevel=4)
                    return
                raise RecordError(f"{path}, line {number}: {error}") from error


@contextmanager
def _locked(path: Path):
    """A descriptor of `path` for appending, with an exclusive lock on the file that is there now."""
    try:
        import fcntl
    except ImportError as error:
        raise NotImplementedError("append_records needs file locks of POSIX; use write_records on this system") from error
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_file_at(descriptor, path):  # else write_records replaced it while we waited: lock the new one
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _mend_tail(descriptor: int, path: Path) -> int:
    """End the last line if it is whole, remove it if it is torn; gives the size of the file then."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(TAIL_BLOCK, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    try:
        json.loads(tail)
    except ValueError:
        if not tail.startswith(b"{"):
            raise RecordError(f"{path} is no file of records: its last line starts with {tail[:20]!r}; nothing was appended") from None
        os.ftruncate(descriptor, size - len(tail))
        return size - len(tail)
    _write_all(descriptor, b"\n")
    return size + 1


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

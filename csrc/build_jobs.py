"""Runs compiler calls in parallel, and only those whose inputs or command line changed.

Needs nothing but the standard library: csrc/cpu/build.py and csrc/cuda/build.py describe their objects as `Job`s.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


class BuildError(RuntimeError):
    """A compiler or linker call failed; the message holds its command line and what it printed."""


@dataclass(frozen=True)
class Job:
    """One compiler or linker call: `command` must write `output`; `inputs` are the files it reads. A compiler that is
    told to write Makefile dependencies beside the output (`-MMD -MF output.d`) need not list its headers."""

    output: Path
    command: tuple[str, ...]
    inputs: tuple[Path, ...]

    @property
    def depfile(self) -> Path:
        return self.output.with_name(self.output.name + ".d")

    @property
    def _stamp(self) -> Path:
        return self.output.with_name(self.output.name + ".cmd")

    def is_current(self) -> bool:
        """True when the output is newer than everything it was made from and was made by this very command."""
        if not self.output.exists() or not self._stamp.exists() or self._stamp.read_text() != self._key():
            return False
        made = self.output.stat().st_mtime_ns
        needed = list(self.inputs)
        if self.depfile.exists():
            needed += _read_depfile(self.depfile)
        return all(path.exists() and path.stat().st_mtime_ns <= made for path in needed)

    def run(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        # Never leave a half-written or outdated output behind: it would be newer than its sources.
        self.output.unlink(missing_ok=True)
        done = subprocess.run(self.command, capture_output=True, text=True)
        if done.returncode != 0:
            self.output.unlink(missing_ok=True)
            raise BuildError(f"{self.output.name}: the compiler failed (exit status {done.returncode})\n"
                             f"  {shlex.join(self.command)}\n{done.stderr}{done.stdout}")
        if done.stderr.strip():
            print(done.stderr, file=sys.stderr)
        self._stamp.write_text(self._key())

    def _key(self) -> str:
        return "\0".join(self.command)


def run_jobs(jobs: list[Job], label: str = "", workers: int | None = None) -> int:
    """Run what is out of date, `workers` at a time (default: MAX_JOBS or the number of CPUs). Returns how many ran."""
    stale = [job for job in jobs if not job.is_current()]
    workers = workers or int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count() or 1
    if stale:
        print(f"{label}: compiling {len(stale)} of {len(jobs)} files, {workers} at a time", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(Job.run, stale):
            pass
    return len(stale)


def install(source: Path, target: Path) -> None:
    """Copy by a rename, so that a process that has the old library mapped keeps its own copy of it."""
    if target.exists():
        old, new = target.stat(), source.stat()
        if (old.st_mtime_ns, old.st_size) == (new.st_mtime_ns, new.st_size):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(source, fresh)
    os.replace(fresh, target)


def _read_depfile(path: Path) -> list[Path]:
    """The prerequisites of a Makefile rule `target: a b \\ c`, with `\\ ` for a blank inside a name."""
    text = path.read_text().replace("\\\n", " ")
    _, _, prerequisites = text.partition(": ")
    names = prerequisites.replace("\\ ", "\0").split()
    return [Path(name.replace("\0", " ")) for name in names]

"""What a measurement on the CPU is valid for. If any of it changes, the measurements before are not looked at."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..._extension import CPU, CPU_INFO

CPUINFO = Path("/proc/cpuinfo")
FACTS = ("model name", "cpu family", "model", "stepping", "cache size", "CPU implementer", "CPU part", "CPU variant")  # of x86, of ARM


class CpuIdentity(NamedTuple):
    """cpu: the model, as the system describes it; isa: the instruction set in use; kernels: a hash of the library. The number of threads
    is part of each layer."""

    cpu: str
    cores: int
    isa: str
    version: str
    kernels: str

    @property
    def file_name(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.cpu.partition(',')[0]} {self.isa}".lower()).strip("-")
        return f"cpu-{slug}-{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:16]}.json"


@cache
def identity() -> CpuIdentity:
    from ... import __version__

    return CpuIdentity(describe_cpu(), os.cpu_count() or 1, CPU_INFO.chosen or "none", __version__, hash_of(Path(CPU.path)) if CPU.loaded else "none")


def hash_of(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:16]


def describe_cpu() -> str:
    """Model name, family and the like of the first core; the name of the architecture where the system does not tell."""
    from ...env import _cpu_model

    try:
        text = CPUINFO.read_text().partition("\n\n")[0]
    except OSError:
        return _cpu_model()
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in text.splitlines() if ":" in line)
    named = [facts[name] if name == "model name" else f"{name} {facts[name]}" for name in FACTS if facts.get(name)]
    return ", ".join(named) or _cpu_model()

"""Loads the compiled libraries once, at import, and remembers how that went: loaded, absent or broken.

A library that exists but does not load is broken, never absent: its error is kept, shown by `env_report()`, raised by a
forced backend and warned about once. REGNET_KERNELS_EXTENSION_DIR names another folder to load the libraries from.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Extension:
    """A compiled library. state: "loaded", "absent" or "broken"; reason: why it is not loaded, "" if it is."""

    path: str
    state: str
    reason: str = ""

    @property
    def loaded(self) -> bool:
        return self.state == "loaded"


@dataclass(frozen=True)
class CpuInfo:
    """What _cpu.so says of its instruction sets; error: why it would refuse to run, e.g. a forced set that the CPU lacks."""

    compiled: tuple[str, ...] = ()
    supported: tuple[str, ...] = ()
    chosen: str | None = None
    pairs: bool = False  # do 1x1's go by pairs?
    forced: str | None = None
    error: str | None = None


def load(name: str) -> Extension:
    """Load <package>/<name> (or from REGNET_KERNELS_EXTENSION_DIR), never raising: the outcome is in the result."""
    folder = os.environ.get("REGNET_KERNELS_EXTENSION_DIR") or Path(__file__).resolve().parent
    path = Path(folder) / name
    if not path.exists():
        return Extension(str(path), "absent", f"{path} was not built")
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        # torch names the file; what the loader had to say is in the cause.
        return _broken(path, f"{path} exists but does not load: {error.__cause__ or error}")
    return Extension(str(path), "loaded")


def _broken(path: Path, reason: str) -> Extension:
    warnings.warn(f"regnet_kernels: {reason}", RuntimeWarning, stacklevel=2)
    return Extension(str(path), "broken", reason)


def _read_cpu_info(extension: Extension) -> tuple[Extension, CpuInfo]:
    if not extension.loaded:
        return extension, CpuInfo()
    try:
        info = json.loads(torch.ops.regnet_kernels._cpu_info())
        sets = {key: tuple(info[key]) for key in ("compiled", "supported")}
        return extension, CpuInfo(**sets, **{key: info.get(key) for key in ("chosen", "pairs", "forced", "error")})
    except (AttributeError, RuntimeError, KeyError, ValueError) as error:
        reason = f"{extension.path} loads, but does not tell its instruction sets: {type(error).__name__}: {error}"
        return _broken(Path(extension.path), reason), CpuInfo()


CPU, CPU_INFO = _read_cpu_info(load("_cpu.so"))
CUDA = load("_cuda.so")

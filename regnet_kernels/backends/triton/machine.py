"""The card that a kernel is configured for: its class, the number of its multiprocessors, its shared memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

OLDEST_CAPABILITY = (8, 0)  # asynchronous copies, tensor cores on bfloat16

# Bytes of shared memory that one block may have (CUDA programming guide, compute capabilities; LDS for AMD).
SHARED_MEMORY = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_103": 232_448,
                 "sm_120": 101_376, "sm_121": 101_376, "gfx942": 65_536}


class Machine(NamedTuple):
    """arch: "sm_90", "gfx942", ...; multiprocessors: how many programs run side by side, at least."""

    arch: str
    multiprocessors: int

    @property
    def shared_memory(self) -> int:
        return SHARED_MEMORY.get(self.arch, 101_376)


INTERPRETER = Machine("sm_80", 8)
_pretended: list[Machine] = []


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors (TRITON_INTERPRET=1, set before the first call)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def machine(device: torch.device) -> Machine:
    if _pretended:
        return _pretended[-1]
    return INTERPRETER if device.type == "cpu" else _card(device.index if device.index is not None else torch.cuda.current_device())


@contextlib.contextmanager
def pretend(card: Machine) -> Iterator[None]:
    """Inside, kernels are configured for `card`, whatever is here: for compiling without one."""
    _pretended.append(card)
    try:
        yield
    finally:
        _pretended.pop()


def on_device(x: torch.Tensor):
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def pretending() -> bool:
    return bool(_pretended)


@cache
def _card(index: int) -> Machine:
    facts = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return Machine(facts.gcnArchName.partition(":")[0], facts.multi_processor_count)
    return Machine(f"sm_{facts.major}{facts.minor}", facts.multi_processor_count)

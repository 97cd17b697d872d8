"""What Triton's compiler makes of the package's own launches, for any card, on a machine without one.

    with dry_run(Machine("sm_90", 132)) as launches:
        network(x, packed)                 # on meta tensors: real grids and specialisations, nothing runs
    for launch in launches:
        print(launch.name, launch.grid, inspect_kernel(launch).faults())

Not in a process that interprets (TRITON_INTERPRET). Triton's package brings the tools that read the machine code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..backends.triton.machine import Machine, interpreting, pretend

# What each bar was set with. Other versions of Triton may spill where these do not: run the report before adding one.
CHECKED_TRITON = ("3.8",)
WITH_DOT = ("pointwise_kernel", "grouped_kernel", "direct_kernel", "gate_kernel", "hidden_kernel", "excite_kernel")
PIPELINED = ("pointwise_kernel", "grouped_kernel")
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")
OPCODE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)", re.MULTILINE)


class Launch(NamedTuple):
    """One launch that was not made. dtype: the narrowest of its tensors'; kernel: what Triton compiled; constants: the arguments it was compiled for."""

    name: str
    grid: tuple[int, ...]
    dtype: str
    constants: dict[str, Any]
    card: Machine
    kernel: Any


@dataclass(frozen=True)
class Inspected:
    """Resources and instructions of a compiled kernel; `instructions` counts the opcodes that tell something."""

    name: str
    arch: str
    dtype: str
    constants: dict
    warps: int
    stages: int
    shared: int
    shared_limit: int
    registers: int
    stack: int
    instructions: dict

    def count(self, prefix: str, *parts: str) -> int:
        return sum(n for op, n in self.instructions.items() if op.split(".")[0] == prefix and all(part in op.split(".") for part in parts))

    @property
    def spills(self) -> int:
        return self.count("LDL") + self.count("STL")

    @property
    def tensor_core(self) -> int:
        return sum(self.count(name) for name in TENSOR_CORES)

    @property
    def async_copies(self) -> int:
        return self.count("LDGSTS") + self.count("UTMALDG") + self.count("UBLKCP")

    @property
    def wide_loads(self) -> int:
        """Instructions that fetch 16 bytes a thread from global memory."""
        return self.count("LDGSTS", "128") + self.count("LDG", "128")

    def faults(self) -> list[str]:
        """What falls below the bars, in words; [] for good code. AMD's code is only compiled."""
        found = []
        if self.shared > self.shared_limit:
            found.append(f"{self.shared} bytes of shared memory, the card has {self.shared_limit}")
        if self.arch.startswith("gfx"):
            return found
        if self.stack or self.spills:
            found.append(f"spills: {self.stack} bytes of stack, {self.spills} instructions")
        if self.dtype in ("fp16", "bf16"):
            if self.name in WITH_DOT and not self.tensor_core:
                found.append("no tensor-core instruction")
            if self.name in PIPELINED and not self.async_copies and self.stages > 1:
                found.append("no asynchronous copy")
            if self.name in (*PIPELINED, "pool_kernel", "scale_kernel") and not self.wide_loads:
                found.append("no load of 16 bytes")
        return found

    def to_dict(self) -> dict:
        return asdict(self)


class _Driver:
    """As much of a driver as compiling needs; each card is a device of its own, because Triton keeps compiled kernels by device."""

    def __init__(self, card: Machine):
        from triton.backends.compiler import GPUTarget

        is_amd = card.arch.startswith("gfx")
        self.target = GPUTarget("hip", card.arch, 64) if is_amd else GPUTarget("cuda", int(card.arch.removeprefix("sm_")), 32)
        self.device = card.arch

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device=None):
        return 0

    def set_current_device(self, device):
        pass

    def get_active_torch_device(self):
        import torch

        return torch.device("cpu")


@contextlib.contextmanager
def dry_run(card: Machine) -> Iterator[list[Launch]]:
    """Inside, Triton compiles for `card` and launches nothing; tensors may be meta tensors. Yields the launches."""
    if interpreting():
        raise RuntimeError("a dry run compiles, and this process interprets; unset TRITON_INTERPRET")
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    plain, launches = JITFunction.run, []

    def run(self, *args, grid, warmup, **kwargs):
        kernel = plain(self, *args, grid=grid, warmup=True, **kwargs)
        constants = {name: value for name, value in kwargs.items() if name.isupper()}
        launches.append(Launch(self.fn.__name__, tuple(grid), _dtype((*args, *kwargs.values())), constants, card, kernel))
        return kernel

    try:
        before = driver.active
        before.get_current_target()
    except Exception:  # no card here
        before = None
    driver.set_active(_Driver(card))
    JITFunction.run = run
    try:
        with pretend(card):
            yield launches
    finally:
        JITFunction.run = plain
        if before is None:
            driver._active = None  # as it was: reset_active() would look for a card and raise
        else:
            driver.set_active(before)


def inspect_kernel(launch: Launch, store: Path | None = None) -> Inspected:
    """Read the machine code of a launch's kernel. store: a folder in which results are kept between runs, by the kernel's hash."""
    kernel = launch.kernel
    meta = kernel.metadata
    kept = store / f"{meta.hash}.json" if store is not None else None
    if kept is not None and kept.exists():
        return Inspected(**json.loads(kept.read_text()))
    registers, stack, instructions = (0, 0, {}) if launch.card.arch.startswith("gfx") else _disassemble(kernel.asm["cubin"])
    found = Inspected(launch.name, launch.card.arch, launch.dtype, launch.constants, meta.num_warps, meta.num_stages, meta.shared,
                      launch.card.shared_memory, registers, stack, instructions)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found.to_dict()))
        partial.replace(kept)
    return found


def _dtype(arguments: tuple) -> str:
    import torch

    tensors = {argument.dtype for argument in arguments if isinstance(argument, torch.Tensor)}
    return next((name for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")) if dtype in tensors), "fp32")


def _disassemble(cubin: bytes) -> tuple[int, int, dict[str, int]]:
    tools = _tools()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        code = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    telling = (*TENSOR_CORES, "LDGSTS", "UTMALDG", "UBLKCP", "LDSM", "LDL", "STL", "LDG", "STG", "FFMA")
    counts: dict[str, int] = {}
    for opcode in OPCODE.findall(code):
        if opcode.split(".")[0] in telling:
            counts[opcode] = counts.get(opcode, 0) + 1
    return int(found["REG"]), int(found["STACK"]), counts


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin"

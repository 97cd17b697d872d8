"""What Triton's compiler makes of the package's own launches, for any card, on a machine without one.

    with dry_run(Machine("sm_90", 132)) as launches:
        network(x, packed)                 # on meta tensors: real grids and specialisations, nothing runs
    for launch in distinct(launches):      # a form is compiled once, however often it is launched
        print(launch.name, launch.grid, inspect_kernel(launch).faults())

Not in a process that interprets (TRITON_INTERPRET). Triton's package brings the tools that read the machine code.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
import struct
import subprocess
import tempfile
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from ..backends.triton.machine import Machine, interpreting, pretend


class Bars(NamedTuple):
    """Which kernels must use tensor cores, copy asynchronously (unless they have one stage), load 16 bytes at once. No kernel
    may exceed the card's shared memory, or spill, but for `spilling`: (kernel, arch)."""

    tensor_cores: tuple[str, ...]
    asynchronous: tuple[str, ...]
    wide_loads: tuple[str, ...]
    spilling: tuple[tuple[str, str], ...] = ()


# gate_kernel and hidden_kernel sum tiles in a loop inside the loop that would be pipelined; direct_kernel has one step, and gathers
# an image of 3 channels.
_BARS = Bars(
    tensor_cores=("pointwise_kernel", "grouped_kernel", "expand_grouped_kernel", "direct_kernel", "gate_kernel", "hidden_kernel",
                  "excite_kernel"),
    asynchronous=("pointwise_kernel", "grouped_kernel", "expand_grouped_kernel", "excite_kernel"),
    wide_loads=("pointwise_kernel", "grouped_kernel", "expand_grouped_kernel", "gate_kernel", "hidden_kernel", "excite_kernel",
                "pool_kernel", "scale_kernel"))
# By version of Triton. Another version may spill where these do not: run the report under it before it is added.
BARS = {"3.6": _BARS._replace(spilling=(("gate_kernel", "sm_100"),)), "3.7": _BARS, "3.8": _BARS, "3.9": _BARS}

TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")
TELLING = (*TENSOR_CORES, "LDGSTS", "UTMALDG", "UBLKCP", "LDSM", "LDL", "STL", "LDG", "STG", "FFMA")
OPCODE = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)", re.MULTILINE)
AMD_OPCODE = re.compile(r"^\s+(v_mfma_\w+|(?:global|buffer)_load_\w+|scratch_(?:load|store)_\w+)", re.MULTILINE)


class Launch(NamedTuple):
    """One launch that was not made.

    dtype: the narrowest of its tensors'; constants: the arguments it is compiled for; digest: the same for launches that run the
    same compiled form, and between processes; compile(): what Triton makes of it.
    """

    name: str
    grid: tuple[int, ...]
    dtype: str
    constants: dict[str, Any]
    card: Machine
    digest: str
    compile: Callable[[], Any]


@dataclass(frozen=True)
class Inspected:
    """Resources and instructions of a compiled kernel; `instructions` counts the opcodes that tell something; error: why Triton
    did not compile it."""

    name: str
    arch: str
    dtype: str
    constants: dict
    warps: int = 0
    stages: int = 0
    shared: int = 0
    shared_limit: int = 0
    registers: int = 0
    stack: int = 0
    instructions: dict | None = None
    error: str = ""

    def count(self, prefix: str, *parts: str) -> int:
        split = ((op.split("."), n) for op, n in (self.instructions or {}).items())
        return sum(n for op, n in split if op[0] == prefix and all(part in op for part in parts))

    def _amd(self, pattern: str) -> int:
        return sum(n for op, n in (self.instructions or {}).items() if re.fullmatch(pattern, op))

    @property
    def spills(self) -> int:
        return self.count("LDL") + self.count("STL") + self._amd("scratch_.*")

    @property
    def tensor_core(self) -> int:
        return sum(self.count(name) for name in TENSOR_CORES) + self._amd("v_mfma_.*")

    @property
    def async_copies(self) -> int:
        return self.count("LDGSTS") + self.count("UTMALDG") + self.count("UBLKCP")

    @property
    def wide_loads(self) -> int:
        """Instructions that fetch 16 bytes a thread from global memory."""
        return self.count("LDGSTS", "128") + self.count("LDG", "128") + self._amd("(global|buffer)_load_dwordx4")

    def faults(self, bars: Bars = _BARS) -> list[str]:
        """What falls below the bars, in words; [] for good code. AMD's code has no asynchronous copies to ask for."""
        if self.error:
            return [f"does not compile: {self.error}"]
        found = []
        if self.shared > self.shared_limit:
            found.append(f"{self.shared} bytes of shared memory, the card has {self.shared_limit}")
        if (self.stack or self.spills) and (self.name, self.arch) not in bars.spilling:
            found.append(f"spills: {self.stack} bytes of stack, {self.spills} instructions")
        multiplies = self.dtype != "fp32" or self.constants.get("PRECISION") == "tf32"
        if multiplies and self.name in bars.tensor_cores and not self.tensor_core:
            found.append("no tensor-core instruction")
        if self.name in bars.asynchronous and not self.async_copies and self.stages > 1 and not self.arch.startswith("gfx"):
            found.append("no asynchronous copy")
        if self.name in bars.wide_loads and not self.wide_loads:
            found.append("no load of 16 bytes")
        return found


def bars_here() -> Bars | None:
    """The bars of the installed Triton; None for a version that nobody has looked at."""
    import triton

    return BARS.get(".".join(triton.__version__.split(".")[:2]))


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
def _driving(card: Machine) -> Iterator[None]:
    """Inside, Triton believes in `card`."""
    from triton.runtime import driver

    try:
        before = driver.active
        before.get_current_target()
    except Exception:  # no card here
        before = None
    driver.set_active(_Driver(card))
    try:
        yield
    finally:
        if before is None:
            driver._active = None  # as it was: reset_active() would look for a card and raise
        else:
            driver.set_active(before)


@contextlib.contextmanager
def dry_run(card: Machine) -> Iterator[list[Launch]]:
    """Inside, nothing is compiled or launched, and tensors may be meta tensors. Yields the launches."""
    if interpreting():
        raise RuntimeError("a dry run compiles, and this process interprets; unset TRITON_INTERPRET")
    from triton.runtime.jit import JITFunction

    plain, launches = JITFunction.run, []

    def run(self, *args, grid, warmup, **kwargs):
        def compile():
            with _driving(card):
                return plain(self, *args, grid=grid, warmup=True, **kwargs)

        constants = {name: value for name, value in kwargs.items() if name.isupper()}
        launches.append(Launch(self.fn.__name__, tuple(grid), _dtype((*args, *kwargs.values())), constants, card,
                               _digest(self, args, kwargs, card.arch), compile))

    JITFunction.run = run
    try:
        with _driving(card), pretend(card):
            yield launches
    finally:
        JITFunction.run = plain


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of each form, in order."""
    return list({launch.digest: launch for launch in reversed(list(launches))}.values())[::-1]


def inspect_kernel(launch: Launch) -> Inspected:
    """Compile a launch's kernel and read the machine code."""
    return inspect_kernels([launch])[0]


def inspect_kernels(launches: Sequence[Launch], store: Path | None = None) -> list[Inspected]:
    """The same of many launches on one card, quicker, because the tools are called once. store: a folder in which results are
    kept between runs, by digest."""
    found = [_read(store, launch) for launch in launches]
    compiled = {}
    for index, launch in enumerate(launches):
        if found[index] is None:
            try:
                compiled[index] = launch.compile()
            except Exception as error:
                text = str(error).strip() or "no reason given"
                found[index] = Inspected(launch.name, launch.card.arch, launch.dtype, launch.constants,
                                         error=f"{type(error).__name__}: {text.splitlines()[-1]}")
    codes = _machine_code(list(compiled.values()))
    for (index, kernel), code in zip(compiled.items(), codes):
        launch, meta = launches[index], kernel.metadata
        found[index] = Inspected(launch.name, launch.card.arch, launch.dtype, launch.constants, meta.num_warps, meta.num_stages,
                                 meta.shared, launch.card.shared_memory, *code)
        if store is not None:
            _keep(store / f"{launch.digest}.json", found[index])
    return found


def _read(store: Path | None, launch: Launch) -> Inspected | None:
    path = store / f"{launch.digest}.json" if store is not None else None
    return Inspected(**json.loads(path.read_text())) if path is not None and path.exists() else None


def _keep(path: Path, found: Inspected) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(found)))
    partial.replace(path)


def _digest(kernel, args: tuple, kwargs: dict, arch: str) -> str:
    """Of all that decides what is compiled: Triton, the card, the kernel's source, and the arguments as Triton specialises for them."""
    import torch
    import triton

    signature = []
    for parameter, value in zip(kernel.params, args):
        if isinstance(value, torch.Tensor):
            signature.append((str(value.dtype), value.data_ptr() % 16 == 0))
        elif isinstance(value, int) and not isinstance(value, bool):
            special = None if parameter.do_not_specialize else (value == 1, value % 16 == 0)
            signature.append(("int", -2**31 <= value < 2**31, special))
        else:
            signature.append(type(value).__name__)
    what = (triton.__version__, arch, _source(kernel), signature, sorted((name, str(value)) for name, value in kwargs.items()))
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


@cache
def _source(kernel) -> str:
    """The text of a kernel, of all kernels it calls and the numbers it reads; not where in a file they stand, unlike Triton's own hash."""
    from triton.runtime.jit import JITFunction

    found: dict[str, str] = {}

    def visit(one):
        if one.fn.__qualname__ in found:
            return
        found[one.fn.__qualname__] = inspect.getsource(one.fn)
        for name in one.fn.__code__.co_names:
            value = one.fn.__globals__.get(name)
            if isinstance(value, JITFunction):
                visit(value)
            elif value is not None and not inspect.ismodule(value) and not callable(value):
                found[name] = repr(value)

    visit(kernel)
    return repr(sorted(found.items()))


def _dtype(arguments: tuple) -> str:
    import torch

    tensors = {argument.dtype for argument in arguments if isinstance(argument, torch.Tensor)}
    return next((name for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")) if dtype in tensors), "fp32")


def _machine_code(kernels: list) -> list[tuple[int, int, dict[str, int]]]:
    """(registers, bytes of stack, instructions) of compiled kernels of one card."""
    if not kernels:
        return []
    if "amdgcn" in kernels[0].asm:
        return [_read_amd(kernel.asm["amdgcn"]) for kernel in kernels]
    cubins = [kernel.asm["cubin"] for kernel in kernels]
    capability = kernels[0].metadata.target.arch
    texts = [_text(cubin) for cubin in cubins]
    # nvdisasm takes 0.3 s to start, whatever it reads: all instructions in one file, told apart by their addresses
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(texts))
        file.flush()
        code = _tool("nvdisasm", "--binary", f"SM{capability}{'a' if capability >= 90 else ''}", file.name)
    counts: list[dict[str, int]] = [{} for _ in cubins]
    ends = list(accumulate(map(len, texts)))
    for address, opcode in OPCODE.findall(code):
        if opcode.split(".")[0] in TELLING:
            into = counts[bisect(ends, int(address, 16))]
            into[opcode] = into.get(opcode, 0) + 1
    return [(*_usage(cubin), count) for cubin, count in zip(cubins, counts)]


def _usage(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack)"""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        found = dict(re.findall(r"(REG|STACK):(\d+)", _tool("cuobjdump", "-res-usage", file.name)))
    return int(found["REG"]), int(found["STACK"])


def _text(cubin: bytes) -> bytes:
    """The instructions of a cubin, an ELF file of 64 bits: its one section .text.*"""
    table, = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + index * size) for index in range(count)]
    found = [cubin[at:at + length] for name, _, _, _, at, length in sections if cubin.startswith(b".text.", sections[names][4] + name)]
    if len(found) != 1:
        raise RuntimeError(f"a cubin with {len(found)} sections of code, expected one")
    return found[0]


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _read_amd(text: str) -> tuple[int, int, dict[str, int]]:
    """The same of AMD's assembly; registers are those of a lane."""
    found = dict(re.findall(r"\.(vgpr_count|private_segment_fixed_size): +(\d+)", text))
    return int(found["vgpr_count"]), int(found["private_segment_fixed_size"]), dict(Counter(AMD_OPCODE.findall(text)))

"""Which compiler calls make `_cpu.so`: the kernels once per instruction set, everything else once.

`_cpu.so` is a plain shared library on the LibTorch stable ABI, without Python symbols: one binary serves every Python
and every torch from 2.11 on. It is loaded with torch.ops.load_library after `import torch`, so it needs no rpath.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from build_jobs import BuildError, Job, install, run_jobs  # noqa: E402

CSRC = Path(__file__).resolve().parents[1]
TORCH_TARGET_VERSION = "0x020b000000000000"  # the oldest torch that the binary must load under: 2.11

COMMON = ["-O2", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno", "-Wall"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"]
ISA_FLAGS = {  # in the order of preference, worst first
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": _AVX512,
    "avx512_bf16": [*_AVX512, "-mavx512bf16"],
}


def isas(machine: str | None = None) -> list[str]:
    """The instruction sets compiled for a machine type; `baseline` is portable C++ and is always among them."""
    machine = machine or platform.machine()
    return list(ISA_FLAGS) if machine in ("x86_64", "AMD64") else ["baseline"]


def find_compiler() -> str:
    """$CXX, else g++ or clang++. Raises BuildError when there is none."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "clang++", "c++"]:
        if shutil.which(shlex.split(name)[0]):
            return name
    raise BuildError(f"no C++ compiler found (looked for {named or 'g++, clang++, c++'}); install g++ >= 12 or set CXX, "
                     "or set REGNET_KERNELS_BUILD_CPU=0 to install without the CPU kernels")


def jobs(build_dir: Path, torch_dir: Path) -> list[Job]:
    """One Job an object. csrc/cpu/kernels.cpp: once per ISA; the other csrc/cpu/*.cpp and csrc/torch_cpu.cpp: once."""
    compiler = shlex.split(find_compiler())
    common = [*COMMON, *_extra_flags()]
    have = [f"-DREGNET_HAVE_{isa.upper()}" for isa in isas()]
    kernels = CSRC / "cpu" / "kernels.cpp"
    plan = [(kernels, f"kernels.{isa}.o", [f"-DREGNET_ISA={isa}", *ISA_FLAGS[isa]]) for isa in isas()]
    plan += [(source, f"{source.stem}.o", have) for source in sorted(kernels.parent.glob("*.cpp")) if source != kernels]
    plan.append((CSRC / "torch_cpu.cpp", "torch_cpu.o",
                 [*have, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", "-isystem", str(torch_dir / "include"),
                  "-isystem", str(torch_dir / "include/torch/csrc/api/include")]))
    result = []
    for source, name, flags in plan:
        out = build_dir / name
        command = [*compiler, *common, f"-I{CSRC}", *flags, "-MMD", "-MF", f"{out}.d", "-c", str(source), "-o", str(out)]
        result.append(Job(out, tuple(command), (source,)))
    return result


def build(output: Path, build_dir: Path, torch_dir: Path) -> None:
    """Compile what changed, link, and put the library at `output`. Raises BuildError with the compiler's own words."""
    objects = jobs(build_dir, torch_dir)
    run_jobs(objects, "CPU kernels")
    names = [job.output for job in objects]
    linked = build_dir / output.name
    command = [*shlex.split(find_compiler()), "-shared", *map(str, names), "-o", str(linked), *_extra_flags(),
               "-Wl,--no-as-needed", f"-L{torch_dir / 'lib'}", "-ltorch_cpu", "-ltorch", "-Wl,--exclude-libs,ALL", "-pthread"]
    run_jobs([Job(linked, tuple(command), tuple(names))], "CPU kernels, link")
    install(linked, output)


def _extra_flags() -> list[str]:
    sanitize = os.environ.get("REGNET_KERNELS_SANITIZE", "")
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"] if sanitize else []
    return flags + shlex.split(os.environ.get("CXXFLAGS", ""))

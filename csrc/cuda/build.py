"""Which compiler calls make `_cuda.so`: nvcc alone, without a GPU, a driver or a CUDA build of torch.

Like `_cpu.so` it is a plain shared library on the LibTorch stable ABI. It also loads where libtorch_cuda or the driver
is absent: the CUDA runtime is linked in, and the one symbol of libtorch_cuda is weak.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from build_jobs import BuildError, Job, install, run_jobs  # noqa: E402

HERE = Path(__file__).resolve().parent
TORCH_TARGET_VERSION = "0x020b000000000000"  # the oldest torch that the binary must load under: 2.11
OLDEST_ARCH = 80
DEFAULT_ARCHS = ("80", "86", "89", "90", "100", "120")

WGMMA_FLAGS = ["-gencode=arch=compute_90a,code=sm_90a"]  # of *_wgmma_*.cu, whose instructions only that target has

COMMON = ["-std=c++20", "-O3", f"-I{HERE}", f"-I{HERE / 'device'}", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


def find_nvcc() -> Path | None:
    """$CUDA_HOME/bin/nvcc, $CUDA_PATH/bin/nvcc, nvcc on PATH, or /usr/local/cuda/bin/nvcc: the first that exists."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for home in homes:
        if nvcc := shutil.which("nvcc", path=str(Path(home) / "bin")):
            return Path(nvcc)
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Path(nvcc) if nvcc else None


def archs(nvcc: Path, wanted: str | None = None) -> tuple[list[str], str]:
    """The architectures to compile for, and the one whose PTX is added for newer cards.

    `wanted` is TORCH_CUDA_ARCH_LIST (default: the variable): "8.0;9.0a+PTX", separated by semicolons, commas or blanks. Without
    it: those of DEFAULT_ARCHS that this nvcc knows, with PTX of the oldest, which runs on every newer card. Raises BuildError on an entry that is unusable.
    """
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "") if wanted is None else wanted
    known = re.findall(r"compute_(\d+)", _output(nvcc, "--list-gpu-arch"))
    if not wanted.strip():
        chosen = [arch for arch in DEFAULT_ARCHS if arch in known]
        if not chosen:
            raise BuildError(f"{nvcc} knows none of the architectures {', '.join(DEFAULT_ARCHS)}; use CUDA 12 or newer")
        return chosen, chosen[0]
    chosen, ptx = [], ""
    for entry in re.split(r"[;,\s]+", wanted.strip()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if not match:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST has {entry!r}; expected numbers such as 8.0, 9.0a or 9.0+PTX")
        number = match[1] + match[2]
        if int(number) < OLDEST_ARCH or number not in known:
            usable = ", ".join(f"{arch[:-1]}.{arch[-1]}" for arch in known if int(arch) >= OLDEST_ARCH)
            raise BuildError(f"TORCH_CUDA_ARCH_LIST has {entry!r}; the kernels and this nvcc can be built for {usable}")
        chosen.append(number + match[3])
        if match[4]:
            ptx = chosen[-1]
    return chosen, ptx


def arch_flags(chosen: list[str], ptx: str) -> list[str]:
    """The kernels ask for nothing newer than OLDEST_ARCH, so one run of the compiler's front end serves all plain architectures;
    those with a suffix (90a, 120f) have features of their own and take a run each."""
    flags = [f"-gencode=arch=compute_{arch if arch[-1] in 'af' else OLDEST_ARCH},code=sm_{arch}" for arch in chosen]
    return flags + ([f"-gencode=arch=compute_{ptx},code=compute_{ptx}"] if ptx else [])


def jobs(nvcc: Path, build_dir: Path, torch_dir: Path, extra: tuple[str, ...] = ()) -> list[Job]:
    """One Job an object: the kernels (*.cu, no torch), and torch_cuda.cpp, which nvcc hands on to the host compiler. extra: more
    flags for the kernels, such as ("-Xptxas", "-v")."""
    gpu = arch_flags(*archs(nvcc))
    torch_flags = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", "-DUSE_CUDA", "-isystem", str(torch_dir / "include"),
                   "-isystem", str(torch_dir / "include/torch/csrc/api/include")]
    result = []
    for source in sorted([*HERE.glob("*.cu"), *HERE.glob("*.cpp")]):
        out = build_dir / f"{source.stem}.o"
        flags = torch_flags
        if source.suffix == ".cu":
            flags = [*(WGMMA_FLAGS if "_wgmma_" in source.stem else gpu), *extra]
        command = [str(nvcc), *COMMON, *flags, "-MMD", "-MF", f"{out}.d", "-c", str(source), "-o", str(out)]
        result.append(Job(out, tuple(command), (source,)))
    return result


def link_flags(torch_dir: Path) -> list[str]:
    """For nvcc, which links its runtime in. -ltorch stays although nothing strong needs it: it brings libtorch_cuda, if
    there is one, into the scope in which the weak symbol is looked up."""
    return ["-shared", "-nodlink", "-cudart", "static", "-Xlinker", "--no-as-needed", f"-L{torch_dir / 'lib'}", "-ltorch_cpu", "-ltorch",
            "-Xlinker", "--exclude-libs,ALL"]


def build_objects(build_dir: Path, torch_dir: Path) -> list[Path]:
    """Compile what changed and return the object files. Raises BuildError without nvcc or with the compiler's own words."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc found (looked at CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda); install the CUDA toolkit, "
                         "or set REGNET_KERNELS_BUILD_CUDA=0")
    planned = jobs(nvcc, build_dir, torch_dir)
    run_jobs(planned, "CUDA kernels")
    return [job.output for job in planned]


def build(output: Path, build_dir: Path, torch_dir: Path) -> None:
    """Compile what changed, link, and put the library at `output`. Raises BuildError."""
    objects = build_objects(build_dir, torch_dir)
    linked = link_job(find_nvcc(), objects, build_dir / output.name, torch_dir)
    run_jobs([linked], "CUDA kernels, link")
    install(linked.output, output)


def link_job(nvcc: Path, objects: list[Path], output: Path, torch_dir: Path) -> Job:
    return Job(output, (str(nvcc), *map(str, objects), "-o", str(output), *link_flags(torch_dir)), tuple(objects))


def _output(*command) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout

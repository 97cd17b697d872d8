"""What nvcc made of the CUDA kernels (csrc/cuda), on a machine without a GPU: registers, memory and instructions.

    python -m benchmarks.cuda_report              builds what changed, prints the table
    python -m benchmarks.cuda_report --markdown   as it stands in docs/gpu.md

Honours TORCH_CUDA_ARCH_LIST. Exit status 1 where a kernel misses a bar; 2 without nvcc or cuobjdump.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = ROOT / "build" / "native-cuda"  # setup.py's, so that nothing is compiled twice
COUNTED = ("HMMA", "HGMMA", "LDSM", "LDGSTS", "SHFL", "LDL", "STL")


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture. bytes: of local memory (stack and spills) and of static shared memory."""

    name: str
    arch: str
    registers: int
    stack: int
    local: int
    shared: int
    instructions: Counter

    def missed(self) -> list[str]:
        """The bars that it falls below, in words."""
        gate, hopper = self.name.startswith("se_gate"), self.name.startswith("gconv3x3_wgmma")
        most = 128 if gate or hopper or self.name == "gconv3x3_float" else 168  # 2 blocks of 256 threads, 3 of 128 (4 of float)
        wrong = []
        if self.stack or self.local or self.instructions["LDL"] or self.instructions["STL"]:
            wrong.append(f"uses local memory ({self.stack} bytes of stack, {self.local} local)")
        if self.registers > most:
            wrong.append(f"uses {self.registers} registers, more than {most}")
        if self.shared > 1024:  # what the runtime keeps for itself from sm_90 on; ours is asked for at the launch
            wrong.append(f"has {self.shared} bytes of static shared memory")
        if hopper:
            wrong += [f"has no {name}" for name in ("HGMMA", "LDGSTS") if not self.instructions[name]]
        elif not gate and self.name != "gconv3x3_float":
            wrong += [f"has no {name}" for name in ("HMMA", "LDSM", "LDGSTS") if not self.instructions[name]]
        return [f"{self.name} on {self.arch} {reason}" for reason in wrong]


def find_cuobjdump() -> str | None:
    """cuobjdump on PATH, beside nvcc, or in Triton's package."""
    places = [None]
    if nvcc := recipe().find_nvcc():
        places.append(str(nvcc.parent))
    if spec := importlib.util.find_spec("triton"):
        places.append(str(Path(spec.origin).parent / "backends/nvidia/bin"))
    return next((found for place in places if (found := shutil.which("cuobjdump", path=place))), None)


def recipe():
    """The module csrc/cuda/build.py."""
    spec = importlib.util.spec_from_file_location("_build_cuda", ROOT / "csrc/cuda/build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def kernels(objects: list[Path], archs: list[str], cuobjdump: str) -> list[Kernel]:
    """The kernels in `objects` on each of `archs` ("80", "90a"), as cuobjdump describes them; those for Hopper alone on 90a."""
    with ThreadPoolExecutor(2) as pool:
        jobs = [(path, arch) for path in objects for arch in (["90a"] if "_wgmma_" in path.stem else archs)]
        found = pool.map(lambda job: _read(job[0], f"sm_{job[1]}", cuobjdump), jobs)
        order = [*archs, "90a"]
        return sorted((kernel for some in found for kernel in some), key=lambda kernel: (kernel.name, order.index(kernel.arch[3:])))


def _read(path: Path, arch: str, cuobjdump: str) -> list[Kernel]:
    def say(flag):
        return subprocess.run([cuobjdump, flag, "-arch", arch, str(path)], capture_output=True, text=True, check=True).stdout

    code = {}
    for function in re.split(r"\n\s*Function : ", say("-sass"))[1:]:
        code[function.split()[0]] = Counter(re.findall(rf"\b({'|'.join(COUNTED)})\b", function))
    usage = re.findall(r"Function (\w+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", say("--dump-resource-usage"))
    return [Kernel(_short(name), arch, int(registers), int(stack), int(local), int(shared), code[name])
            for name, registers, stack, shared, local in usage]


def _short(mangled: str) -> str:
    """gconv3x3<half, 3> from the mangled name."""
    base = re.search(r"14regnet_kernels(\d+)(\w+)", mangled)
    name, rest = base[2][:int(base[1])], base[2][int(base[1]):]
    number = "half, " if "4Half" in rest else "bfloat16, " if "8BFloat16" in rest else ""
    width = re.match(r"I\w*?Li(\d+)E", rest)
    flags = "".join(f", {flag}" for flag in re.findall(r"Lb([01])E", rest))
    return f"{name}<{number}{width[1]}{flags}>" if width else name


def table(found: list[Kernel]) -> list[list[str]]:
    """Rows of text: a kernel, its registers on each architecture, then instructions on the last."""
    archs = sorted({kernel.arch for kernel in found}, key=lambda arch: (int(re.sub(r"\D", "", arch)), arch))
    by_name = defaultdict(dict)
    for kernel in found:
        by_name[kernel.name][kernel.arch] = kernel
    rows = [["kernel", *archs, "HMMA", "HGMMA", "LDSM", "LDGSTS", "SHFL", "local memory"]]
    for name, on in by_name.items():
        last = next(on[arch] for arch in reversed(archs) if arch in on)
        counts = [str(last.instructions[what]) for what in rows[0][len(archs) + 1:-1]]
        registers = [str(on[arch].registers) if arch in on else "" for arch in archs]
        rows.append([name, *registers, *counts, str(max(k.local + k.stack for k in on.values()))])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Registers, memory and instructions of the CUDA kernels, without a GPU.",
                                     epilog="example: TORCH_CUDA_ARCH_LIST=9.0 python -m benchmarks.cuda_report")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args()
    build, console = recipe(), Console()
    nvcc, cuobjdump = build.find_nvcc(), find_cuobjdump()
    if nvcc is None or cuobjdump is None:
        print(f"no {'cuobjdump' if nvcc else 'nvcc'} found; install the CUDA toolkit (Triton's package has a cuobjdump too)", file=sys.stderr)
        return 2
    try:
        with console.status("nvcc"):
            objects = [path for path in build.build_objects(OBJECTS, Path(torch.__file__).parent) if path.stem != "torch_cuda"]
            found = kernels(objects, build.archs(nvcc)[0], cuobjdump)
    except build.BuildError as error:
        print(error, file=sys.stderr)
        return 2
    rows = table(found)
    if args.markdown:
        print("\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]))
    else:
        shown = Table(*rows[0], title="registers by architecture; instructions on the last")
        for row in rows[1:]:
            shown.add_row(*row)
        console.print(shown)
    missed = [reason for kernel in found for reason in kernel.missed()]
    print("\n".join(missed), file=sys.stderr, end="\n" if missed else "")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

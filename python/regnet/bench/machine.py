"""What this machine is and what it can do: CPU, instruction sets, versions, and the peak and bandwidths that floors are made of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

PACKAGES = (
    "regnet-kernels", "torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "openvino", "scikit-image", "scikit-learn",
)  # fmt: skip
NOT_INSTALLED = "not installed"
MIB = 2**20
COPY_SIZES = tuple(mib * MIB for mib in (1, 4, 16, 64, 256))  # bytes read and written by one copy: caches first, memory last


@dataclass(frozen=True)
class Peak:
    """A measured arithmetic peak. gflops: 1e9 floating-point operations a second, two for each multiply-add."""

    gflops: float
    threads: int
    dtype: str
    method: str

    def floor_ms(self, multiply_adds: float) -> float:
        """The time in ms that `multiply_adds` take at the peak."""
        return 2e3 * multiply_adds / (self.gflops * 1e9)


def measure_peak(threads: int, dtype: torch.dtype = torch.float32, seconds: float = 0.3) -> Peak:
    """The best of three short runs of the extension's loop of multiply-adds, or of a large matrix product where there is no such loop.

    A matrix product can only be slower than the peak, so a floor made from it is too high (kind to us); `method` says which
    one was used. The loop is of float32 FMA or of dot products of bfloat16, which without such an instruction are slower than FMA: so
    bfloat16 takes the best of both and of a product.
    """
    name = str(dtype).removeprefix("torch.")
    found = []
    if has_fma_peak():
        for loop in {False, dtype == torch.bfloat16}:
            rates = [float(torch.ops.regnet_kernels._fma_peak(seconds, threads, loop)) for _ in range(3)]
            found.append((max(rates), "bfloat16 dot product loop" if loop else "float32 FMA loop"))
    if not found or dtype != torch.float32:
        found.append((max(_matmul_rate(threads, dtype, seconds) for _ in range(3)), f"{name} torch.mm, a lower bound of the peak"))
    gflops, method = max(found)
    return Peak(gflops, threads, name, method)


@dataclass(frozen=True)
class Bandwidth:
    """Measured rates of copying. rates: {bytes that one copy reads and writes: 1e9 bytes a second, both ways counted}."""

    rates: Mapping[int, float]

    def at(self, size: float) -> float:
        """GB/s for a working set of `size` bytes: that of the nearest smaller one measured, or of a larger one that was faster.

        Smaller sets lie in nearer caches, so a floor made from it is not too high.
        """
        nearest = max((known for known in self.rates if known <= size), default=min(self.rates))
        return max(rate for known, rate in self.rates.items() if known >= nearest)

    @property
    def memory(self) -> float:
        """GB/s of the largest copy, which no cache holds."""
        return self.rates[max(self.rates)]

    def merged(self, other: Bandwidth) -> Bandwidth:
        """The better of two measurements at each size."""
        sizes = sorted({*self.rates, *other.rates})
        return Bandwidth({size: max(self.rates.get(size, 0.0), other.rates.get(size, 0.0)) for size in sizes})


def measure_bandwidth(threads: int, sizes: tuple[int, ...] = COPY_SIZES, seconds: float = 0.15) -> Bandwidth:
    """The best of repeated `Tensor.copy_` of float32, for each of `sizes` (bytes read and written together)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Bandwidth({size: _copy_rate(size, seconds) for size in sizes})
    finally:
        torch.set_num_threads(before)


def _copy_rate(size: int, seconds: float) -> float:
    source = torch.ones(size // 8)
    target = torch.empty_like(source)
    target.copy_(source)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 1e-9 * size / best


def has_fma_peak() -> bool:
    """Whether the CPU extension offers its FMA loop."""
    import regnet_kernels  # noqa: F401  (registers the ops)

    return hasattr(torch.ops.regnet_kernels, "_fma_peak")


def _matmul_rate(threads: int, dtype: torch.dtype, seconds: float) -> float:
    """GFLOP/s of a 1536^3 matrix product, the best call within `seconds`."""
    side = 1536
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(2, side, side).to(dtype)
        out = torch.mm(a, b)
        best, end = float("inf"), time.perf_counter() + seconds
        while best == float("inf") or time.perf_counter() < end:
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2e-9 * side**3 / best


def describe() -> dict:
    """CPU model, cores, instruction sets (the CPU's and the one our kernels chose), operating system."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_family": _cpuinfo("cpu family"),
        "cpu_model": _cpuinfo("model"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": cpu_kernels(),
        "system": platform.system(),
    }


def cpu_kernels() -> dict | None:
    """The CPU extension's instruction sets (compiled, supported, chosen, forced), or None where it is not loaded."""
    import regnet_kernels

    facts = regnet_kernels.environment()
    return facts["isa"] if facts["extensions"]["cpu"]["state"] == "loaded" else None


def versions() -> dict[str, str]:
    """Version of Python and of each package that takes part; "not installed" where it is missing."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = NOT_INSTALLED
    return found


def provenance(threads: int) -> dict[str, object]:
    """Where a row of results comes from, for its columns: machine, isa, threads, versions, commit, build."""
    facts, found = describe(), versions()
    family = f" (family {facts['cpu_family']}, model {facts['cpu_model']})" if facts["cpu_family"] else ""
    return {
        "machine": f"{facts['cpu']}{family}", "cores": facts["cores"], "isa": (facts["kernels"] or {}).get("chosen") or "none",
        "threads": threads, "python": found["python"], "torch": torch.__version__, "regnet_kernels": found["regnet-kernels"],
        "onnxruntime": found["onnxruntime"], "openvino": found["openvino"], "commit": commit(), "build": kernel_build(),
    }  # fmt: skip


def commit() -> str:
    """The git commit of the checkout that this package lies in, "+changes" behind it where tracked files differ; "" elsewhere."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "--short=10", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "csrc", "regnet_kernels", "python")
    return f"{head}+changes" if head and changed else head


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def kernel_build() -> str:
    """The first 10 digits of the SHA-256 of the loaded CPU library, which tells two builds apart; "" without one."""
    import regnet_kernels

    library = regnet_kernels.environment()["extensions"]["cpu"]
    if library["state"] != "loaded":
        return ""
    return hashlib.sha256(Path(library["path"]).read_bytes()).hexdigest()[:10]


def peak_record(before: Peak, after: Peak | None) -> dict:
    """The peak to count with (the higher of two measurements, as clocks wander), and both figures."""
    best = max((p for p in (before, after) if p is not None), key=lambda p: p.gflops)
    return {**asdict(best), "measured": [p.gflops for p in (before, after) if p is not None]}


def _cpuinfo(field: str) -> str | None:
    try:
        lines = open("/proc/cpuinfo", encoding="utf-8").read().splitlines()
    except FileNotFoundError:  # not Linux
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return None

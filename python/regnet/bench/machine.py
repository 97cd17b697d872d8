"""What this machine is and what it can do: CPU, instruction sets, versions, and the FMA peak that the floor is made of."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass

import torch

PACKAGES = (
    "regnet-kernels", "torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "openvino", "scikit-image", "scikit-learn",
)  # fmt: skip
NOT_INSTALLED = "not installed"


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
    """The best of three short runs of the extension's FMA loop, or of a large matrix product where there is no such loop.

    A matrix product can only be slower than the peak, so a floor made from it is too high (kind to us); `method` says which
    one was used. The FMA loop counts float32, so other dtypes take the better of it and a product in their own dtype.
    """
    name = str(dtype).removeprefix("torch.")
    found = []
    if has_fma_peak():
        rates = [float(torch.ops.regnet_kernels._fma_peak(seconds, threads)) for _ in range(3)]
        found.append((max(rates), "float32 FMA loop"))
    if not found or dtype != torch.float32:
        found.append((max(_matmul_rate(threads, dtype, seconds) for _ in range(3)), f"{name} torch.mm, a lower bound of the peak"))
    gflops, method = max(found)
    return Peak(gflops, threads, name, method)


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

"""What is installed, built, loaded and chosen here, and why anything is not."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import _extension
from .backends import triton


def environment() -> dict:
    """The facts of `env_report()` as a dictionary of strings, numbers, lists and dictionaries (fit for JSON)."""
    info = _extension.CPU_INFO
    return {
        "regnet_kernels": _version("regnet-kernels"),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": sys.version.split()[0],
        "os": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()},
        "cpu_tuning": _cpu_tuning(),
        "isa": {"compiled": list(info.compiled), "supported": list(info.supported), "chosen": info.chosen, "pairs": info.pairs,
                "forced": info.forced, "error": info.error},
        "extensions": {name: {"state": extension.state, "path": extension.path, "reason": extension.reason}
                       for name, extension in (("cpu", _extension.CPU), ("cuda", _extension.CUDA))},
        "triton_kernels": triton.unusable(),
        "cuda": {"torch_built_with": torch.version.cuda, "devices": _cuda_devices()},
    }


def env_report() -> str:
    """A text of versions, device, instruction sets and extensions: what is built, loaded and chosen, and why not."""
    facts = environment()
    cpu, isa, cuda = facts["cpu"], facts["isa"], facts["cuda"]
    lines = [(name, facts[name]) for name in ("regnet_kernels", "torch", "triton", "python", "os")]
    lines.append(("CPU", f"{cpu['model']}, {cpu['cores']} cores, {cpu['torch_threads']} torch threads"))
    for name, extension in facts["extensions"].items():
        state = extension["path"] if extension["state"] == "loaded" else extension["reason"]
        lines.append((f"{name} kernels", f"{extension['state']}: {state}"))
    if isa["compiled"]:
        forced = f" (forced by REGNET_KERNELS_ISA={isa['forced']})" if isa["forced"] else ""
        lines += [("  compiled for", ", ".join(isa["compiled"])), ("  this CPU has", ", ".join(isa["supported"])),
                  ("  chosen", f"{isa['chosen']}{forced}{', 1x1 convolutions by pairs' if isa['pairs'] else ''}")]
        tuned = facts["cpu_tuning"]
        lines.append(("  tuned", f"{tuned['layers']} layers, {tuned['file']}" if tuned["layers"] else "nothing; the heuristics choose"))
    if isa["error"]:
        lines.append(("  error", isa["error"]))
    lines.append(("triton kernels", facts["triton_kernels"] or "ready"))
    built = f"torch built with CUDA {cuda['torch_built_with']}" if cuda["torch_built_with"] else "torch built without CUDA"
    lines.append(("CUDA", f"{built}; devices: {', '.join(cuda['devices']) or 'none visible'}"))
    return "\n".join(f"{name + ':':17}{value}" for name, value in lines)


def _cpu_tuning() -> dict:
    """layers: how many are tuned on this machine to something else than the heuristics' choice."""
    from .tuning import cpu

    better = sum(entry.choice != cpu.Choice() for entry in cpu.entries().values())
    return {"layers": better, "file": str(cpu.cache_file(cpu.identity())) if better else None}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    devices = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        devices.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    return devices

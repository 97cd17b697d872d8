"""The C++ kernels in _cpu.so, compiled once per instruction set and chosen by cpuid."""

import torch

from .._extension import CPU, CPU_INFO
from ..problem import Problem

NAME = "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(problem: Problem) -> str:
    if problem.device.type != "cpu":
        return f"the tensors are on {problem.device}, these kernels run on the CPU"
    if problem.layout == "plain":
        return "the weights are packed for a GPU; pack_network packs them for the CPU"
    if not CPU.loaded:
        return f"{CPU.state}: {CPU.reason}"
    if CPU_INFO.error:
        return CPU_INFO.error
    if problem.dtype not in DTYPES:
        return f"x is {problem.dtype}; the kernels compute float32, bfloat16 and float16 (as float32)"
    return ""


def misconfigured() -> str:
    """Why CPU kernels that are there refuse to run at all, e.g. REGNET_KERNELS_ISA names a set that this CPU lacks.
    Falling back would hide the user's mistake, so dispatch raises it even when no backend is forced."""
    return CPU_INFO.error or ""

"""The Triton backend: which problems its kernels can run, and why not the others. Importing it does not import Triton.

    machine      the card that kernels are configured for            configs, tiles   how a kernel is cut, as data
    shapes       what a launch's configuration may depend on
    pointwise    1x1 with gate, residual, projection                 grouped          grouped 3x3 with the squeeze's sums
    gate         the squeeze-excite's gate                           pool, scale      passes over a map
    expand_grouped  a block's 1x1 and grouped 3x3 in one         fusion, cards    whether that pays, as an estimate
    direct       the stem                                            epilogue         what ends a kernel
    run          the ops, and a packed network step by step
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

from ...plain import why_not_by_8
from ...problem import Problem
from .machine import OLDEST_CAPABILITY, interpreting, pretending
from .shapes import GroupedShape, PointwiseShape, Shape

NAME = "triton"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST_TRITON = (3, 6)


def why_not(problem: Problem) -> str:
    """Why the Triton kernels can't run `problem`, as one line; "" if they can. What the problem lacks comes before what the
    machine lacks."""
    return why_not_anywhere(problem) or why_not_here(problem.device)


def why_not_anywhere(problem: Problem) -> str:
    """The part of `why_not` that does not depend on the machine."""
    if problem.device.type not in ("cuda", "cpu"):
        return f"the tensors are on {problem.device}; these kernels run on GPUs"
    if problem.dtype not in DTYPES:
        return f"x is {problem.dtype}; the kernels compute float32, float16 and bfloat16"
    if problem.op in ("network", "bottleneck") and problem.layout != "plain":
        return "the weights are packed for the CPU; pack_plain packs them for a GPU"
    if problem.op in ("network", "bottleneck"):
        return why_not_by_8(problem.specs)
    return _why_not_conv(problem) if problem.op == "conv_bn_act" else ""


def why_not_layer(shape: Shape, dtype: torch.dtype) -> str:
    """Why no Triton kernel runs a layer of a network, whose weights are of `dtype`, whatever the machine; "" if one does."""
    if dtype not in DTYPES:
        return f"the weights are {dtype}; the kernels compute float32, float16 and bfloat16"
    if isinstance(shape, PointwiseShape) and (shape.k % 8 or shape.o % 8 or shape.k2 % 8):
        return f"a 1x1 from {shape.k}{f' and {shape.k2}' if shape.k2 else ''} to {shape.o} channels; all must be multiples of 8"
    if isinstance(shape, GroupedShape) and shape.group_width % 8:
        return f"the group width is {shape.group_width}; the kernel needs a multiple of 8"
    return ""


def _why_not_conv(problem: Problem) -> str:
    side = problem.kernel[0]
    if problem.kernel[0] != problem.kernel[1]:
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}; it must be square"
    if is_pointwise(problem.kernel, problem.padding, problem.groups):
        if problem.c_in % 8 or problem.c_out % 8:
            return f"a 1x1 from {problem.c_in} to {problem.c_out} channels; both must be multiples of 8"
        return ""
    for name in ("residual", "gate"):
        if getattr(problem, name):
            return f"a {name} is fused into the 1x1 only"
    if problem.groups == 1:
        return ""
    if (side, problem.padding) != (3, 1) or problem.stride not in (1, 2) or problem.c_in != problem.c_out:
        return (f"a grouped {side}x{side} from {problem.c_in} to {problem.c_out} channels, stride={problem.stride}, "
                f"padding={problem.padding}; it must be 3x3 with stride 1 or 2, padding 1, as many outputs as inputs")
    width = problem.c_in // problem.groups
    return f"the group width is {width}; the kernel needs a multiple of 8" if width % 8 else ""


def is_pointwise(kernel: tuple[int, int], padding: int, groups: int) -> bool:
    return tuple(kernel) == (1, 1) and padding == 0 and groups == 1


def why_not_here(device: torch.device) -> str:
    """Why this machine can't run the kernels on `device`; "" if it can."""
    if device.type == "cpu" and not (interpreting() or pretending()):
        return "the tensors are on cpu; these kernels run on GPUs (on the CPU only in Triton's interpreter, TRITON_INTERPRET=1)"
    if reason := missing():
        return reason
    if device.type == "cpu":
        return ""
    if not torch.cuda.is_available():
        return "torch finds no usable GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < OLDEST_CAPABILITY:
        return f"{device} has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
    return ""


def unusable() -> str:
    """Why no tensor here can go through these kernels, "" if some can."""
    if missing() or interpreting():
        return missing()
    return why_not_here(torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0))


@cache
def missing() -> str:
    """Why Triton cannot be had, "" if it can; imports it."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install 'regnet-kernels[triton]'"
    try:
        import triton
    except Exception as error:  # a broken installation costs this backend, not the package
        return f"Triton is installed but does not load: {type(error).__name__}: {error}"
    found = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if found < OLDEST_TRITON:
        return f"Triton {triton.__version__} is installed; the kernels need {'.'.join(map(str, OLDEST_TRITON))} or newer"
    return ""


def kernels() -> ModuleType:
    """The module `run`, imported on first use because it imports Triton."""
    return importlib.import_module(".run", __name__)

"""A network packed by `pack_plain` on a GPU, each layer by the backend that suits it: Triton, CUDA C++, or cuDNN through torch.

    layers    a network as layers, each a shape of backends/triton/shapes.py
    choice    who can run a layer, who runs it, and why not the others
    network   the steps, run
    cudnn     the layers in torch's own operations

The package imports without Triton; the kernels are imported on the first call.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import NamedTuple

import torch

from ...problem import Problem
from .. import triton
from . import choice
from .choice import passed_over
from .layers import Layer, layers

NAME = "gpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

__all__ = ["NAME", "Explained", "explain", "passed_over", "run", "table", "why_not"]


class Explained(NamedTuple):
    """One layer of a network: what it is, and who runs it and why."""

    layer: Layer
    choice: choice.Choice


def why_not(problem: Problem) -> str:
    """Why the layers of `problem` cannot be run one by one on a GPU; "" if they can."""
    if problem.op not in ("network", "bottleneck"):
        return f"{problem.op} is no network; its kernels are those of cuda and triton"
    if problem.layout != "plain":
        return "the weights are packed for the CPU; pack_plain packs them for a GPU"
    if problem.dtype not in DTYPES:
        return f"x is {problem.dtype}; the kernels compute float32, float16 and bfloat16"
    if problem.device.type == "cuda":
        return ""
    return triton.why_not_here(problem.device) if problem.device.type == "cpu" else f"the tensors are on {problem.device}; these kernels run on GPUs"


def explain(problem: Problem, backend: str) -> tuple[Explained, ...]:
    """Who runs each layer of a network that `backend` was chosen for; () for anything but gpu and triton. Raises BackendError where
    a layer was forced onto a backend that cannot run it."""
    if problem.op not in ("network", "bottleneck") or backend not in (NAME, triton.NAME):
        return ()
    forced = choice.named(problem.layers) if backend == NAME else backend
    return tuple(Explained(layer, choice.choose(layer.shape, problem.weights_dtype, problem.device, forced))
                 for layer in layers(problem.specs, *problem.sizes))


def table(explained: Iterable[Explained]) -> list[str]:
    """A line for each layer, with the reasons of the other backends where there are any to speak of."""
    lines = []
    for (step, part, shape), (backend, source, reasons) in explained:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        lines.append(f"{step:3} {part:4} {shape.kernel} {' '.join(map(str, shape))}: {backend} ({source}; {why})")
    return lines


def run(x: torch.Tensor, weights: torch.Tensor, params: torch.Tensor, program: list[int], mean: torch.Tensor | None = None,
        scale: torch.Tensor | None = None, layers: str = "") -> torch.Tensor:
    """The op regnet_kernels::network_plain, its arguments checked before. layers: forced backends, see `choice.forced`."""
    return importlib.import_module(".network", __name__).run(x, weights, params, program, mean, scale, choice.named(layers))

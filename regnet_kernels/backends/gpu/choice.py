"""Which backend runs a layer, and why not the others: the one place where that is decided, for a network and for single calls.

    cuda     CUDA C++: the grouped 3x3 and the gate
    triton   every layer whose channels are multiples of 8
    cudnn    torch's own operations, whose convolutions are cuDNN's on NVIDIA's cards: any layer

A forced backend comes first; then what was measured on this card (regnet_kernels.tuning); then `heuristic`: in 16 bits on compute
capability 9.0 rules read off measurements, on other cards estimates that no measurement has seen yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch

from ...problem import BackendError, Problem
from ...tuning import table
from .. import cuda, triton
from ..triton.configs import SMALL_ROWS
from ..triton.machine import machine, pretending
from ..triton.shapes import GateShape, GroupedShape, PointwiseShape, Shape
from .layers import KINDS, MeanShape

BACKENDS = ("cuda", "triton", "cudnn")
VARIABLE = "REGNET_KERNELS_LAYERS"
HALVES = (torch.float16, torch.bfloat16)

# Up to this group width a tile's arithmetic takes less time than Triton's walk over the nine taps takes to fetch its inputs; beyond
# it the CUDA kernel reads the halo once for each 64 outputs of a group, and the wider instructions of newer cards, which Triton
# uses, count (docs/gpu.md has the figures).
WIDEST_HALO_GROUP = 64
# Each block of the CUDA kernel computes all of the hidden layer: 8 images times this many weights take its multiprocessor about
# 4,000 clocks, as long as the second launch that Triton makes for larger ones.
ONE_LAUNCH_WEIGHTS = 64 << 10
GAIN = 0.02  # what another backend must have gained over the heuristic's when they were measured: less is noise


class Choice(NamedTuple):
    """backend: who runs the layer; source: "forced", "tuned" or "heuristic"; reasons: why each other backend does not."""

    backend: str
    source: str
    reasons: dict[str, str]


def choose(shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device, layers: str = "") -> Choice:
    """The backend of a layer whose weights are of `dtype`. layers: forced backends, as `forced` reads them.

    Raises BackendError where the forced backend cannot run the layer.
    """
    if pretending():  # for a card that is not here
        return _choose(shape.kernel, shape, dtype, device, layers)
    return _kept(shape.kernel, shape, dtype, device, layers, table.generation())


def candidates(shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device) -> list[str]:
    """The backends that can run a layer here."""
    return [name for name in BACKENDS if not why_not(name, shape, dtype, device)]


def why_not(backend: str, shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device) -> str:
    """Why a backend cannot run a layer, "" if it can. What the layer lacks comes before what the machine lacks."""
    if backend == "cudnn":
        return ""
    if backend == "cuda":
        return cuda.why_not_layer(shape, dtype) or _why_not_cuda(device)
    return triton.why_not_layer(shape, dtype) or _why_not_triton(device)


def heuristic(shape: Shape | MeanShape, dtype: torch.dtype, arch: str = "") -> tuple[str, str]:
    """(the backend that suits a layer whichever can run it, why). arch: of the card, such as "sm_90"."""
    if arch == "sm_90" and dtype in HALVES:
        return _hopper(shape)
    if isinstance(shape, GroupedShape):
        if dtype not in HALVES:
            return "triton", "float32 goes through Triton's tensor cores where TF32 is allowed"
        if shape.group_width <= WIDEST_HALO_GROUP:
            return "cuda", f"groups of {shape.group_width}: it reads an input once a tile, Triton once a tap"
        return "triton", f"groups of {shape.group_width}, wider than {WIDEST_HALO_GROUP}: arithmetic and weights decide, not the nine taps"
    if isinstance(shape, GateShape):
        weights = shape.channels * shape.squeeze
        if weights <= ONE_LAUNCH_WEIGHTS:
            return "cuda", f"w1 has {weights} weights, few enough for each block to go through all of them: one launch"
        return "triton", f"w1 has {weights} weights: tensor cores and a second launch beat going through all of them in each block"
    return "triton", "Triton goes first"


def _hopper(shape: Shape | MeanShape) -> tuple[str, str]:
    """The same in 16 bits on compute capability 9.0, as measured on an H200 (benchmarks/results/nvidia-h200)."""
    if isinstance(shape, GroupedShape):
        width, narrow = shape.group_width, shape.group_width <= (64 if shape.stride == 1 else 32)
        if shape.rows <= SMALL_ROWS:
            return "triton", f"{shape.rows} pixels: too few for tiles that keep their weights"
        if narrow and (shape.stride == 1 or width > 8):
            return "cuda", f"groups of {width}, stride {shape.stride}: its products read the nine taps where the halo lies"
        return "triton", f"groups of {width}, stride {shape.stride}: measured faster than reading a halo"
    if isinstance(shape, GateShape):
        if shape.images <= 8 and shape.squeeze <= 32:
            return "cuda", f"{shape.squeeze} hidden units of {shape.images} images: one launch"
        return "triton", "tensor cores, and many programs that each read a part of the weights"
    k, o = (shape.k, shape.o) if isinstance(shape, PointwiseShape) else (0, 0)
    if k and shape.rows > (SMALL_ROWS if k > 64 else 4 * SMALL_ROWS):
        if shape.gated:
            library = min(k, o) >= 400
        elif shape.k2:
            library = k >= 700
        else:
            library = k * o >= 10000 or k * o >= 2500 and k % 16 == 0 and o % 16 == 0
        if library:
            return "cudnn", f"{k} to {o} channels, {shape.rows} pixels: products decide, and the library's are the faster"
    return "triton", "Triton goes first"


def forced(layers: str) -> Mapping[str, str]:
    """{kind: backend} of a text such as "triton" (every layer) or "grouped=cuda,gate=triton"; kinds are those of KINDS.

    Raises ValueError on anything else.
    """
    return _forced(layers)


def named(layers: str) -> str:
    """`layers`, or what REGNET_KERNELS_LAYERS says. Raises ValueError as `forced` does."""
    text = layers or os.environ.get(VARIABLE, "")
    try:
        forced(text)
    except ValueError as error:
        raise ValueError(f"{'layers' if layers else VARIABLE}={text!r}: {error}") from None
    return text


def of_problem(problem: Problem) -> Shape | None:
    """The layer that a single call amounts to where more than one backend has a kernel for it, else None."""
    if problem.op == "se_gate":
        images, _, pixels = problem.sizes
        return GateShape(images, pixels, problem.c_in, problem.squeeze, transposed=0)
    if problem.op != "conv_bn_act" or tuple(problem.kernel) != (3, 3) or problem.padding != 1 or problem.c_in != problem.c_out:
        return None
    images, height, width = problem.sizes
    down, across = (height - 1) // problem.stride + 1, (width - 1) // problem.stride + 1
    return GroupedShape(images, down, across, problem.c_in, problem.c_in // problem.groups, problem.stride, int(problem.pool))


def passed_over(name: str, problem: Problem) -> str:
    """Why a backend that can run a single call leaves it to another, else "". While torch.compile traces, sizes are symbols and who
    runs the op is settled when it runs: then "" always."""
    if name not in ("cuda", "triton") or problem.device.type != "cuda" or torch.compiler.is_compiling():
        return ""
    shape = of_problem(problem)
    choice = None if shape is None else choose(shape, problem.dtype, problem.device)
    return "" if choice is None or choice.backend in (name, "cudnn") else choice.reasons[name]


def _choose(kind: str, shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device, layers: str) -> Choice:
    reasons = {name: why_not(name, shape, dtype, device) for name in BACKENDS}
    if wanted := forced(layers).get(kind):
        if reasons[wanted]:
            layer = f"{kind} {' '.join(map(str, shape))}"
            raise BackendError(f"the layer {layer} was forced onto {wanted}, which cannot run it: {reasons[wanted]}")
        return Choice(wanted, "forced", {name: reason or f"{wanted} was forced" for name, reason in reasons.items() if name != wanted})
    able = [name for name in BACKENDS if not reasons[name]]
    best, why = heuristic(shape, dtype, _arch(device))
    if best not in able:
        best, why = next((name, "") for name in ("triton", "cuda", "cudnn") if name in able)
    times = {name: ms for name, ms in _times(shape, dtype, device).items() if name in able}
    if times:
        fastest = min(times, key=times.get)
        best = fastest if best not in times or times[fastest] < (1 - GAIN) * times[best] else best
        why = dict.fromkeys(able, "it failed when it was measured")
        why |= {name: f"{ms:.4f} ms, {best} took {times[best]:.4f}" for name, ms in times.items()}
    else:
        why = dict.fromkeys(able, why or f"{best} goes first")
    return Choice(best, "tuned" if times else "heuristic", {name: reasons[name] or why[name] for name in BACKENDS if name != best})


@cache
def _kept(kind: str, shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device, layers: str, generation: int) -> Choice:
    """`_choose`, remembered until another result is kept. The kind is among the arguments because shapes of two kinds may be equal
    as tuples."""
    return _choose(kind, shape, dtype, device, layers)


def _times(shape: Shape | MeanShape, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Milliseconds of each backend that was measured on this layer."""
    if isinstance(shape, MeanShape):
        return {}
    entry = table.tuned(device, shape, dtype)
    return {} if entry is None else {"triton": entry.ms, **entry.others}


def _arch(device: torch.device) -> str:
    if pretending() or device.type == "cuda" and torch.cuda.is_available():
        return machine(device).arch
    return ""


def _why_not_cuda(device: torch.device) -> str:
    return cuda.why_not_here(device) if device.type == "cuda" else f"the tensors are on {device}, these kernels run on CUDA devices"


def _why_not_triton(device: torch.device) -> str:
    return triton.missing() if pretending() else triton.why_not_here(device)


@cache
def _forced(layers: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in layers.split(","))):
        kind, _, backend = item.rpartition("=")
        kinds = (kind.strip(),) if kind else KINDS
        if kinds[0] not in KINDS or backend.strip() not in BACKENDS:
            raise ValueError(f"{item!r} is no backend and no kind=backend; kinds: {', '.join(KINDS)}; backends: {', '.join(BACKENDS)}")
        found.update({one: backend.strip() for one in kinds})
    return found

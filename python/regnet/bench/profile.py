"""Our kernels' own clock: the seconds of each phase of a packed network (`torch.ops.regnet_kernels._profile_network`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import regnet_kernels
import torch

from regnet.bench.shapes import StepShape

WORK = ("convert", "1x1, dense", "grouped 3x3", "grouped 3x3, Winograd", "squeeze-excite", "pool", "store")
LOAD, DENSE, GROUPED, WINOGRAD, SQUEEZE, POOL, STORE = range(len(WORK))


@dataclass(frozen=True)
class Phase:
    """One phase of a call: its step of the network, its work (a place in WORK), nominal multiply-adds, seconds (repeats,)."""

    step: int
    work: int
    macs: float
    seconds: np.ndarray


def require_kernels() -> None:
    """Raises RuntimeError where the CPU library is not loaded, or was told to use an instruction set that cannot run."""
    facts = regnet_kernels.environment()
    if facts["extensions"]["cpu"]["state"] != "loaded":
        raise RuntimeError(f"the CPU kernels are not loaded, so there is nothing to time: {facts['extensions']['cpu']['reason']}")
    if facts["isa"]["error"]:
        raise RuntimeError(facts["isa"]["error"])


def profile(packed: regnet_kernels.PackedNetwork, x: torch.Tensor, repeats: int) -> list[Phase]:
    """Runs the network on x (N, C, H, W) `repeats` times in one call. A phase's seconds lie between two barriers of the threads."""
    table = torch.ops.regnet_kernels._profile_network(x, packed.weights, packed.params, packed.program, repeats).numpy()
    return [Phase(int(row[0]), int(row[1]), float(row[2]), row[3:]) for row in table]


def convolutions(phases: list[Phase]) -> list[str]:
    """"a", "b" or "c" for each phase of one block's that is a convolution of it, "" for the others. A batch goes through in groups of images,
    a large map in strips through a and b: a is the 1x1 before a 3x3."""
    names, before_grouped = [], False
    for phase in reversed(phases):
        grouped = phase.work in (GROUPED, WINOGRAD)
        names.append("b" if grouped else "" if phase.work != DENSE else "a" if before_grouped else "c")
        before_grouped = grouped if phase.work in (DENSE, GROUPED, WINOGRAD) else before_grouped
    return names[::-1]


def seconds_by_op(step: StepShape, phases: list[Phase]) -> dict[str, tuple[np.ndarray, str]]:
    """Phases of a one-step network -> {name of the op in `step.ops`: (seconds (repeats,), algorithm)}.

    An op may have several phases. Raises RuntimeError where they do not add up to the op's multiply-adds: then the kernels work in a way
    that is not known here.
    """
    seconds = dict.fromkeys(step.ops, 0.0)
    macs, algorithm = dict.fromkeys(step.ops, 0.0), dict.fromkeys(step.ops, "direct")
    for phase, convolution in zip(phases, convolutions(phases)):
        name = step.kind
        if step.kind == "block":
            name = convolution or ("se" if phase.work == SQUEEZE else "")
            if name not in step.ops:
                raise RuntimeError(f"the kernels ran a phase {_named(phase.work)!r} in {step}, which this benchmark does not know")
        if phase.work == WINOGRAD:
            algorithm[name] = "winograd"
        seconds[name] = seconds[name] + phase.seconds
        macs[name] += phase.macs
    for name, op in step.ops.items():
        if macs[name] != op.macs and op.kind != "se":  # whose few the kernels do not count
            ran = ", ".join(_named(phase.work) for phase in phases)
            raise RuntimeError(f"the kernels counted {macs[name]:.0f} multiply-adds in {name} of {step}, {op.macs} expected; phases: {ran}")
    return {name: (np.asarray(seconds[name]), algorithm[name]) for name in step.ops}


def _named(work: int) -> str:
    return WORK[work] if work < len(WORK) else str(work)

"""A packed network as the layers that a GPU runs one after the other, for a batch of a given size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ...packing import CONV, HEAD
from ...plain import PlainSpec
from ..triton.shapes import DirectShape, ExpandShape, GateShape, GroupedShape, SHAPES, PointwiseShape, Shape


class MeanShape(NamedTuple):
    """The mean of each map, in front of a classifier. pixels: of a map."""

    kernel = "mean"

    images: int
    pixels: int
    channels: int


KINDS = (*(kind for kind in SHAPES if kind != ExpandShape.kernel), MeanShape.kernel)  # two layers in one are no layer


class Layer(NamedTuple):
    """step: index of the step; part: its section in the packed step ("w", "a", "b", "se", "c", "mean", "fc")."""

    step: int
    part: str
    shape: Shape | MeanShape


def layers(specs: Sequence[PlainSpec], images: int, height: int, width: int) -> list[Layer]:
    """All layers of the steps on `images` maps of height x width, in the order in which they run."""
    found = []
    for index, spec in enumerate(specs):
        found += [Layer(index, part, shape) for part, shape in step_layers(spec, images, height, width).items()]
        height, width = out_side(spec, height), out_side(spec, width)
    return found


@cache
def step_layers(spec: PlainSpec, images: int, height: int, width: int) -> dict[str, Shape | MeanShape]:
    """{part: shape} of a step on maps of height x width."""
    c, m, o = spec.c_in, spec.c_mid, spec.c_out
    if spec.kind == HEAD:
        classifier = {"fc": PointwiseShape(images, 1, 1, c, o + -o % 8)} if o else {}
        return {"mean": MeanShape(images, height * width, c), **classifier}
    down, across = out_side(spec, height), out_side(spec, width)
    if spec.kind == CONV:
        return {"w": DirectShape(images, down, across, c, o, spec.kernel, spec.stride)}
    se = {"se": GateShape(images, down * across, m, spec.se_width)} if spec.se_width else {}
    shortcut = (0, c, spec.stride) if spec.has_proj else (1, 0, 1)
    return {"a": PointwiseShape(images, height, width, c, m),
            "b": GroupedShape(images, down, across, m, spec.group_width, spec.stride, int(bool(se))), **se,
            "c": PointwiseShape(images, down, across, m, o, 1, int(bool(se)), *shortcut)}


def out_side(spec: PlainSpec, side: int) -> int:
    """Pixels of a side of the step's result."""
    return 1 if spec.kind == HEAD else (side + 2 * spec.padding - spec.kernel) // spec.stride + 1

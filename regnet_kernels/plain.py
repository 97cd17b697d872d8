"""Packs the steps of a network for GPUs: weights as PyTorch stores them, one after the other in one blob, and a program of integers.

The kernels read the matrices as they are, so there is nothing to unpack and nothing to cache in a call: a step is two blobs
and offsets, whatever moved, copied or captured them. (packing.py packs the same steps in panels, for the CPU.)

Format, version 101. program = [101, number of steps] and 16 integers a step, see `PlainSpec`; offsets count elements and are
absolute, so any contiguous run of steps with the same blobs is a program too (`PlainNetwork.slice`).

weights (1-D, of the dtype to compute in), each section starts at a multiple of 64 elements, zero-filled up to the next:
    conv   (O, K'), K ordered (kh, kw, ci), each row zero-filled to K', the next multiple of 8
    block  a (M, C); b (M, 3, 3, g); c (O, M); with a projection proj (O, C); with SE w1 (S, M), w2 transposed (S, M)
    head   fc (O', C), O' the next multiple of 8, its last rows zero; nothing for O = 0
params (1-D, float32), sections at multiples of 16 elements, zero-filled up to the next:
    conv   bias (O)
    block  a bias (M), b bias (M); with SE b1 (S), b2 (M); c bias + proj bias (O)
    head   bias (O'), nothing for O = 0
float64 blobs (both) exist for references and gradient checks; no kernel reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .activation import NAMES, activation_code
from .blobs import BlobNetwork, check_blobs, check_end, step_integers
from .packing import BLOCK, CONV, HEAD
from .steps import BlockStep, ConvStep, HeadStep, Step, channels, check_steps

VERSION = 101
WEIGHTS_ALIGN, PARAMS_ALIGN = 64, 16
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class PlainSpec(NamedTuple):
    """The first 13 integers of a step, in the order in which the program holds them (three zeros follow)."""

    kind: int
    c_in: int
    c_mid: int
    c_out: int
    kernel: int
    stride: int
    padding: int
    group_width: int
    se_width: int
    has_proj: int
    activation: int
    weights_offset: int
    params_offset: int

    def weight_sections(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the sections in the weights blob, in order."""
        if self.kind == CONV:
            return {"w": (self.c_out, _up_to_8(self.kernel**2 * self.c_in))}
        if self.kind == HEAD:
            return {"fc": (_up_to_8(self.c_out), self.c_in)} if self.c_out else {}
        sections = {"a": (self.c_mid, self.c_in), "b": (self.c_mid, 3, 3, self.group_width), "c": (self.c_out, self.c_mid)}
        if self.has_proj:
            sections["proj"] = (self.c_out, self.c_in)
        if self.se_width:
            sections |= {"w1": (self.se_width, self.c_mid), "w2": (self.se_width, self.c_mid)}
        return sections

    def param_sections(self) -> dict[str, tuple[int]]:
        """{name: shape} of the sections in the params blob, in order."""
        if self.kind == CONV:
            return {"bias": (self.c_out,)}
        if self.kind == HEAD:
            return {"bias": (_up_to_8(self.c_out),)} if self.c_out else {}
        squeeze = {"b1": (self.se_width,), "b2": (self.c_mid,)} if self.se_width else {}
        return {"a_bias": (self.c_mid,), "b_bias": (self.c_mid,), **squeeze, "c_bias": (self.c_out,)}

    def read(self, weights: torch.Tensor, params: torch.Tensor) -> dict[str, torch.Tensor]:
        """All sections by name, as views of the blobs."""
        found = _views(weights, self.weights_offset, WEIGHTS_ALIGN, self.weight_sections())
        return found | _views(params, self.params_offset, PARAMS_ALIGN, self.param_sections())


class PlainNetwork(BlobNetwork):
    """A network packed for GPUs; see BlobNetwork."""

    @staticmethod
    def reads(program: Sequence[int]) -> bool:
        """Whether a program is of this format, and not one of packing.py's."""
        return is_plain(program)

    @property
    def specs(self) -> tuple[PlainSpec, ...]:
        return program_specs(self.program)

    def unpack(self) -> list[Step]:
        return unpack_plain(self.weights, self.params, self.program)

    def _check(self) -> None:
        check_program(self.weights, self.params, self.program)


def why_not(steps: Sequence[Step]) -> str:
    """Why steps have no plain form, "" if they have."""
    for index, step in enumerate(steps):
        where = f"step {index} ({type(step).__name__})"
        if isinstance(step, ConvStep) and step.groups != 1:
            return f"{where} has {step.groups} groups; convolutions outside of blocks must be dense"
        if isinstance(step, BlockStep) and step.stride not in (1, 2):
            return f"{where} has stride {step.stride}; it must be 1 or 2"
    return ""


def why_not_by_8(specs: Sequence[PlainSpec]) -> str:
    """Why kernels that load 8 channels at once cannot run all of a program, "" if they can."""
    for index, spec in enumerate(specs):
        counts = {"input": spec.c_in, "inner": spec.c_mid, "output": spec.c_out, "group": spec.group_width} if spec.kind == BLOCK else {}
        for name, count in (counts if spec.kind != HEAD else {"input": spec.c_in}).items():
            if count % 8:
                return f"step {index} has {count} {name} channels; they must be multiples of 8 for every layer to be Triton's"
    return ""


def pack_plain(steps: Sequence[Step], dtype: torch.dtype = torch.float16) -> PlainNetwork:
    """Pack steps for computing in `dtype` (float32, float16, bfloat16) on a GPU.

    The tensors may have any floating dtype; weights are rounded to `dtype`, biases to float32. Differentiable with respect
    to the steps' tensors. Raises ValueError that names the step and tensor that do not fit.
    """
    steps = list(steps)
    if dtype not in DTYPES:
        raise ValueError(f"cannot pack for {dtype}; expected torch.float32, torch.float16 or torch.bfloat16")
    check_steps(steps)
    if reason := why_not(steps):
        raise ValueError(f"{reason}; pack_network packs any, for the CPU")
    weights, params, program = [], [], [VERSION, len(steps)]
    size = [0, 0]
    for step in steps:
        spec = _spec(step, *size)
        tensors = _tensors(step)
        for parts, index, align, sections in ((weights, 0, WEIGHTS_ALIGN, spec.weight_sections()),
                                              (params, 1, PARAMS_ALIGN, spec.param_sections())):
            for name, shape in sections.items():
                flat = _fit(tensors[name], shape).reshape(-1)
                flat = F.pad(flat, (0, -flat.numel() % align))
                parts.append(flat)
                size[index] += flat.numel()
        program += [*spec, 0, 0, 0]
    param_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def join(parts, kind):
        return torch.cat([part.to(kind) for part in parts]) if parts else torch.zeros(0, dtype=kind)

    return PlainNetwork(join(weights, dtype), join(params, param_dtype), program)


def unpack_plain(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> list[Step]:
    """The steps of a program as views of its blobs, differentiable. SE weights come as float32 beside their biases; a projection
    comes back as (weight, None): its bias was added to c's. Raises ValueError on a malformed program."""
    return [_unpack(spec, spec.read(weights, params)) for spec in program_specs(program)]


def is_plain(program: Sequence[int]) -> bool:
    """Whether a program is of this format."""
    return len(program) > 0 and program[0] == VERSION


def program_specs(program: Sequence[int]) -> tuple[PlainSpec, ...]:
    """The steps' sizes. Raises ValueError when the program's length, version or kinds are not what this version says."""
    return _specs(tuple(program))


@cache
def _specs(program: tuple[int, ...]) -> tuple[PlainSpec, ...]:
    specs = tuple(PlainSpec(*step[:13]) for step in step_integers(program, VERSION, "pack_plain"))
    for index, spec in enumerate(specs):
        _check_spec(spec, index)
    return specs


def check_program(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> None:
    """Raises ValueError unless the blobs are 1-D, of fitting dtypes, on one device, and hold all that the program reads."""
    check_blobs(weights, params, DTYPES)
    for index, spec in enumerate(program_specs(program)):
        check_end(index, "weights", weights, _end(spec.weights_offset, spec.weight_sections(), WEIGHTS_ALIGN))
        check_end(index, "params", params, _end(spec.params_offset, spec.param_sections(), PARAMS_ALIGN))


def _check_spec(spec: PlainSpec, index: int) -> None:
    if (spec.kind not in (CONV, BLOCK, HEAD) or min(spec) < 0 or spec.c_in < 1 or spec.stride < 1 or spec.activation >= len(NAMES)
            or (spec.kind != HEAD and spec.c_out < 1) or spec.weights_offset % WEIGHTS_ALIGN or spec.params_offset % PARAMS_ALIGN):
        raise ValueError(f"step {index} of the program is malformed: {spec}")
    if spec.kind == BLOCK and (spec.group_width < 1 or spec.c_mid < 1 or spec.c_mid % spec.group_width):
        raise ValueError(f"step {index} of the program: inner channels that are no multiple of the group width: {spec}")


def _spec(step: Step, weights_offset: int, params_offset: int) -> PlainSpec:
    c_in, c_out = channels(step)
    if isinstance(step, ConvStep):
        sizes = (CONV, c_in, 0, c_out, step.weight.shape[2], step.stride, step.padding, c_in, 0, 0, activation_code(step.activation))
    elif isinstance(step, BlockStep):
        se_width = step.se[0].shape[0] if step.se is not None else 0
        sizes = (BLOCK, c_in, step.a[0].shape[0], c_out, 3, step.stride, 1, step.group_width, se_width, int(step.proj is not None),
                 activation_code(step.activation))
    else:
        sizes = (HEAD, c_in, 0, c_out, 0, 1, 0, 0, 0, 0, 0)
    return PlainSpec(*sizes, weights_offset, params_offset)


def _tensors(step: Step) -> dict[str, torch.Tensor]:
    """What goes into the sections of a step, by name."""
    if isinstance(step, ConvStep):
        return {"w": step.weight.permute(0, 2, 3, 1).flatten(1), "bias": _bias(step.bias, step.weight)}
    if isinstance(step, HeadStep):
        return {} if step.weight is None else {"fc": step.weight, "bias": _bias(step.bias, step.weight)}
    (a, a_bias), (b, b_bias), (c, c_bias) = step.a, step.b, step.c
    found = {"a": a.flatten(1), "a_bias": _bias(a_bias, a), "b": b.permute(0, 2, 3, 1), "b_bias": _bias(b_bias, b),
             "c": c.flatten(1), "c_bias": _bias(c_bias, c)}
    if step.proj is not None:
        proj, proj_bias = step.proj
        found |= {"proj": proj.flatten(1), "c_bias": found["c_bias"] + _bias(proj_bias, proj)}
    if step.se is not None:
        w1, b1, w2, b2 = step.se
        found |= {"w1": w1.flatten(1), "b1": b1, "w2": w2.flatten(1).t(), "b2": b2}
    return found


def _unpack(spec: PlainSpec, part: dict[str, torch.Tensor]) -> Step:
    if spec.kind == CONV:
        k = spec.kernel
        weight = part["w"][:, :k * k * spec.c_in].reshape(spec.c_out, k, k, spec.c_in).permute(0, 3, 1, 2)
        return ConvStep(weight, part["bias"], spec.stride, spec.padding, 1, NAMES[spec.activation])
    if spec.kind == HEAD:
        return HeadStep(part["fc"][:spec.c_out], part["bias"][:spec.c_out], spec.c_in) if part else HeadStep(None, None, spec.c_in)

    def pointwise(name):
        return part[name][:, :, None, None]

    se = None
    if spec.se_width:
        kind = part["b1"].dtype
        se = part["w1"].to(kind), part["b1"], part["w2"].t().to(kind), part["b2"]
    return BlockStep((pointwise("a"), part["a_bias"]), (part["b"].permute(0, 3, 1, 2), part["b_bias"]), (pointwise("c"), part["c_bias"]),
                     (pointwise("proj"), None) if spec.has_proj else None, se, spec.stride, spec.group_width, NAMES[spec.activation])


def _views(blob: torch.Tensor, offset: int, align: int, sections: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    views = {}
    for name, shape in sections.items():
        strides = [1]
        for side in reversed(shape[1:]):
            strides.insert(0, strides[0] * side)
        views[name] = blob.as_strided(shape, strides, blob.storage_offset() + offset)
        offset += _aligned(shape, align)
    return views


def _end(offset: int, sections: dict[str, tuple[int, ...]], align: int) -> int:
    return offset + sum(_aligned(shape, align) for shape in sections.values())


def _aligned(shape: tuple[int, ...], align: int) -> int:
    size = 1
    for side in shape:
        size *= side
    return size + -size % align


def _fit(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """tensor, zero-filled at the end of its first and last dimension up to `shape`."""
    grow = [extra for have, want in zip(reversed(tensor.shape), reversed(shape)) for extra in (0, want - have)]
    return F.pad(tensor, grow) if any(grow) else tensor


def _bias(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    return weight.new_zeros(weight.shape[0]) if bias is None else bias


def _up_to_8(count: int) -> int:
    return count + -count % 8

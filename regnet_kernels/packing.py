"""Packs the steps of a network into two blobs and a program of integers, the form that the `network` op reads.

Format, version 3. program = [1, number of steps] and 16 integers a step, see `StepSpec`; offsets count elements and are
absolute, so any contiguous run of steps with the same blobs is a program too (`PackedNetwork.slice`).

weights (1-D, float32 or bfloat16), each section starts at a multiple of 32 elements, zero-filled up to the next:
    block  panels(a: (M, C)); panels of b (or pairs, see `packs_pairs`), group after group: (g, 9 g), K ordered (kh, kw, ci);
           panels(c next to proj: (O, M + C)), only c without a projection; where the step's Winograd flag is set
           (integer 13), panels of b's transformed weights: (36 g, g), group after group (winograd.py)
    head   panels(fc: (O, C)), nothing for O = 0
    conv   nothing
params (1-D, float32 always), sections at multiples of 16 elements, zero-filled up to the next:
    conv   for each group panels(w: (O / groups, k k C / groups)), K ordered (kh, kw, ci); bias (O)
    block  a bias (M), b bias (M), with SE w1 (S, M), b1 (S), w2 transposed (S, M), b2 (M); c bias + proj bias (O)
    head   bias (O), nothing for O = 0
For panels see panels.py. float64 blobs (both of them) exist for references and gradient checks; no kernel reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import winograd
from .activation import NAMES, activation_code
from .blobs import BlobNetwork, check_blobs, check_end, step_integers
from .panels import from_pairs, from_panels, packs_pairs, panel_elements, to_pairs, to_panels
from .steps import BlockStep, ConvStep, HeadStep, Step, channels, check_steps

VERSION = 3
CONV, BLOCK, HEAD = 0, 1, 2
WEIGHTS_ALIGN, PARAMS_ALIGN = 32, 16
PACKED_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


class StepSpec(NamedTuple):
    """The first 14 integers of a step, in the order in which the program holds them (two zeros follow)."""

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
    winograd: int = 0

    def weight_sections(self) -> list[tuple[int, int, int]]:
        """(G, O, K) of each panel section in the weights blob."""
        if self.kind == BLOCK:
            groups = self.c_mid // self.group_width
            sections = [(1, self.c_mid, self.c_in), (groups, self.group_width, 9 * self.group_width),
                        (1, self.c_out, self.c_mid + (self.c_in if self.has_proj else 0))]
            return [*sections, (groups * 36, self.group_width, self.group_width)] if self.winograd else sections
        return [(1, self.c_out, self.c_in)] if self.kind == HEAD and self.c_out else []

    def conv_section(self) -> tuple[int, int, int]:
        """(G, O, K) of a conv step's panels, which lie in the params blob."""
        groups = self.c_in // self.group_width
        return groups, self.c_out // groups, self.kernel**2 * self.group_width

    def param_sections(self) -> list[int]:
        """Element counts of the sections in the params blob."""
        if self.kind == CONV:
            return [panel_elements(*self.conv_section(), torch.float32), self.c_out]
        if self.kind == HEAD:
            return [self.c_out] if self.c_out else []
        matrix = self.se_width * self.c_mid
        se = [matrix, self.se_width, matrix, self.c_mid] if self.se_width else []
        return [self.c_mid, self.c_mid, *se, self.c_out]


class PackedNetwork(BlobNetwork):
    """A network packed for the CPU kernels; see BlobNetwork."""

    @property
    def specs(self) -> list[StepSpec]:
        return program_specs(self.program)

    def unpack(self) -> list[Step]:
        return unpack_network(self.weights, self.params, self.program)

    def _check(self) -> None:
        check_program(self.weights, self.params, self.program)


def pack_network(steps: Sequence[Step], dtype: torch.dtype = torch.float32, *, exact: bool = False) -> PackedNetwork:
    """Pack steps for computing in `dtype`: torch.float32 (also for float16 images) or torch.bfloat16.

    exact: leave out the Winograd form of the stride-1 3x3 convolutions; without it they may run about twice as fast, with
    two to three times the rounding error of a direct float32 convolution.
    The tensors may have any floating dtype; weights are rounded to `dtype`, everything in the params blob to float32.
    Differentiable with respect to the steps' tensors. Raises ValueError that names the step and tensor that do not fit.
    """
    steps = list(steps)
    if dtype not in PACKED_DTYPES:
        hint = "; float16 is computed as float32, so pack with dtype=torch.float32" if dtype == torch.float16 else ""
        raise ValueError(f"cannot pack for {dtype}; expected torch.float32 or torch.bfloat16{hint}")
    check_steps(steps)
    param_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    weights, params = _Blob(WEIGHTS_ALIGN, dtype), _Blob(PARAMS_ALIGN, param_dtype)
    program = [VERSION, len(steps)]
    for step in steps:
        spec = _spec(step, weights.size, params.size, dtype, exact)
        add = {CONV: _pack_conv, BLOCK: _pack_block, HEAD: _pack_head}[spec.kind]
        add(step, spec, weights, params)
        program += [*spec, 0, 0]
    device = _device_of(steps)
    return PackedNetwork(weights.join(device), params.join(device), program)


def unpack_network(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> list[Step]:
    """The steps of a program, read from its blobs by differentiable torch ops.

    Weights have the blob's dtype, biases and everything of a conv step float32. A projection comes back as (weight,
    None): its bias was added to c's. Activations come back by name. Raises ValueError on a malformed program.
    """
    read = {CONV: _unpack_conv, BLOCK: _unpack_block, HEAD: _unpack_head}
    return [read[spec.kind](spec, weights, params) for spec in program_specs(program)]


def program_specs(program: Sequence[int]) -> list[StepSpec]:
    """The steps' sizes. Raises ValueError when the program's length, version or kinds are not what version 3 says."""
    specs = [StepSpec(*step[:14]) for step in step_integers(program, VERSION, "this version of regnet_kernels")]
    for index, spec in enumerate(specs):
        if spec.kind not in (CONV, BLOCK, HEAD):
            raise ValueError(f"step {index} of the program has kind {spec.kind}; expected 0 (conv), 1 (block) or 2 (head)")
    return specs


def check_program(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> None:
    """Raises ValueError unless the blobs are 1-D, of fitting dtypes, on one device, and hold all that the program reads."""
    check_blobs(weights, params, PACKED_DTYPES)
    for index, spec in enumerate(program_specs(program)):
        _check_spec(spec, index)
        if weights.dtype == torch.bfloat16 and spec.kind != CONV and (spec.c_in % 2 or spec.group_width % 2):
            raise ValueError(f"step {index} has {spec.c_in} input channels and group width {spec.group_width}; bfloat16 weights are "
                             "packed in pairs and need even counts: pack with dtype=torch.float32")
        check_end(index, "weights", weights, _end(spec.weights_offset, _weight_sizes(spec, weights.dtype), WEIGHTS_ALIGN))
        check_end(index, "params", params, _end(spec.params_offset, spec.param_sections(), PARAMS_ALIGN))


def _check_spec(spec: StepSpec, index: int) -> None:
    if min(spec) < 0 or spec.c_in < 1 or spec.stride < 1 or spec.activation >= len(NAMES):
        raise ValueError(f"step {index} of the program is malformed: {spec}")
    divided = {CONV: spec.c_in, BLOCK: spec.c_mid, HEAD: 0}[spec.kind]
    if spec.kind != HEAD and (spec.group_width < 1 or divided % spec.group_width or spec.c_out < 1):
        raise ValueError(f"step {index} of the program: group width {spec.group_width} does not divide {divided}: {spec}")
    if spec.weights_offset % WEIGHTS_ALIGN or spec.params_offset % PARAMS_ALIGN:
        raise ValueError(f"step {index} of the program has unaligned offsets: {spec}")


class _Blob:
    """Sections, each zero-filled to the alignment, that become one tensor."""

    def __init__(self, align: int, dtype: torch.dtype):
        self.align, self.dtype, self.size, self.parts = align, dtype, 0, []

    def add(self, section: torch.Tensor) -> None:
        section = section.to(self.dtype).reshape(-1)
        fill = -section.numel() % self.align
        self.parts += [section, section.new_zeros(fill)]
        self.size += section.numel() + fill

    def add_panels(self, matrices: torch.Tensor, pairs: bool = False) -> None:
        self.add((to_pairs if pairs else to_panels)(matrices.to(self.dtype)))

    def join(self, device: torch.device) -> torch.Tensor:
        return torch.cat(self.parts) if self.parts else torch.zeros(0, dtype=self.dtype, device=device)


class _Reader:
    """Walks over the sections of one step in a blob."""

    def __init__(self, blob: torch.Tensor, offset: int, align: int):
        self.blob, self.offset, self.align = blob, offset, align

    def take(self, size: int) -> torch.Tensor:
        section = self.blob[self.offset:self.offset + size]
        self.offset += size + -size % self.align
        return section

    def take_panels(self, groups: int, rows: int, k: int, pairs: bool = False) -> torch.Tensor:
        section = self.take(panel_elements(groups, rows, k, self.blob.dtype))
        return (from_pairs if pairs else from_panels)(section, groups, rows, k)


def _spec(step: Step, weights_offset: int, params_offset: int, dtype: torch.dtype, exact: bool) -> StepSpec:
    c_in, c_out = channels(step)
    if isinstance(step, ConvStep):
        sizes = (CONV, c_in, 0, c_out, step.weight.shape[2], step.stride, step.padding, c_in // step.groups, 0, 0)
    elif isinstance(step, BlockStep):
        se_width = step.se[0].shape[0] if step.se is not None else 0
        sizes = (BLOCK, c_in, step.a[0].shape[0], c_out, 3, step.stride, 1, step.group_width, se_width, int(step.proj is not None))
    else:
        sizes = (HEAD, c_in, 0, c_out, 0, 1, 0, 0, 0, 0)
    activation = 0 if isinstance(step, HeadStep) else activation_code(step.activation)
    fast = isinstance(step, BlockStep) and not exact and winograd.suits(dtype, step.stride, step.group_width)
    return StepSpec(*sizes, activation, weights_offset, params_offset, int(fast))


def _pack_conv(step: ConvStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    params.add_panels(step.weight.permute(0, 2, 3, 1).reshape(spec.conv_section()))
    params.add(_bias(step.bias, step.weight, spec.c_out))


def _pack_block(step: BlockStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    (a, a_bias), (b, b_bias), (c, c_bias) = step.a, step.b, step.c
    c_matrix, c_bias = c.flatten(1), _bias(c_bias, c, spec.c_out)
    if step.proj is not None:
        proj, proj_bias = step.proj
        c_matrix = torch.cat([c_matrix, proj.flatten(1)], dim=1)
        c_bias = c_bias + _bias(proj_bias, proj, spec.c_out)
    section_b = spec.weight_sections()[1]
    weights.add_panels(a.flatten(1)[None])
    weights.add_panels(b.permute(0, 2, 3, 1).reshape(section_b), packs_pairs(spec.group_width))
    weights.add_panels(c_matrix[None])
    if spec.winograd:
        weights.add_panels(winograd.transform_weights(b))
    params.add(_bias(a_bias, a, spec.c_mid))
    params.add(_bias(b_bias, b, spec.c_mid))
    if step.se is not None:
        w1, b1, w2, b2 = step.se
        for section in (w1.flatten(1), b1, w2.flatten(1).t(), b2):
            params.add(section)
    params.add(c_bias)


def _pack_head(step: HeadStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    if step.weight is not None:
        weights.add_panels(step.weight[None])
        params.add(_bias(step.bias, step.weight, spec.c_out))


def _unpack_conv(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> ConvStep:
    reader = _Reader(params, spec.params_offset, PARAMS_ALIGN)
    groups = spec.c_in // spec.group_width
    matrix = reader.take_panels(*spec.conv_section())
    weight = matrix.reshape(spec.c_out, spec.kernel, spec.kernel, spec.group_width).permute(0, 3, 1, 2)
    return ConvStep(weight, reader.take(spec.c_out), spec.stride, spec.padding, groups, NAMES[spec.activation])


def _unpack_block(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> BlockStep:
    read_weights = _Reader(weights, spec.weights_offset, WEIGHTS_ALIGN)
    read_params = _Reader(params, spec.params_offset, PARAMS_ALIGN)
    section_a, section_b, section_c = spec.weight_sections()[:3]
    a = read_weights.take_panels(*section_a)
    b = read_weights.take_panels(*section_b, packs_pairs(spec.group_width))
    c = read_weights.take_panels(*section_c)
    a = a.reshape(spec.c_mid, spec.c_in, 1, 1)
    b = b.reshape(spec.c_mid, 3, 3, spec.group_width).permute(0, 3, 1, 2)
    proj = (c[0, :, spec.c_mid:].reshape(spec.c_out, spec.c_in, 1, 1), None) if spec.has_proj else None
    c = c[0, :, :spec.c_mid].reshape(spec.c_out, spec.c_mid, 1, 1)
    a_bias, b_bias, *se, c_bias = [read_params.take(size) for size in spec.param_sections()]
    if se:
        w1, b1, w2, b2 = se
        se = (w1.reshape(spec.se_width, spec.c_mid), b1, w2.reshape(spec.se_width, spec.c_mid).t(), b2)
    return BlockStep((a, a_bias), (b, b_bias), (c, c_bias), proj, se or None, spec.stride, spec.group_width, NAMES[spec.activation])


def _unpack_head(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> HeadStep:
    if not spec.c_out:
        return HeadStep(None, None, spec.c_in)
    weight = _Reader(weights, spec.weights_offset, WEIGHTS_ALIGN).take_panels(1, spec.c_out, spec.c_in)[0]
    return HeadStep(weight, _Reader(params, spec.params_offset, PARAMS_ALIGN).take(spec.c_out), spec.c_in)


def _bias(bias: torch.Tensor | None, weight: torch.Tensor, size: int) -> torch.Tensor:
    return weight.new_zeros(size) if bias is None else bias


def _device_of(steps: list[Step]) -> torch.device:
    for step in steps:
        weight = step.a[0] if isinstance(step, BlockStep) else step.weight
        if weight is not None:
            return weight.device
    return torch.device("cpu")


def _weight_sizes(spec: StepSpec, dtype: torch.dtype) -> list[int]:
    return [panel_elements(*section, dtype) for section in spec.weight_sections()]


def _end(offset: int, sizes: list[int], align: int) -> int:
    return offset + sum(size + -size % align for size in sizes)

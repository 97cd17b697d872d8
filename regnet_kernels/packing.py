"""Packs the steps of a network into two blobs and a program of integers, the form that the `network` op reads.

Format, version 7. program = [1, number of steps] and 16 integers a step, see `StepSpec`; offsets count elements and are
absolute, so any contiguous run of steps with the same blobs is a program too (`PackedNetwork.slice`).

weights (1-D, float32 or bfloat16), each section starts at a multiple of 32 elements, zero-filled up to the next:
    block  panels(a: (M, C)); of b, run after run of its groups (interleave.py), panels of T groups together: (T g, 9 g), K ordered
           (kh, kw, ci), or pairs of a single group (see `packs_pairs`); panels(c next to proj: (O, M + C)), only c without a projection;
           where integer 13 is 2, of b once more, for T groups together panels of the 16 matrices (T g, g) of winograd.py
    head   panels(fc: (O, C)), nothing for O = 0
    conv   nothing
params (1-D, float32 always), sections at multiples of 16 elements, zero-filled up to the next:
    conv   for each group panels(w: (O / groups, k k C / groups)), K ordered (kh, kw, ci); bias (O)
    block  a bias (M), b bias (M), with SE w1 (S, M), b1 (S), w2 transposed (S, M), b2 (M); c bias + proj bias (O);
           where integer 14 is 1, pair sums of a (M) and their magnitude (1); those of c (O), (1), with a projection those of proj
           (O), (1) behind them; see pairs.py
    head   bias (O), nothing for O = 0
Of a block's inner channels, M, everything is in the order of interleave.py: rows of a and its bias in that of the 3x3's input (in
bfloat16 pairs of channels), all else in that of its output. For panels see panels.py. float64 blobs (both of them) exist for references and gradient checks; no kernel reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from . import winograd
from .activation import NAMES, activation_code
from .blobs import BlobNetwork, check_blobs, check_end, step_integers
from .interleave import GroupRun, channel_order, group_runs, interleave, interleaved, inverse, separated
from .memory import empty, trim
from .pairs import magnitude, pair_sums, square_sum
from .panels import LANES, from_pairs, from_panels, packs_pairs, panel_elements, to_pairs, to_panels, word_of
from .steps import BlockStep, ConvStep, HeadStep, Step, Weight, channels, check_steps, rows_of, scaled_weights

VERSION = 7
CONV, BLOCK, HEAD = 0, 1, 2
WEIGHTS_ALIGN, PARAMS_ALIGN = 32, 16
PACKED_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
AT_A_TIME = 1 << 16  # elements of a weight that are folded and packed together: they stay in the caches


class StepSpec(NamedTuple):
    """The first 15 integers of a step, in the order in which the program holds them (a zero follows)."""

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
    winograd: int = 0  # may the 3x3 go by Winograd: 1 in float32, 2 in bfloat16, with weights of its own
    pairs: int = 0  # 1: the 1x1's may go by pairs, in float32

    def weight_sections(self) -> list[tuple[int, int, int]]:
        """(G, O, K) of each panel section in the weights blob."""
        if self.kind == BLOCK:
            groups = self.c_mid // self.group_width
            transformed = [(16 * groups, self.group_width, self.group_width)] if self.winograd == 2 else []
            return [(1, self.c_mid, self.c_in), (groups, self.group_width, 9 * self.group_width),
                    (1, self.c_out, self.c_mid + (self.c_in if self.has_proj else 0)), *transformed]
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
        pairs = [self.c_mid + 1, (self.c_out + 1) * (2 if self.has_proj else 1)] if self.pairs else []
        return [self.c_mid, self.c_mid, *([matrix, self.se_width, matrix, self.c_mid] if self.se_width else []), self.c_out, *pairs]

    def group_runs(self) -> list[GroupRun]:
        """Of a block's 3x3."""
        return group_runs(self.c_mid // self.group_width, self.group_width)

    def channel_order(self, word: int = 1) -> torch.Tensor:
        """The inner channel at each position of a block's maps."""
        return channel_order(self.c_mid // self.group_width, self.group_width, word)


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

    exact: compute every convolution directly. Otherwise 1x1's may go by pairs in float32 (pairs.py), and grouped ones of stride 1, in float32 also
    of stride 2, by Winograd. Of stride 1 that
    is up to twice as fast, with two to three times the rounding error of a direct float32 convolution, 1.4 times that of one in bfloat16,
    where they are packed for it as well.
    The tensors may have any floating dtype; weights are rounded to `dtype`, everything in the params blob to float32.
    Differentiable with respect to the steps' tensors. Raises ValueError that names the step and tensor that do not fit.
    """
    steps = list(steps)
    specs = plan_specs(steps, dtype, exact)
    param_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    device, ends = _device_of(steps), _ends(specs[-1], dtype)
    weights, params = _Blob(WEIGHTS_ALIGN, dtype, ends[0], device), _Blob(PARAMS_ALIGN, param_dtype, ends[1], device)
    program = [VERSION, len(steps)]
    for step, spec in zip(steps, specs):
        add = {CONV: _pack_conv, BLOCK: _pack_block, HEAD: _pack_head}[spec.kind]
        add(step, spec, weights, params)
        program += [*spec, 0]
        if any(weight.once for weight in scaled_weights(step)):
            trim()  # of what they were made from
    return PackedNetwork(weights.values, params.values, program)


def plan_specs(steps: list[Step], dtype: torch.dtype, exact: bool = False) -> list[StepSpec]:
    """The sizes of the steps as `pack_network` packs them. Computes no weight; raises what `pack_network` would raise."""
    if dtype not in PACKED_DTYPES:
        hint = "; float16 is computed as float32, so pack with dtype=torch.float32" if dtype == torch.float16 else ""
        raise ValueError(f"cannot pack for {dtype}; expected torch.float32 or torch.bfloat16{hint}")
    check_steps(steps)
    specs, ends = [], [0, 0]
    for index, step in enumerate(steps):
        specs.append(_spec(step, *ends, dtype, exact))
        _check_spec(specs[-1], index, dtype)
        ends = _ends(specs[-1], dtype)
    return specs


def unpack_network(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> list[Step]:
    """The steps of a program, read from its blobs by differentiable torch ops.

    Weights have the blob's dtype, biases and everything of a conv step float32. A projection comes back as (weight,
    None): its bias was added to c's. Activations come back by name. Raises ValueError on a malformed program.
    """
    read = {CONV: _unpack_conv, BLOCK: _unpack_block, HEAD: _unpack_head}
    return [read[spec.kind](spec, weights, params) for spec in program_specs(program)]


def program_specs(program: Sequence[int]) -> list[StepSpec]:
    """The steps' sizes. Raises ValueError when the program's length, version or kinds are not what version 7 says."""
    specs = [StepSpec(*step[:15]) for step in step_integers(program, VERSION, "this version of regnet_kernels")]
    for index, spec in enumerate(specs):
        if spec.kind not in (CONV, BLOCK, HEAD):
            raise ValueError(f"step {index} of the program has kind {spec.kind}; expected 0 (conv), 1 (block) or 2 (head)")
    return specs


def check_program(weights: torch.Tensor, params: torch.Tensor, program: Sequence[int]) -> None:
    """Raises ValueError unless the blobs are 1-D, of fitting dtypes, on one device, and hold all that the program reads."""
    check_blobs(weights, params, PACKED_DTYPES)
    for index, spec in enumerate(program_specs(program)):
        _check_spec(spec, index, weights.dtype)
        for name, blob, end in zip(("weights", "params"), (weights, params), _ends(spec, weights.dtype)):
            check_end(index, name, blob, end)


def _check_spec(spec: StepSpec, index: int, dtype: torch.dtype) -> None:
    if min(spec) < 0 or spec.c_in < 1 or spec.stride < 1 or spec.activation >= len(NAMES):
        raise ValueError(f"step {index} of the program is malformed: {spec}")
    divided = {CONV: spec.c_in, BLOCK: spec.c_mid, HEAD: 0}[spec.kind]
    if spec.kind != HEAD and (spec.group_width < 1 or divided % spec.group_width or spec.c_out < 1):
        raise ValueError(f"step {index} of the program: group width {spec.group_width} does not divide {divided}: {spec}")
    if spec.weights_offset % WEIGHTS_ALIGN or spec.params_offset % PARAMS_ALIGN:
        raise ValueError(f"step {index} of the program has unaligned offsets: {spec}")
    if dtype == torch.bfloat16 and spec.kind != CONV and (spec.c_in % 2 or spec.group_width % 2):
        raise ValueError(f"step {index} has {spec.c_in} input channels and group width {spec.group_width}; bfloat16 weights are "
                         "packed in pairs and need even counts: pack with dtype=torch.float32")


class _Blob:
    """One tensor of `size` elements, filled section by section, each zero-filled to the alignment."""

    def __init__(self, align: int, dtype: torch.dtype, size: int, device: torch.device):
        self.align, self.at, self.values = align, 0, empty(size, dtype, device)

    def _room(self, size: int) -> torch.Tensor:
        start, end = self.at, self.at + size
        self.at = end + -size % self.align
        self.values[end:self.at].zero_()
        return self.values[start:end]

    def add(self, section: torch.Tensor) -> None:
        self._room(section.numel()).view(section.shape).copy_(section)

    def add_panels(self, section: tuple[int, int, int], make: Callable[[int, int], torch.Tensor], pairs: bool = False, unit: int = 1,
                   by_rows: bool = False, seen: Callable[[torch.Tensor], None] | None = None) -> None:
        """The panels of a (G, O, K) matrix stack. `make(start, stop)` gives some of its matrices, (stop - start, O, K), or `by_rows`
        some rows of the only one, (1, stop - start, K): AT_A_TIME elements or so in each call, whole `unit`s of them, in order. `seen` is told each
        of these, as it is packed."""
        groups, rows, k = section
        room, at = self._room(panel_elements(groups, rows, k, self.values.dtype)), 0
        count, unit, each = (rows, math.lcm(LANES, unit), k) if by_rows else (groups, unit, rows * k)
        together = max(1, AT_A_TIME // (each * unit)) * unit
        for start in range(0, count, together):
            matrices = make(start, min(start + together, count)).to(self.values.dtype)
            size = panel_elements(*matrices.shape, matrices.dtype)
            (to_pairs if pairs else to_panels)(matrices, room[at:at + size])
            if seen is not None:
                seen(matrices)
            at += size


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
    pairs = isinstance(step, BlockStep) and not exact and dtype == torch.float32
    return StepSpec(*sizes, activation, weights_offset, params_offset, (2 if dtype == torch.bfloat16 else 1) if fast else 0, int(pairs))


def _pack_conv(step: ConvStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    _add_grouped(params, step.weight, spec.conv_section())
    params.add(_bias(step.bias, params, spec.c_out))


def _pack_block(step: BlockStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    (a, a_bias), (b, b_bias), (c, c_bias) = step.a, step.b, step.c
    c_bias, shortcut = _bias(c_bias, params, spec.c_out), []
    if step.proj is not None:
        shortcut = [step.proj[0]]
        c_bias = c_bias + _bias(step.proj[1], params, spec.c_out)
    section_a, _, section_c, *_ = spec.weight_sections()
    order_in = spec.channel_order(word_of(weights.values.dtype)).to(weights.values.device)
    order = spec.channel_order().to(weights.values.device)
    pairs_a = _add_dense(weights, section_a, a, rows=order_in, unit=spec.group_width * interleave(spec.group_width), pairs=spec.pairs)
    b = rows_of(b) if spec.winograd == 2 else b  # which reads it twice
    _add_runs(weights, b, spec)
    pairs_c = _add_dense(weights, section_c, c, *shortcut, columns=order, pairs=spec.pairs)
    if spec.winograd == 2:
        _add_winograd_runs(weights, b, spec)
    params.add(_bias(a_bias, params, spec.c_mid)[order_in])
    params.add(_bias(b_bias, params, spec.c_mid)[order])
    if step.se is not None:
        w1, b1, w2, b2 = step.se
        for section in (rows_of(w1).flatten(1)[:, order], b1, rows_of(w2).flatten(1).t()[:, order], b2[order]):
            params.add(section)
    params.add(c_bias)
    if spec.pairs:
        params.add(pairs_a())
        params.add(pairs_c())


def _pack_head(step: HeadStep, spec: StepSpec, weights: _Blob, params: _Blob) -> None:
    if step.weight is not None:
        _add_dense(weights, (1, spec.c_out, spec.c_in), step.weight)
        params.add(_bias(step.bias, params, spec.c_out))


def _add_dense(blob: _Blob, section: tuple[int, int, int], *matrices: Weight, rows: torch.Tensor | None = None, unit: int = 1,
               columns: torch.Tensor | None = None, pairs: bool = False) -> Callable[[], torch.Tensor]:
    """The panels of one matrix, whose columns are those of `matrices` side by side. rows, columns: in this order, that of the rows within
    each `unit` of them, that of the columns within the first matrix. pairs: the function that is returned gives the section of sums."""
    widths = [math.prod(matrix.shape[1:]) for matrix in matrices]
    # of each matrix the pair sums of its rows and the sum of all squares; a place for all at once, as small pieces among the freed parts of large
    # weights would keep these from the system
    found = torch.empty(len(matrices), section[1] + 1, dtype=torch.float64)
    found[:, -1] = 0
    ready = 0

    def seen(joint: torch.Tensor) -> None:
        nonlocal ready
        count = joint.shape[1]
        for sums, matrix in zip(found, joint[0].split(widths, dim=1)):
            sums[ready:ready + count] = pair_sums(matrix)
            sums[-1] += square_sum(matrix)
        ready += count

    def make(start: int, stop: int) -> torch.Tensor:
        parts = [rows_of(matrix, start, stop).flatten(1) for matrix in matrices]
        if rows is not None:
            parts = [part[rows[start:stop] - start] for part in parts]
        if columns is not None:
            parts[0] = parts[0][:, columns]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))[None]

    blob.add_panels(section, make, unit=unit, by_rows=True, seen=seen if pairs else None)

    def section_of_sums() -> torch.Tensor:
        for sums, width in zip(found, widths):
            sums[-1] = magnitude(float(sums[-1]) / (section[1] * width))
        return found.flatten()

    return section_of_sums


def _add_runs(blob: _Blob, weight: Weight, spec: StepSpec) -> None:
    """A block's 3x3 weight (M, g, 3, 3), run after run of its groups."""
    width, k = spec.group_width, 9 * spec.group_width
    for together, first, count in spec.group_runs():
        def make(start: int, stop: int) -> torch.Tensor:
            at = [(first + group * together) * width for group in (start, stop)]
            return interleaved(rows_of(weight, *at).permute(0, 2, 3, 1).reshape(-1, width, k), together)

        blob.add_panels((count, together * width, k), make, pairs=together == 1 and packs_pairs(width))


def _add_winograd_runs(blob: _Blob, weight: torch.Tensor, spec: StepSpec) -> None:
    """The same in Winograd's form, 16 matrices for groups that are together."""
    width = spec.group_width
    for together, first, count in spec.group_runs():
        def make(start: int, stop: int) -> torch.Tensor:
            at = [(first + matrix // 16 * together) * width for matrix in (start, stop)]
            return winograd.transform_weights(weight[slice(*at)], together)

        blob.add_panels((count * 16, together * width, width), make, unit=16)


def _add_grouped(blob: _Blob, weight: Weight, section: tuple[int, int, int]) -> None:
    """The panels of a conv step's weight (O, C / groups, k, k), K ordered (kh, kw, ci)."""
    groups, rows, k = section
    def make(start: int, stop: int) -> torch.Tensor:
        each = 1 if groups == 1 else rows
        part = rows_of(weight, start * each, stop * each).permute(0, 2, 3, 1)
        return part.reshape(-1, rows, k) if groups > 1 else part.reshape(1, -1, k)

    blob.add_panels(section, make, by_rows=groups == 1)


def _unpack_conv(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> ConvStep:
    reader = _Reader(params, spec.params_offset, PARAMS_ALIGN)
    groups = spec.c_in // spec.group_width
    matrix = reader.take_panels(*spec.conv_section())
    weight = matrix.reshape(spec.c_out, spec.kernel, spec.kernel, spec.group_width).permute(0, 3, 1, 2)
    return ConvStep(weight, reader.take(spec.c_out), spec.stride, spec.padding, groups, NAMES[spec.activation])


def _unpack_block(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> BlockStep:
    read_weights = _Reader(weights, spec.weights_offset, WEIGHTS_ALIGN)
    read_params = _Reader(params, spec.params_offset, PARAMS_ALIGN)
    section_a, _, section_c, *_ = spec.weight_sections()
    at_in = inverse(spec.channel_order(word_of(weights.dtype))).to(weights.device)
    at = inverse(spec.channel_order()).to(weights.device)
    a = read_weights.take_panels(*section_a)[0, at_in].reshape(spec.c_mid, spec.c_in, 1, 1)
    b = _unpack_runs(read_weights, spec)
    c = read_weights.take_panels(*section_c)[0]
    proj = (c[:, spec.c_mid:].reshape(spec.c_out, spec.c_in, 1, 1), None) if spec.has_proj else None
    c = c[:, :spec.c_mid][:, at].reshape(spec.c_out, spec.c_mid, 1, 1)
    a_bias, b_bias, *se, c_bias = [read_params.take(size) for size in spec.param_sections()[:7 if spec.se_width else 3]]
    a_bias, b_bias = a_bias[at_in], b_bias[at]
    if se:
        w1, b1, w2, b2 = se
        se = (w1.reshape(spec.se_width, spec.c_mid)[:, at], b1, w2.reshape(spec.se_width, spec.c_mid)[:, at].t(), b2[at])
    return BlockStep((a, a_bias), (b, b_bias), (c, c_bias), proj, se or None, spec.stride, spec.group_width, NAMES[spec.activation])


def _unpack_runs(reader: _Reader, spec: StepSpec) -> torch.Tensor:
    width, k, parts = spec.group_width, 9 * spec.group_width, []
    for together, _, count in spec.group_runs():
        matrices = reader.take_panels(count, together * width, k, together == 1 and packs_pairs(width))
        parts.append(separated(matrices, together).reshape(-1, 3, 3, width))
    return torch.cat(parts).permute(0, 3, 1, 2)


def _unpack_head(spec: StepSpec, weights: torch.Tensor, params: torch.Tensor) -> HeadStep:
    if not spec.c_out:
        return HeadStep(None, None, spec.c_in)
    weight = _Reader(weights, spec.weights_offset, WEIGHTS_ALIGN).take_panels(1, spec.c_out, spec.c_in)[0]
    return HeadStep(weight, _Reader(params, spec.params_offset, PARAMS_ALIGN).take(spec.c_out), spec.c_in)


def _bias(bias: torch.Tensor | None, blob: _Blob, size: int) -> torch.Tensor:
    return blob.values.new_zeros(size) if bias is None else bias


def _device_of(steps: list[Step]) -> torch.device:
    for step in steps:
        weight = step.a[0] if isinstance(step, BlockStep) else step.weight
        if weight is not None:
            return weight.device
    return torch.device("cpu")


def _weight_sizes(spec: StepSpec, dtype: torch.dtype) -> list[int]:
    return [panel_elements(*section, dtype) for section in spec.weight_sections()]


def _ends(spec: StepSpec, dtype: torch.dtype) -> list[int]:
    """Where its sections end in the weights and in the params, each filled up."""
    weights = sum(size + -size % WEIGHTS_ALIGN for size in _weight_sizes(spec, dtype))
    params = sum(size + -size % PARAMS_ALIGN for size in spec.param_sections())
    return [spec.weights_offset + weights, spec.params_offset + params]

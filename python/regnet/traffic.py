"""What a network moves through a GPU's memory on three paths, and the time below which none of them can go.

    ours       the launches of regnet_kernels' GPU backend: each activation written once, read once by each launch that needs it
    eager      PyTorch, channels_last: every convolution, BatchNorm, activation, addition passes over memory by itself
    inductor   torch.compile: convolutions by the library, everything between two of them in one pass

Bytes are those of tensors that no cache holds, so the figures are floors: exact in the limit of large batches, generous where
a map fits into the L2 cache, as at batch 1. The floor in ms is the sum over passes of the slower of its bytes at the card's
bandwidth and its flops at the card's peak, both from datasheets (CARDS). Nothing here was measured.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from regnet_kernels import BlockStep, ConvStep, HeadStep, PlainNetwork, fusion_estimate, pack_plain
from regnet_kernels.packing import BLOCK, CONV

from regnet.models.config import AnyNetConfig, RegNetConfig
from regnet.models.registry import model_config

PATHS = ("ours", "inductor", "eager")


class Card(NamedTuple):
    """bandwidth: GB/s of device memory; peak: TFLOP/s, 16-bit, dense, float32 accumulation; arch, multiprocessors: what the choice
    between fused and separate layers needs, "" if unknown."""

    name: str
    bandwidth: float
    peak: float
    source: str
    arch: str = ""
    multiprocessors: int = 0


CARDS = (
    Card("A100", 2039, 312, "NVIDIA A100 datasheet, SXM 80 GB", "sm_80", 108),
    Card("H100", 3352, 989.4, "NVIDIA H100 datasheet, SXM 80 GB (peak without sparsity)", "sm_90", 132),
    Card("H200", 4800, 989.4, "NVIDIA H200 datasheet, SXM 141 GB (peak without sparsity)", "sm_90", 132),
    Card("RTX 4090", 1008, 165.2, "NVIDIA Ada architecture white paper, GeForce RTX 4090", "sm_89", 128),
)


class Pass(NamedTuple):
    """One pass over memory: elements read and written (weights among the reads), multiply-adds."""

    read: int
    written: int
    macs: int = 0


@dataclass(frozen=True)
class Traffic:
    """All passes of one path. bytes, flops (2 a multiply-add): of the whole batch; launches: how many passes."""

    passes: tuple[Pass, ...]
    itemsize: int

    @property
    def bytes(self) -> int:
        return sum(one.read + one.written for one in self.passes) * self.itemsize

    @property
    def flops(self) -> int:
        return 2 * sum(one.macs for one in self.passes)

    @property
    def launches(self) -> int:
        return len(self.passes)

    def floor_ms(self, card: Card) -> float:
        return 1e3 * sum(max((one.read + one.written) * self.itemsize / (card.bandwidth * 1e9), 2 * one.macs / (card.peak * 1e12))
                         for one in self.passes)


def traffic(model: str | AnyNetConfig | RegNetConfig, batch: int, path: str = "ours", *, resolution: int = 224,
            dtype: torch.dtype = torch.float16, card: Card | None = None) -> Traffic:
    """The traffic of a forward pass. model: a name or a configuration of X, Y or R blocks; path: one of PATHS; card: count a block's
    1x1 and grouped 3x3 as one launch where "ours" fuses them on this card by its cost model, with what it computes twice.

    Raises ValueError for another path; what `plain_network` raises for a model without a GPU form.
    """
    if path not in PATHS:
        raise ValueError(f"path {path!r} is unknown; use one of {', '.join(map(repr, PATHS))}")
    passes, pixels = [], batch * resolution * resolution
    side = resolution
    for spec in _steps(model):
        if spec.kind == CONV:
            out = (side + 2 * spec.padding - spec.kernel) // spec.stride + 1
            conv = Pass(pixels * spec.c_in + spec.kernel**2 * spec.c_in * spec.c_out, batch * out * out * spec.c_out,
                        batch * out * out * spec.c_out * spec.kernel**2 * spec.c_in)
            passes += _convolution(conv, path)
            side = out
        elif spec.kind == BLOCK:
            out = (side - 1) // spec.stride + 1
            passes += _block(spec, batch * side * side, batch * out * out, batch, path, _fused(spec, batch, side, dtype, card))
            side = out
        else:
            passes += [Pass(pixels * spec.c_in, batch * spec.c_in),
                       Pass((batch + spec.c_out) * spec.c_in, batch * spec.c_out, batch * spec.c_in * spec.c_out)]
        pixels = batch * side * side
    return Traffic(tuple(passes), dtype.itemsize)


def block_traffic(spec, batch: int, side: int, path: str = "ours", *, dtype: torch.dtype = torch.float16) -> Traffic:
    """The traffic of one block on maps of side x side. spec: of `plain_network(model).specs`; path: one of PATHS."""
    out = (side - 1) // spec.stride + 1
    return Traffic(tuple(_block(spec, batch * side * side, batch * out * out, batch, path)), dtype.itemsize)


def _convolution(conv: Pass, path: str) -> list[Pass]:
    """A convolution with BatchNorm and activation."""
    again = Pass(conv.written, conv.written)
    return [conv] + {"ours": [], "inductor": [again], "eager": [again, again]}[path]


def _fused(spec, batch: int, side: int, dtype: torch.dtype, card: Card | None) -> int:
    """The multiply-adds of a block's 1x1 and grouped 3x3 in one kernel, 0 where they are two."""
    if card is None or not card.arch or not batch:
        return 0
    found = fusion_estimate(card.arch, card.multiprocessors, dtype, batch, side, side, spec)
    return found.fused.flops // 2 if found is not None and found.gains else 0


def _block(spec, pixels: int, pixels_out: int, batch: int, path: str, fused_macs: int = 0) -> list[Pass]:
    c, m, o, se = spec.c_in, spec.c_mid, spec.c_out, spec.se_width
    inner, inner_out, result = pixels * m, pixels_out * m, pixels_out * o
    passes = _convolution(Pass(pixels * c + c * m, inner, pixels * c * m), path)
    passes += _convolution(Pass(inner + 9 * spec.group_width * m, inner_out, inner_out * 9 * spec.group_width), path)
    if path == "ours" and fused_macs:
        passes = [Pass(pixels * c + c * m + 9 * spec.group_width * m, inner_out, fused_macs)]
    if se:
        squeeze = Pass(2 * se * m + batch * m, batch * m, 2 * batch * se * m)
        # inductor makes the means while it normalises; the product with the gate stands before a library convolution
        pool = [Pass(inner_out, batch * m)] if path == "eager" else []
        passes += pool + [squeeze] + ([] if path == "ours" else [Pass(inner_out + batch * m, inner_out)])
    last = Pass(inner_out + m * o, result, inner_out * o)
    projection = Pass(pixels_out * c + c * o, result, pixels_out * c * o) if spec.has_proj else None
    if path == "ours":
        shortcut = projection.read if projection else result
        return [*passes, Pass(last.read + shortcut, result, last.macs + (projection.macs if projection else 0))]
    passes += [last] + ([projection] if projection else [])
    if path == "inductor":  # both BatchNorms, the sum and the activation
        return [*passes, Pass(2 * result, result)]
    norms = [Pass(result, result)] * (2 if projection else 1)
    return [*passes, *norms, Pass(2 * result, result), Pass(result, result)]


@cache
def _steps(model: str | AnyNetConfig | RegNetConfig) -> tuple:
    return plain_network(model).specs


def plain_network(model: str | AnyNetConfig | RegNetConfig, dtype: torch.dtype = torch.float16) -> PlainNetwork:
    """The steps of a model as they are packed for a GPU, with weights on the meta device. Raises ValueError for blocks other
    than X and R and for a ResNet stem."""
    config = model_config(model) if isinstance(model, str) else model
    config = config.to_anynet() if isinstance(config, RegNetConfig) else config
    if config.block_type not in ("X", "R") or config.stem_type != "simple":
        raise ValueError(f"blocks {config.block_type!r} with stem {config.stem_type!r}; fused kernels exist for X, Y and R blocks and "
                         "the simple stem")

    def new(*shape):
        return torch.empty(shape, device="meta", dtype=dtype)

    steps = [ConvStep(new(config.stem_width, config.in_chans, 3, 3), new(config.stem_width), 2, 1, 1, config.activation)]
    for spec in config.blocks():
        m, s = spec.w_inner, spec.se_width
        steps.append(BlockStep(
            (new(m, spec.w_in, 1, 1), new(m)), (new(m, spec.group_width, 3, 3), new(m)), (new(spec.w_out, m, 1, 1), new(spec.w_out)),
            (new(spec.w_out, spec.w_in, 1, 1), new(spec.w_out)) if spec.has_proj else None,
            (new(s, m), new(s), new(m, s), new(m)) if s else None, spec.stride, spec.group_width, config.activation))
    head = new(config.num_classes, config.widths[-1]) if config.num_classes else None
    steps.append(HeadStep(head, None if head is None else new(config.num_classes), config.widths[-1]))
    return pack_plain(steps, dtype)

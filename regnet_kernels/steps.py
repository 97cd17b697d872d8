"""The steps of a packed network as folded, plain tensors: what `pack_network` takes and `unpack_network` gives back.

Letters: C input channels, O output channels, M inner width of a block, g group width, S squeeze width, k kernel side.
"Folded" means that the BatchNorm's scale is in the weight and its shift is in the bias. A bias may be None for zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .activation import activation_code

Pair = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class ConvStep:
    """y = act(conv(x) + bias). weight: (O, C/groups, k, k), bias: (O,). Computed in float32: meant for the stem."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    activation: str | int = "none"


@dataclass(frozen=True, eq=False)
class BlockStep:
    """A bottleneck: 1x1 (a), grouped 3x3 with the stride (b), optional squeeze-excite, 1x1 (c), plus x or proj(x).

    a: (M, C, 1, 1) and (M,); b: (M, g, 3, 3) and (M,); c: (O, M, 1, 1) and (O,); proj: (O, C, 1, 1) and (O,), or None
    for the identity (then C == O and stride == 1); se: w1 (S, M), b1 (S,), w2 (M, S), b2 (M,), or None. The activation
    follows a, b and the sum.
    """

    a: Pair
    b: Pair
    c: Pair
    proj: Pair | None = None
    se: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    stride: int = 1
    group_width: int = 1
    activation: str | int = "relu"


@dataclass(frozen=True, eq=False)
class HeadStep:
    """Global average pool and a fully connected layer: weight (O, C), bias (O,). weight None: pool and flatten only."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    c_in: int | None = None


Step = ConvStep | BlockStep | HeadStep


def channels(step: Step) -> tuple[int, int]:
    """(input channels, output channels); a head without weights puts out 0 classes."""
    if isinstance(step, ConvStep):
        return step.weight.shape[1] * step.groups, step.weight.shape[0]
    if isinstance(step, BlockStep):
        return step.a[0].shape[1], step.c[0].shape[0]
    return (step.c_in, 0) if step.weight is None else (step.weight.shape[1], step.weight.shape[0])


def check_steps(steps: list[Step]) -> None:
    """Raises ValueError or TypeError that names the first step and tensor that do not fit."""
    if not steps:
        raise ValueError("a network needs at least one step, got none")
    previous = None
    for index, step in enumerate(steps):
        where = f"step {index} ({type(step).__name__})"
        if isinstance(step, ConvStep):
            _check_conv(step, where)
        elif isinstance(step, BlockStep):
            _check_block(step, where)
        elif isinstance(step, HeadStep):
            _check_head(step, where, last=index == len(steps) - 1)
        else:
            raise TypeError(f"step {index} is a {type(step).__name__}; expected ConvStep, BlockStep or HeadStep")
        c_in, c_out = channels(step)
        if previous is not None and c_in != previous:
            raise ValueError(f"{where} takes {c_in} channels, but the step before gives {previous}")
        previous = c_out


def _check_conv(step: ConvStep, where: str) -> None:
    _expect(step.weight, where, "weight", 4)
    out, _, kh, kw = step.weight.shape
    if kh != kw:
        raise ValueError(f"{where}: the kernel is {kh}x{kw}; packed convolutions are square")
    if step.groups < 1 or out % step.groups:
        raise ValueError(f"{where}: groups={step.groups} does not divide the {out} output channels")
    if step.stride < 1 or step.padding < 0:
        raise ValueError(f"{where}: stride={step.stride}, padding={step.padding}; expected stride >= 1, padding >= 0")
    activation_code(step.activation)
    _expect_bias(step.bias, where, "bias", out)


def _check_block(step: BlockStep, where: str) -> None:
    mid, c_in = _pointwise(step.a, where, "a")
    c_out, _ = _pointwise(step.c, where, "c", c_in=mid)
    width = step.group_width
    if width < 1 or mid % width:
        raise ValueError(f"{where}: group_width {width} does not divide the bottleneck width {mid}")
    _expect(step.b[0], where, "b's weight", 4)
    if tuple(step.b[0].shape) != (mid, width, 3, 3):
        raise ValueError(f"{where}: b's weight is {tuple(step.b[0].shape)}; expected {(mid, width, 3, 3)}")
    _expect_bias(step.b[1], where, "b's bias", mid)
    if step.stride < 1:
        raise ValueError(f"{where}: stride={step.stride}; expected >= 1")
    if step.proj is not None:
        _pointwise(step.proj, where, "proj", c_in=c_in, c_out=c_out)
    elif c_in != c_out or step.stride != 1:
        raise ValueError(f"{where}: without a projection the shortcut is x itself, so C == O and stride 1 are needed; "
                         f"got C={c_in}, O={c_out}, stride={step.stride}; give proj=(weight, bias)")
    if step.se is not None:
        _check_se(step.se, mid, where)
    activation_code(step.activation)


def _check_se(se: tuple, mid: int, where: str) -> None:
    if len(se) != 4:
        raise ValueError(f"{where}: se holds {len(se)} tensors; expected (w1, b1, w2, b2)")
    squeeze = se[0].shape[0]
    for name, tensor, shape in zip(("w1", "b1", "w2", "b2"), se, ((squeeze, mid), (squeeze,), (mid, squeeze), (mid,))):
        if tuple(tensor.shape) not in (shape, (*shape, 1, 1)):
            raise ValueError(f"{where}: se's {name} is {tuple(tensor.shape)}; expected {shape}")


def _check_head(step: HeadStep, where: str, last: bool) -> None:
    if not last:
        raise ValueError(f"{where} pools the map away; it must be the last step")
    if step.weight is None:
        if not step.c_in or step.bias is not None:
            raise ValueError(f"{where}: without a weight give c_in and no bias, got c_in={step.c_in}, bias={step.bias}")
        return
    _expect(step.weight, where, "weight", 2)
    out, c_in = step.weight.shape
    if step.c_in not in (None, c_in):
        raise ValueError(f"{where}: c_in={step.c_in}, but the weight is {(out, c_in)}")
    _expect_bias(step.bias, where, "bias", out)


def _pointwise(pair: Pair, where: str, name: str, c_in: int | None = None, c_out: int | None = None) -> tuple[int, int]:
    weight, bias = pair
    if weight.dim() not in (2, 4) or tuple(weight.shape[2:]) not in ((), (1, 1)):
        raise ValueError(f"{where}: {name}'s weight is {tuple(weight.shape)}; expected (O, C, 1, 1)")
    shape = (c_out or weight.shape[0], c_in or weight.shape[1])
    if tuple(weight.shape[:2]) != shape:
        raise ValueError(f"{where}: {name}'s weight is {tuple(weight.shape)}; expected {(*shape, 1, 1)}")
    _expect_bias(bias, where, f"{name}'s bias", shape[0])
    return shape


def _expect(tensor: torch.Tensor, where: str, name: str, dims: int) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != dims:
        got = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"{where}: {name} is {got}; expected a tensor of {dims} dimensions")


def _expect_bias(bias: torch.Tensor | None, where: str, name: str, size: int) -> None:
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(f"{where}: {name} is {tuple(bias.shape)}; expected {(size,)}")

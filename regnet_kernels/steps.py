"""The steps of a packed network as folded, plain tensors: what `pack_network` takes and `unpack_network` gives back.

Letters: C input channels, O output channels, M inner width of a block, g group width, S squeeze width, k kernel side.
"Folded" means that the BatchNorm's scale is in the weight and its shift is in the bias. A bias may be None for zeros. A weight may be
`Scaled`: folded while it is packed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from .activation import activation_code



class Scaled:
    """A weight that is computed while it is packed, a few rows at a time: source (O, ...) times scale (O,), in float64.

    It may stand for any weight of a step, so that a network's folded weights are never in memory as a whole. scale None: `source`
    as it is. With `once` set it lets its source go when the last row has been taken.
    """

    def __init__(self, source: torch.Tensor, scale: torch.Tensor | None = None):
        self.source, self.scale, self.once = source, scale, False
        self.shape, self.device = source.shape, source.device

    def dim(self) -> int:
        return len(self.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows start .. stop - 1 as a tensor. Raises RuntimeError when the source was let go."""
        if self.source is None:
            raise RuntimeError("this weight was packed and let go; fold the model anew")
        part = self.source[start:stop]
        if self.scale is not None:
            part = part.double() * self.scale[start:stop].view(-1, *[1] * (self.dim() - 1))
        if self.once and stop == self.shape[0]:
            self.source = None
        return part


Weight = torch.Tensor | Scaled
Pair = tuple[Weight, torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class ConvStep:
    """y = act(conv(x) + bias). weight: (O, C/groups, k, k), bias: (O,). Computed in float32: meant for the stem."""

    weight: Weight
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
    se: tuple[Weight, torch.Tensor, Weight, torch.Tensor] | None = None
    stride: int = 1
    group_width: int = 1
    activation: str | int = "relu"


@dataclass(frozen=True, eq=False)
class HeadStep:
    """Global average pool and a fully connected layer: weight (O, C), bias (O,). weight None: pool and flatten only."""

    weight: Weight | None
    bias: torch.Tensor | None
    c_in: int | None = None


Step = ConvStep | BlockStep | HeadStep


def rows_of(weight: Weight, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Rows start .. stop - 1 (all of them) of a weight as a tensor."""
    return weight.rows(start, weight.shape[0] if stop is None else stop) if isinstance(weight, Scaled) else weight[start:stop]


def scaled_weights(step: Step) -> list[Scaled]:
    """The weights of a step that are still to be computed."""
    pairs = [step.a, step.b, step.c, step.proj or (), step.se or ()] if isinstance(step, BlockStep) else [(step.weight,)]
    return [weight for pair in pairs for weight in pair if isinstance(weight, Scaled)]


def computed(step: Step) -> Step:
    """The step with all of its weights as tensors."""
    def whole(value):
        if isinstance(value, tuple):
            return tuple(map(whole, value))
        return rows_of(value) if isinstance(value, Scaled) else value

    return replace(step, **{field.name: whole(getattr(step, field.name)) for field in fields(step)})


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
    if not isinstance(tensor, Weight) or tensor.dim() != dims:
        got = tuple(tensor.shape) if isinstance(tensor, Weight) else type(tensor).__name__
        raise ValueError(f"{where}: {name} is {got}; expected a tensor of {dims} dimensions")


def _expect_bias(bias: torch.Tensor | None, where: str, name: str, size: int) -> None:
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(f"{where}: {name} is {tuple(bias.shape)}; expected {(size,)}")

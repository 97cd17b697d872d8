"""A convolution and the inference form of its BatchNorm as one weight and one bias, folded in float64.

The weight is folded when it is packed, a few rows at a time (`regnet_kernels.packing.Scaled`).
"""

import sys
from dataclasses import dataclass

import torch
from regnet_kernels.steps import Scaled
from torch import Tensor, nn

from regnet.swap.refusal import Refused, expect, expect_type


@dataclass(frozen=True)
class Folded:
    """y = act(conv(x, weight) + bias): weight (O, C / groups, k, k) and bias (O,) in float64, `dtype` what the model held."""

    weight: Scaled
    bias: Tensor
    stride: int
    padding: int
    groups: int
    activation: str
    dtype: torch.dtype

    @property
    def kernel(self) -> int:
        return self.weight.shape[-1]

    @property
    def w_in(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def w_out(self) -> int:
        return self.weight.shape[0]


def loaded(module: str, *names: str) -> tuple[type, ...]:
    """The classes `names` of `module`, or none if nobody has imported it: then no model can hold one of them."""
    home = sys.modules.get(module)
    return tuple(cls for name in names if (cls := getattr(home, name, None)) is not None)


def fold(conv: nn.Module, norm: nn.Module, activation: nn.Module | None, what: str) -> Folded:
    """Fold `norm` into `conv`; `activation` is the module that follows, if the norm does not hold its own."""
    expect_type(conv, (nn.Conv2d,), f"{what}.conv")
    expect(conv.padding_mode == "zeros", f"{what}.conv pads with {conv.padding_mode!r}, expected zeros")
    expect(not isinstance(conv.padding, str), f"{what}.conv has padding {conv.padding!r}, expected numbers")
    expect(conv.dilation == (1, 1), f"{what}.conv has dilation {conv.dilation[0]}, expected 1")
    for values, of in ((conv.kernel_size, "kernel"), (conv.stride, "stride"), (conv.padding, "padding")):
        expect(values[0] == values[1], f"{what}.conv has a {of} of {values[0]}x{values[1]}, expected a square one")
    scale, shift, own = read_norm(norm, what)
    expect(own == "none" or activation is None, f"{what} applies two activations")
    weight = Scaled(conv.weight.detach(), scale)
    bias = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    after = own if activation is None else read_activation(activation, f"{what}.act")
    return Folded(weight, bias, conv.stride[0], conv.padding[0], conv.groups, after, conv.weight.dtype)


def read_norm(norm: nn.Module, what: str) -> tuple[Tensor, Tensor, str]:
    """(scale (C,), shift (C,), activation) of a BatchNorm at inference, in float64."""
    plain = (nn.BatchNorm2d, nn.SyncBatchNorm)
    frozen = loaded("torchvision.ops.misc", "FrozenBatchNorm2d")
    frozen_with_act = loaded("timm.layers.norm_act", "FrozenBatchNormAct2d")
    with_act = loaded("timm.layers.norm_act", "BatchNormAct2d", "SyncBatchNormAct") + frozen_with_act
    expect_type(norm, plain + frozen + with_act, f"{what}.bn")
    activation = "none"
    if type(norm) in with_act:
        expect_inert(getattr(norm, "drop", None), f"{what}.bn.drop")
        activation = read_activation(getattr(norm, "act", None) or nn.Identity(), f"{what}.bn.act")
    expect(not norm.training or type(norm) in frozen + frozen_with_act, f"{what}.bn is in training mode")
    if norm.running_mean is None or norm.running_var is None:
        raise Refused(f"{what}.bn keeps no running statistics, so its output depends on the batch")
    scale = (norm.running_var.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.detach().double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift, activation


def read_activation(module: nn.Module, what: str) -> str:
    """ "none", "relu" or "silu" """
    names = {nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}
    expect_type(module, tuple(names), what)
    return names[type(module)]


def expect_inert(module: nn.Module | None, what: str) -> None:
    """Refuse a module that does anything at inference; dropout and stochastic depth do nothing there."""
    if module is None:
        return
    drops = loaded("timm.layers.drop", "DropPath", "DropBlock2d") + loaded("torchvision.ops.stochastic_depth", "StochasticDepth")
    expect_type(module, (nn.Identity, nn.Dropout, *drops), what)
    expect(not module.training or type(module) is nn.Identity, f"{what} is in training mode")

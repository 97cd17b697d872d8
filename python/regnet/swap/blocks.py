"""Reading one X, Y or R block of regnet, timm or torchvision into a BlockStep of folded tensors.

Each family only says where its parts are; `_join` checks that the parts make a RegNet bottleneck.
"""

from dataclasses import dataclass

import torch
from regnet_kernels.steps import BlockStep, ConvStep, Scaled
from torch import nn

from regnet.models.anynet import Stem
from regnet.models.blocks import ConvBN, RBlock, SqueezeExcite, VBlock, VRBlock, XBlock, YBlock
from regnet.swap.fold import Folded, expect_inert, fold, loaded, read_activation
from regnet.swap.refusal import Refused, expect, expect_type, expect_untouched, kind


@dataclass(frozen=True)
class Match:
    """A step, and what the module that it came from held: dtype and device."""

    step: ConvStep | BlockStep
    dtype: torch.dtype
    device: torch.device


def looks_like_block(module: nn.Module) -> bool:
    """A block of a known family or of a subclass: when it is not swapped the report says why."""
    families = (XBlock, VBlock) + _timm("Bottleneck", "PreBottleneck") + _torchvision("ResBottleneckBlock")
    return isinstance(module, families)


def read_block(block: nn.Module) -> Match:
    """The BlockStep of `block`, or Refused."""
    cls = type(block)
    if cls in (XBlock, YBlock, RBlock):
        reader = _read_own
    elif cls in (VBlock, VRBlock):
        raise Refused(f"{cls.__name__} is no bottleneck: fused kernels exist for X, Y and R blocks")
    elif cls in _timm("Bottleneck"):
        reader = _read_timm
    elif cls in _timm("PreBottleneck"):
        raise Refused("pre-activation block: its BatchNorms stand before the convolutions and cannot be folded")
    elif cls in _torchvision("ResBottleneckBlock"):
        reader = _read_torchvision
    else:
        raise Refused(f"{kind(block)} is no block of regnet, timm or torchvision (subclasses are not taken for their parents)")
    expect_untouched(block)
    return reader(block)


def read_stem(stem: nn.Module) -> Match:
    """The ConvStep of a stem, or Refused."""
    expect_untouched(stem)
    if type(stem) is Stem:
        expect(stem.pool is None, "ResNet stem: it pools after its convolution")
        conv = fold(stem.conv, stem.bn, stem.act, "stem")
    elif type(stem) in _conv_timm():
        conv = _conv_norm_act(stem, "stem")
    elif type(stem) in _torchvision("SimpleStemIN"):
        conv = _conv_sequence(stem, "stem")
    else:
        raise Refused(f"{kind(stem)} is no stem of regnet, timm or torchvision")
    step = ConvStep(conv.weight, conv.bias, conv.stride, conv.padding, conv.groups, conv.activation)
    return Match(step, conv.dtype, conv.weight.device)


def expect_global_pool(pool: nn.Module, what: str) -> None:
    """Refuse all but an average over the whole map."""
    expect_type(pool, (nn.AdaptiveAvgPool2d,), what)
    expect(pool.output_size in (1, (1, 1)), f"{what} pools to {pool.output_size}, expected 1")


def _timm(*names: str) -> tuple[type, ...]:
    return loaded("timm.models.regnet", *names)


def _torchvision(*names: str) -> tuple[type, ...]:
    return loaded("torchvision.models.regnet", *names)


def _conv_timm() -> tuple[type, ...]:
    return loaded("timm.layers.conv_bn_act", "ConvNormAct")


def _read_own(block: nn.Module) -> Match:
    def conv(part: nn.Module, what: str, act: nn.Module | None = None) -> Folded:
        expect_type(part, (ConvBN,), what)
        return fold(part.conv, part.bn, act, what)

    se = None
    if block.se is not None:
        expect_type(block.se, (SqueezeExcite,), "se")
        expect_global_pool(block.se.pool, "se.pool")
        se = _gate(block.se.fc1, block.se.act, block.se.fc2)
    proj = None if block.proj is None else conv(block.proj, "proj")
    final = read_activation(block.act, "act")
    return _join(conv(block.a, "a", block.act), conv(block.b, "b", block.act), conv(block.c, "c"), proj, se, final)


def _conv_norm_act(part: nn.Module, what: str) -> Folded:
    """timm's ConvNormAct: the activation is inside the norm."""
    expect_type(part, _conv_timm(), what)
    aa = getattr(part, "aa", None)
    expect(aa is None or type(aa) is nn.Identity, f"{what} has an anti-aliasing layer")
    return fold(part.conv, part.bn, None, what)


def _read_timm(block: nn.Module) -> Match:
    expect_inert(block.drop_path, "drop_path")
    se, shortcut = None, block.downsample
    if type(block.se) is not nn.Identity:
        expect_type(block.se, loaded("timm.layers.squeeze_excite", "SEModule"), "se")
        expect(not block.se.add_maxpool, "se adds a max-pool")
        expect_type(block.se.bn, (nn.Identity,), "se.bn")
        sigmoids = (nn.Sigmoid, *loaded("timm.layers.activations", "Sigmoid"))
        expect_type(block.se.gate, sigmoids, "se.gate")
        se = _gate(block.se.fc1, block.se.act, block.se.fc2)
    expect(shortcut is not None, "it has no shortcut")
    proj = None if type(shortcut) is nn.Identity else _conv_norm_act(shortcut, "downsample")
    parts = [_conv_norm_act(getattr(block, name), name) for name in ("conv1", "conv2", "conv3")]
    return _join(*parts, proj, se, read_activation(block.act3, "act3"))


def _conv_sequence(part: nn.Module, what: str) -> Folded:
    """torchvision's Conv2dNormActivation: convolution, norm and, maybe, activation in a Sequential."""
    types = loaded("torchvision.ops.misc", "Conv2dNormActivation") + _torchvision("SimpleStemIN")
    expect_type(part, types, what)
    expect(len(part) in (2, 3), f"{what} has {len(part)} layers, expected convolution, norm and at most an activation")
    return fold(part[0], part[1], part[2] if len(part) == 3 else None, what)


def _read_torchvision(block: nn.Module) -> Match:
    expect_type(block.f, _torchvision("BottleneckTransform"), "f")
    names = [name for name, _ in block.f.named_children()]
    expect(names in (["a", "b", "c"], ["a", "b", "se", "c"]), f"f holds {', '.join(names)}, expected a, b, (se,) c")
    se = None
    if "se" in names:
        module = block.f.se
        expect_type(module, loaded("torchvision.ops.misc", "SqueezeExcitation"), "f.se")
        expect_global_pool(module.avgpool, "f.se.avgpool")
        expect_type(module.scale_activation, (nn.Sigmoid,), "f.se.scale_activation")
        se = _gate(module.fc1, module.activation, module.fc2)
    proj = None if block.proj is None else _conv_sequence(block.proj, "proj")
    parts = [_conv_sequence(getattr(block.f, name), f"f.{name}") for name in ("a", "b", "c")]
    return _join(*parts, proj, se, read_activation(block.activation, "activation"))


def _gate(fc1: nn.Module, act: nn.Module, fc2: nn.Module) -> tuple:
    """(w1 (S, C, 1, 1), b1 (S,), w2 (C, S, 1, 1), b2 (C,)) of a squeeze-and-excite whose inner activation is ReLU."""
    expect_type(act, (nn.ReLU,), "the activation inside se")
    tensors = []
    for fc, what in ((fc1, "se.fc1"), (fc2, "se.fc2")):
        expect_type(fc, (nn.Conv2d,), what)
        one = fc.kernel_size == (1, 1) and fc.stride == (1, 1) and fc.groups == 1 and fc.padding in ((0, 0), "valid", "same")
        expect(one, f"{what} is not a plain 1x1 convolution")
        tensors += [Scaled(fc.weight.detach()), fc.weight.new_zeros(fc.out_channels) if fc.bias is None else fc.bias.detach().double()]
    return tuple(tensors)


def _join(a: Folded, b: Folded, c: Folded, proj: Folded | None, se: tuple | None, final: str) -> Match:
    """Check that the parts make one RegNet bottleneck, and make its step."""
    for part, what, kernel in ((a, "a", 1), (b, "b", 3), (c, "c", 1), (proj, "the projection", 1)):
        if part is None:
            continue
        expect(part.kernel == kernel, f"{what} is a {part.kernel}x{part.kernel} convolution, expected {kernel}x{kernel}")
        expect(part.padding == kernel // 2, f"{what} has padding {part.padding}, expected {kernel // 2}")
        expect(part is b or part.groups == 1, f"{what} has {part.groups} groups, expected 1")
        expect(part.dtype == a.dtype, f"its convolutions are {a.dtype} and {part.dtype}")
        expect(part.weight.device == a.weight.device, f"its convolutions are on {a.weight.device} and {part.weight.device}")
    expect(a.stride == 1 and c.stride == 1, "its 1x1 convolutions have a stride")
    expect(b.stride in (1, 2), f"it has stride {b.stride}, expected 1 or 2")
    activations = (a.activation, b.activation, final)
    expect(len(set(activations)) == 1, f"its activations differ: {', '.join(activations)}")
    expect(final != "none", "it has no activation")
    expect(c.activation == "none" and (proj is None or proj.activation == "none"), "it has an activation before the addition")
    expect(a.w_out == b.w_in == b.w_out == c.w_in, f"its inner widths differ: {a.w_out}, {b.w_in}, {b.w_out}, {c.w_in}")
    if proj is None:
        expect(a.w_in == c.w_out and b.stride == 1, "its shortcut has no projection though the shape changes")
    else:
        expect((proj.w_in, proj.w_out, proj.stride) == (a.w_in, c.w_out, b.stride), "its projection has another shape or stride")
    if se is not None:
        expect(se[0].shape[1] == se[2].shape[0] == b.w_out, f"se is not {b.w_out} channels wide")
    pair = None if proj is None else (proj.weight, proj.bias)
    step = BlockStep(
        (a.weight, a.bias), (b.weight, b.bias), (c.weight, c.bias), pair, se,
        stride=b.stride, group_width=b.w_in // b.groups, activation=final,
    )
    return Match(step, a.dtype, a.weight.device)

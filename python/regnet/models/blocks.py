"""The blocks of AnyNet as modules, in the paper's own terms.

State names: `a`, `b`, `c` and `proj` are pairs of `conv` and `bn`; `se` has `fc1` and `fc2`. Modules that a block does not
have (`proj`, `se`) are None. All take and give (N, C, H, W); a stride s turns H into ceil(H / s).
"""

from torch import Tensor, nn

from regnet.models.config import BlockSpec

BN_EPS, BN_MOMENTUM = 1e-5, 0.1


def make_activation(name: str) -> nn.Module:
    """An in-place activation module: "relu" or "silu"."""
    return {"relu": nn.ReLU, "silu": nn.SiLU}[name](inplace=True)


class ConvBN(nn.Module):
    """k x k convolution without bias, padded to keep the size at stride 1, and its BatchNorm."""

    def __init__(self, w_in: int, w_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(w_in, w_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(w_out, eps=BN_EPS, momentum=BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SqueezeExcite(nn.Module):
    """Scale each channel by sigmoid(fc2(relu(fc1(mean over H, W)))); the inner activation is ReLU in every network."""

    def __init__(self, width: int, se_width: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, se_width, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(se_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(self.pool(x)))).sigmoid()


class XBlock(nn.Module):
    """1x1, grouped 3x3 with the stride, (squeeze-and-excite,) 1x1, shortcut: activation after a, b and the addition."""

    def __init__(self, spec: BlockSpec, activation: str = "relu"):
        super().__init__()
        self.a = ConvBN(spec.w_in, spec.w_inner, 1)
        self.b = ConvBN(spec.w_inner, spec.w_inner, 3, spec.stride, spec.w_inner // spec.group_width)
        self.se = SqueezeExcite(spec.w_inner, spec.se_width) if spec.se_width else None
        self.c = ConvBN(spec.w_inner, spec.w_out, 1)
        self.proj = ConvBN(spec.w_in, spec.w_out, 1, spec.stride) if spec.has_proj else None
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        x = self.act(self.b(self.act(self.a(x))))
        if self.se is not None:
            x = self.se(x)
        return self.act(self.c(x) + shortcut)


class YBlock(XBlock):
    """An X block with squeeze-and-excite."""


class RBlock(XBlock):
    """An X block without groups: the residual bottleneck of ResNet."""


class VBlock(nn.Module):
    """One 3x3 with the stride, BatchNorm, activation; no shortcut."""

    def __init__(self, spec: BlockSpec, activation: str = "relu"):
        super().__init__()
        self.a = ConvBN(spec.w_in, spec.w_out, 3, spec.stride)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))


class VRBlock(VBlock):
    """A V block with a shortcut, added before the activation."""

    def __init__(self, spec: BlockSpec, activation: str = "relu"):
        super().__init__(spec, activation)
        self.proj = ConvBN(spec.w_in, spec.w_out, 1, spec.stride) if spec.has_proj else None

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x) + (x if self.proj is None else self.proj(x)))


def make_block(spec: BlockSpec, block_type: str, activation: str) -> nn.Module:
    """The module of one block; an "X" with squeeze-and-excite is a YBlock."""
    kinds = {"X": YBlock if spec.se_width else XBlock, "R": RBlock, "V": VBlock, "VR": VRBlock}
    return kinds[block_type](spec, activation)

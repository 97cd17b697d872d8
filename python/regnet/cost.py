"""Complexity of a network as the paper counts it: multiply-adds, parameters and activations, without building weights."""

from dataclasses import dataclass

from torch import nn

from regnet.errors import ConfigError
from regnet.models.config import AnyNetConfig, BlockSpec, RegNetConfig
from regnet.models.registry import model_config


@dataclass(frozen=True)
class Complexity:
    """flops: multiply-adds of one image (a bias adds one each, BatchNorm and activations none). params: parameters, BatchNorm's
    scale and shift included. acts: outputs of all convolutions, max-pools and linear layers, squeeze-and-excite included (the
    paper's tables leave the max-pool of the ResNet stem out, pycls does not)."""

    flops: int
    params: int
    acts: int

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.3f} GF, {self.params / 1e6:.3f} M params, {self.acts / 1e6:.3f} M acts"


def complexity(model: nn.Module | str | AnyNetConfig | RegNetConfig, resolution: int | tuple[int, int] = 224) -> Complexity:
    """Cost of one image of resolution x resolution (or height, width).

    model: a name (the paper's, timm's, torchvision's), a configuration, or a module. Names, configurations and our own models
    are counted from the configuration alone. Another module (or one of ours with parts exchanged) is run once on meta tensors,
    which allocates nothing, and its convolutions, max-pools and linear layers are counted; it must take one batch of images with
    the channels of its first convolution.

    Raises UnknownModelError for a name, ConfigError for a resolution below 1 or a module that cannot be counted, such as an
    optimized one (count the model it came from), and TypeError for anything else.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if min(height, width) < 1:
        raise ConfigError(f"resolution {resolution} must be at least 1")
    if isinstance(model, str):
        model = model_config(model)
    elif isinstance(model, RegNetConfig):
        model = model.to_anynet()
    if isinstance(model, AnyNetConfig):
        return _count(model, height, width)
    if not isinstance(model, nn.Module):
        raise TypeError(f"complexity takes a model, a name or a configuration, not {type(model).__name__}")
    if _follows_its_config(model):
        return _count(model.config, height, width)
    from regnet.cost_trace import trace_complexity

    return trace_complexity(model, height, width)


def _follows_its_config(model: nn.Module) -> bool:
    """Whether it is one of our own networks, and not one whose parts somebody exchanged."""
    from regnet.models import AnyNet, FeatureNet

    if type(model) not in (AnyNet, FeatureNet):
        return False
    return _count(model.config, 32, 32).params == sum(parameter.numel() for parameter in model.parameters())


def _count(config: AnyNetConfig, height: int, width: int) -> Complexity:
    counter = _Counter()
    size = counter.conv(config.in_chans, config.stem_width, 7 if config.stem_type == "resnet" else 3, 2, 1, (height, width))
    if config.stem_type == "resnet":
        size = _strided(size, 2)
        counter.acts += config.stem_width * size[0] * size[1]
    block = _vanilla if config.block_type in ("V", "VR") else _bottleneck
    for spec in config.blocks():
        if config.block_type != "V" and spec.has_proj:
            counter.conv(spec.w_in, spec.w_out, 1, spec.stride, 1, size)
        size = block(counter, spec, size)
    if config.num_classes:
        counter.linear(config.widths[-1], config.num_classes)
    return Complexity(counter.flops, counter.params, counter.acts)


def _bottleneck(counter: "_Counter", spec: BlockSpec, size: tuple[int, int]) -> tuple[int, int]:
    size = counter.conv(spec.w_in, spec.w_inner, 1, 1, 1, size)
    size = counter.conv(spec.w_inner, spec.w_inner, 3, spec.stride, spec.w_inner // spec.group_width, size)
    if spec.se_width:
        counter.linear(spec.w_inner, spec.se_width)
        counter.linear(spec.se_width, spec.w_inner)
    return counter.conv(spec.w_inner, spec.w_out, 1, 1, 1, size)


def _vanilla(counter: "_Counter", spec: BlockSpec, size: tuple[int, int]) -> tuple[int, int]:
    return counter.conv(spec.w_in, spec.w_out, 3, spec.stride, 1, size)


class _Counter:
    """Sums of flops, params and acts."""

    def __init__(self):
        self.flops = self.params = self.acts = 0

    def conv(self, w_in, w_out, kernel, stride, groups, size) -> tuple[int, int]:
        """A convolution without bias and its BatchNorm; gives the output size."""
        height, width = _strided(size, stride)
        weights = kernel * kernel * w_in * w_out // groups
        self.flops += weights * height * width
        self.params += weights + 2 * w_out
        self.acts += w_out * height * width
        return height, width

    def linear(self, w_in, w_out):
        """A linear layer, or a 1x1 convolution of one pixel, with bias."""
        self.flops += w_in * w_out + w_out
        self.params += w_in * w_out + w_out
        self.acts += w_out


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1

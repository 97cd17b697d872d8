"""AnyNet: stem, stages of blocks, head. Every network of the package is one, given by its AnyNetConfig."""

import math
from dataclasses import replace
from itertools import groupby

from torch import Tensor, nn

from regnet.models.blocks import BN_EPS, BN_MOMENTUM, make_activation, make_block
from regnet.models.config import AnyNetConfig


class Stem(nn.Module):
    """Stride-2 convolution, BatchNorm, activation; the ResNet stem goes on with a stride-2 max-pool (`pool`, else None)."""

    def __init__(self, config: AnyNetConfig):
        super().__init__()
        kernel = 7 if config.stem_type == "resnet" else 3
        self.conv = nn.Conv2d(config.in_chans, config.stem_width, kernel, 2, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(config.stem_width, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = make_activation(config.activation)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem_type == "resnet" else None

    def before_pool(self, x: Tensor) -> Tensor:
        """The feature map at stride 2."""
        return self.act(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before_pool(x)
        return x if self.pool is None else self.pool(x)


class Stage(nn.Module):
    """Blocks one after the other."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Head(nn.Module):
    """Global average pool and classifier; num_classes=0 gives the pooled features."""

    def __init__(self, w_in: int, num_classes: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(w_in, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x).flatten(1))


class AnyNet(nn.Module):
    """The network of a config: (N, in_chans, H, W) -> (N, num_classes), or (N, widths[-1]) for num_classes=0.

    Initialised as the paper does: convolutions from N(0, sqrt(2 / (k^2 w_out))), not divided by the groups, BatchNorm 1 and
    0, classifier from N(0, 0.01), biases 0.
    """

    def __init__(self, config: AnyNetConfig):
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.stages = nn.ModuleList(
            Stage([make_block(spec, config.block_type, config.activation) for spec in specs])
            for _, specs in groupby(config.blocks(), key=lambda spec: spec.stage)
        )
        self.head = Head(config.widths[-1], config.num_classes)
        self.apply(_init)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map: (N, in_chans, H, W) -> (N, widths[-1], H', W')."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one of `num_classes`, or by none for 0; device, dtype and mode stay."""
        reference = self.stem.conv.weight
        head = Head(self.config.widths[-1], num_classes)
        head.apply(_init)
        self.head = head.to(reference.device, reference.dtype).train(self.training)
        self.config = replace(self.config, num_classes=num_classes)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (math.prod(module.kernel_size) * module.out_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)

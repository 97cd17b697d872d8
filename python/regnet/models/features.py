"""Multi-scale features: an AnyNet without its head that returns a list of feature maps, as timm's `features_only`."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from regnet.errors import ConfigError
from regnet.models.anynet import AnyNet


class FeatureInfo:
    """Width and stride of each feature map that a FeatureNet returns; the same calls as on timm's `feature_info`."""

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], modules: Sequence[str]):
        self._channels, self._reductions, self._modules = list(channels), list(reductions), list(modules)

    def channels(self) -> list[int]:
        """Width of each feature map."""
        return list(self._channels)

    def reduction(self) -> list[int]:
        """Stride of each feature map with respect to the image."""
        return list(self._reductions)

    def module_name(self) -> list[str]:
        """Name of the module that gives each feature map."""
        return list(self._modules)

    def __len__(self) -> int:
        return len(self._channels)

    def __repr__(self) -> str:
        return f"FeatureInfo(channels={self._channels}, reduction={self._reductions})"


class FeatureNet(nn.Module):
    """(N, in_chans, H, W) -> list of feature maps (N, C_i, H / r_i, W / r_i), in order of `out_indices`' values.

    Level 0 is the stem at stride 2 (before the max-pool of a ResNet stem), level i the output of stage i. Stages above the
    highest level asked for are dropped. State names are those of AnyNet, less the head's. `config` describes what is left.
    Takes over the modules of `net`. Raises ConfigError for a level that does not exist.
    """

    def __init__(self, net: AnyNet, out_indices: Sequence[int] | None = None):
        super().__init__()
        config = net.config
        levels = len(config.widths) + 1
        self.out_indices = _check_levels(out_indices, levels)
        kept = max(1, self.out_indices[-1])
        self.config = replace(
            config, num_classes=0,
            **{name: getattr(config, name)[:kept] for name in ("depths", "widths", "strides", "bottleneck_ratios", "group_widths")},
        )
        self.stem = net.stem
        self.stages = nn.ModuleList(list(net.stages)[:kept])
        self.feature_info = _feature_info(config, self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem.before_pool(x)
        features = [x] if 0 in self.out_indices else []
        if self.stem.pool is not None:
            x = self.stem.pool(x)
        for level, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if level in self.out_indices:
                features.append(x)
        return features


def _check_levels(out_indices: Sequence[int] | None, levels: int) -> tuple[int, ...]:
    if out_indices is None:
        return tuple(range(levels))
    wrong = [index for index in out_indices if not -levels <= index < levels]
    if wrong or not len(out_indices):
        raise ConfigError(f"out_indices {tuple(out_indices)} must name levels 0 (the stem) to {levels - 1} (the last stage)")
    return tuple(sorted({index % levels for index in out_indices}))


def _feature_info(config, out_indices: tuple[int, ...]) -> FeatureInfo:
    reductions, reduction = [2], 4 if config.stem_type == "resnet" else 2
    for stride in config.strides:
        reduction *= stride
        reductions.append(reduction)
    channels = [config.stem_width, *config.widths]
    names = ["stem", *(f"stages.{stage}" for stage in range(len(config.widths)))]
    return FeatureInfo(*([values[index] for index in out_indices] for values in (channels, reductions, names)))

"""AnyNet, the RegNets X and Y, their configurations and names."""

from regnet.models.anynet import AnyNet
from regnet.models.blocks import ConvBN, RBlock, SqueezeExcite, VBlock, VRBlock, XBlock, YBlock
from regnet.models.config import AnyNetConfig, BlockSpec, RegNetConfig
from regnet.models.create import create_model
from regnet.models.features import FeatureInfo, FeatureNet
from regnet.models.registry import find_model, list_models, model_config
from regnet.models.widths import adjust_group_widths, quantized_levels, quantized_widths

__all__ = [
    "AnyNet", "AnyNetConfig", "BlockSpec", "ConvBN", "FeatureInfo", "FeatureNet", "RBlock", "RegNetConfig", "SqueezeExcite",
    "VBlock", "VRBlock", "XBlock", "YBlock", "adjust_group_widths", "create_model", "find_model", "list_models", "model_config",
    "quantized_levels", "quantized_widths",
]

"""Fused kernels for RegNet as torch.library ops (namespace `regnet_kernels`). Knows tensors, never a model."""

from . import ops as _ops  # noqa: F401  (defines the ops)
from .backends.gpu.fused import estimate as fusion_estimate
from .dispatch import BackendError, Explanation, explain
from .env import env_report, environment
from .ops.conv_bn_act import conv_bn_act
from .ops.network import bottleneck, network
from .ops.squeeze_excite import se_gate, squeeze_excite
from .packing import PackedNetwork, pack_network, unpack_network
from .plain import PlainNetwork, pack_plain, unpack_plain
from .steps import BlockStep, ConvStep, HeadStep

__version__ = "0.1.0"
__all__ = ["BackendError", "BlockStep", "ConvStep", "Explanation", "HeadStep", "PackedNetwork", "PlainNetwork", "bottleneck",
           "conv_bn_act", "env_report", "environment", "explain", "fusion_estimate", "network", "pack_network", "pack_plain", "se_gate",
           "squeeze_excite", "unpack_network", "unpack_plain"]

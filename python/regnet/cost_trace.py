"""Complexity of a model that has no configuration: run it once on meta tensors and count what it calls."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from regnet.cost import Complexity
from regnet.errors import ConfigError

# With two images BatchNorm in training mode accepts 1x1 maps, so the mode of the model need not be touched.
BATCH = 2
_PLAIN_NAMESPACES = ("aten", "prims", "prim", "_operator")


def trace_complexity(model: nn.Module, height: int, width: int) -> Complexity:
    """flops, params and acts of `model` for one image (in_chans of its first convolution, height, width); see `complexity`.

    Raises ConfigError for a model without convolutions and for one that calls custom operators, which nobody can count.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ConfigError(f"{type(model).__name__} has no nn.Conv2d to count; if it is an optimized model, give the one it came from")
    tensors = {name: _on_meta(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    image = torch.empty(BATCH, first.in_channels, height, width, device="meta", dtype=first.weight.dtype)
    with torch.no_grad(), _Counting() as counting:
        torch.func.functional_call(model, tensors, (image,))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(counting.flops // BATCH, params, counting.acts // BATCH)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.flops = self.acts = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace not in _PLAIN_NAMESPACES:
            raise ConfigError(f"cannot count the operator {func}; if this is an optimized model, give the one it came from")
        result = func(*args, **(kwargs or {}))
        count = _COUNTERS.get(func.overloadpacket)
        if count is not None:
            flops, acts = count(result, *args, **(kwargs or {}))
            self.flops += flops
            self.acts += acts
        return result


def _convolution(result, x, weight, bias=None, *rest, **options):
    outputs = result.numel()
    return outputs * (weight.numel() // weight.shape[0]) + (outputs if bias is not None else 0), outputs


def _linear(result, x, weight, bias=None):
    return result.numel() * (weight.shape[-1] + (bias is not None)), result.numel()


def _addmm(result, bias, x, weight, **options):
    return result.numel() * (weight.shape[0] + 1), result.numel()


def _mm(result, x, weight):
    return result.numel() * weight.shape[0], result.numel()


def _max_pool(result, *args, **options):
    return 0, (result if isinstance(result, Tensor) else result[0]).numel()


_COUNTERS = {
    torch.ops.aten.convolution: _convolution,
    torch.ops.aten.linear: _linear,
    torch.ops.aten.addmm: _addmm,
    torch.ops.aten.mm: _mm,
    torch.ops.aten.max_pool2d: _max_pool,
    torch.ops.aten.max_pool2d_with_indices: _max_pool,
}

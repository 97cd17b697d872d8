"""The shortest way from Python to the CPU's network kernel, for the calls of plain inference.

An op with an autograd rule in Python costs 15 to 30 us a call even where no gradient is wanted, and a list of 400 integers some
10 us; docs/limits.md has the whole. `_network_eager` in torch_cpu.cpp has neither: its program is a tensor.
"""

import torch
from torch.autograd import forward_ad

from ._extension import CPU

_OP = torch.ops.regnet_kernels._network_eager.default if CPU.loaded and hasattr(torch.ops.regnet_kernels, "_network_eager") else None
# What `suits` asks of torch beside its public functions; a torch without them takes the longer way.
_ASKED = ("_len_torch_dispatch_stack", "_are_functorch_transforms_active", "_get_tracing_state")
available = _OP is not None and hasattr(forward_ad, "_current_level") and all(hasattr(torch._C, name) for name in _ASKED)


def suits(x: torch.Tensor, *blobs: torch.Tensor) -> bool:
    """Is a call on x plain inference in eager PyTorch? Not where something watches or changes the ops: tracing and compiling,
    a gradient, autocast, a dispatch mode, a functorch transform, a subclass of Tensor."""
    return (
        type(x) is torch.Tensor
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *blobs)))
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
    )


tuning_is_loaded = False


def load_tuning() -> None:
    """Before the first network of a process: what was tuned on this machine goes to the kernels (tuning/cpu)."""
    global tuning_is_loaded
    if not tuning_is_loaded:
        from .tuning.cpu import table

        table.load()
        tuning_is_loaded = True


def network(x: torch.Tensor, weights: torch.Tensor, params: torch.Tensor, program: torch.Tensor) -> torch.Tensor:
    """As the op `network` on the CPU, for an x that `suits`. program: its integers as an int64 tensor (1-D)."""
    if not tuning_is_loaded:
        load_tuning()
    return _OP(x, weights, params, program)

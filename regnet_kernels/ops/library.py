"""How an op becomes one of PyTorch's own: schema, eager implementation, fake kernel, autograd, autocast.

The schemas are defined here, in Python. The eager reference is every op's CompositeExplicitAutograd implementation: it
runs on any device for which no compiled library registered kernels of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch

NAMESPACE = "regnet_kernels"
FORCED = ("triton", "gpu")  # backends whose form of an op is an op of its own
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(name: str, schema: str, reference: Callable, fake: Callable, autocast: Callable,
           **backends: Callable) -> None:
    """Define op `name`. reference, fake: called with the schema's arguments. autocast: maps the arguments, and the dtype
    that autocast asks for, to the arguments to call the op with. backends: the op on a backend of FORCED, which becomes an op of
    its own, `_<name>_<backend>`, for callers who force that backend (on CPU tensors it runs in Triton's interpreter)."""
    for backend, implementation in backends.items():
        define(forced(name, backend), schema, reference, fake, autocast)
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(forced(name, backend), implementation, key)
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    _register_recompute(name, reference)
    for device_type in ("cpu", "cuda"):
        LIBRARY.impl(name, _under_autocast(name, autocast, device_type), "Autocast" + device_type.upper())


def forced(name: str, backend: str) -> str:
    """The name of op `name` on one backend only."""
    return f"_{name}_{backend}"


def call(name: str, backend: str | None) -> Callable:
    """The op `name`, which picks a backend by the device, or its form for a forced backend."""
    return getattr(torch.ops.regnet_kernels, forced(name, backend) if backend in FORCED else name)


def autocast_enabled(x: torch.Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type) if x.device.type in ("cpu", "cuda") else False


def without_autocast(x: torch.Tensor):
    """A context in which plain torch ops keep the dtypes that they are given."""
    return torch.autocast(x.device.type, enabled=False) if autocast_enabled(x) else contextlib.nullcontext()


def lower(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Cast as autocast does: floating tensors except float64."""
    keep = tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64
    return tensor if keep else tensor.to(dtype)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of biases, gates and sums beside tensors of `dtype`: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_channels_last(x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) with exactly the strides of torch.empty(..., memory_format=torch.channels_last), also where a
    dimension of size 0 or 1 leaves them open."""
    n, c, h, w = x.shape
    exact = (h * w * c, 1, w * c, c)
    return x if 0 not in x.shape and x.stride() == exact else x.clone(memory_format=torch.channels_last)


def empty_channels_last(x: torch.Tensor, shape: tuple) -> torch.Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class _OnceDifferentiable(torch.autograd.Function):
    """Passes gradients on; a second derivative, which the recomputed backward does not carry, raises."""

    @staticmethod
    def forward(ctx, name, count, *tensors):
        ctx.name = name
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(f"regnet_kernels.{ctx.name} is differentiable once; for second derivatives "
                           "compute with backend='eager', which is plain torch")


def _register_recompute(name: str, reference: Callable) -> None:
    """Autograd for the op: the backward computes the eager reference again and differentiates that."""

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*[value for value in inputs if isinstance(value, torch.Tensor)])
        ctx.rest = [None if isinstance(value, torch.Tensor) else (value,) for value in inputs]

    def backward(ctx, *grads):
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if kept is None else kept[0] for kept in ctx.rest]
        needed = [index for index in range(len(inputs)) if ctx.needs_input_grad[index]]
        with torch.enable_grad(), without_autocast(inputs[0]):
            fresh = [value.detach().requires_grad_(index in needed) if isinstance(value, torch.Tensor) else value
                     for index, value in enumerate(inputs)]
            outputs = reference(*fresh)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            live = [(output, grad) for output, grad in zip(outputs, grads) if output.requires_grad and grad is not None]
            found = torch.autograd.grad([output for output, _ in live], [fresh[index] for index in needed],
                                        [grad for _, grad in live], allow_unused=True)
        result = [None] * len(inputs)
        for index, grad in zip(needed, found):
            result[index] = grad
        return tuple(_guard_second_derivative(name, result, inputs, grads))

    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY)


def _guard_second_derivative(name: str, found: list, inputs: list, grads: tuple) -> list:
    sources = [t for t in (*inputs, *grads) if isinstance(t, torch.Tensor) and t.requires_grad]
    at = [index for index, grad in enumerate(found) if grad is not None]
    if not at or not sources or not torch.is_grad_enabled():
        return found
    guarded = _OnceDifferentiable.apply(name, len(at), *[found[index] for index in at], *sources)
    for index, grad in zip(at, guarded):
        found[index] = grad
    return found


def _under_autocast(name: str, autocast: Callable, device_type: str) -> Callable:
    def call(*args):
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            return getattr(torch.ops.regnet_kernels, name)(*autocast(dtype, *args))
    return call

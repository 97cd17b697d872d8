"""In which of the two packed forms a fused module keeps its steps: in panels for CPU kernels, plain for GPU kernels."""

from collections.abc import Callable, Sequence

import torch
from regnet_kernels import PackedNetwork, PlainNetwork, pack_network, pack_plain
from regnet_kernels.packing import plan_specs
from regnet_kernels.steps import computed, scaled_weights
from torch import Tensor

Packed = PackedNetwork | PlainNetwork


def pack(
    steps: list, dtype: torch.dtype, device: torch.device, backend: str | None, exact: bool, release: Callable[[], None] | None = None
) -> Packed:
    """`steps`, packed for computing in `dtype` by what runs on `device`.

    Plain on a GPU, and for the backends `gpu` and `triton` anywhere (Triton's interpreter); in panels elsewhere, and for steps
    that have no plain form, such as a block of stride 3: those run in plain torch on a GPU.

    `release` says that nobody needs the steps any more. It is called before the first weight is packed in panels and after
    all that can be refused; from there on each weight is let go once it is packed.
    """
    if backend in ("gpu", "triton"):
        return pack_plain([computed(step) for step in steps], dtype)
    if device.type == "cuda" and backend != "cpu":
        steps = [computed(step) for step in steps]
        try:
            return pack_plain(steps, dtype)
        except ValueError:
            pass
    if release is not None:
        plan_specs(steps, panel_dtype(dtype), exact)
        release()
        for weight in (weight for step in steps for weight in scaled_weights(step)):
            weight.once = True
    return pack_network(steps, panel_dtype(dtype), exact=exact)


def panel_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights in panels for computing in `dtype`: the CPU computes float16 as float32."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def packed(weights: Tensor, params: Tensor, program: Sequence[int]) -> Packed:
    """The network that the blobs hold, in the form that the program names."""
    return (PlainNetwork if is_plain(program) else PackedNetwork)(weights, params, program)


def is_plain(program: Sequence[int]) -> bool:
    return PlainNetwork.reads(program)

"""In which of the two packed forms a fused module keeps its steps: in panels for CPU kernels, plain for GPU kernels."""

from collections.abc import Sequence

import torch
from regnet_kernels import PackedNetwork, PlainNetwork, pack_network, pack_plain
from torch import Tensor

Packed = PackedNetwork | PlainNetwork


def pack(steps: list, dtype: torch.dtype, device: torch.device, backend: str | None, exact: bool) -> Packed:
    """`steps`, packed for computing in `dtype` by what runs on `device`.

    Plain on a GPU, and for the Triton backend anywhere (its interpreter); in panels elsewhere, and for steps that have no
    plain form, such as channels that are no multiple of 8: those run in plain torch on a GPU.
    """
    if backend == "triton":
        return pack_plain(steps, dtype)
    if device.type == "cuda" and backend != "cpu":
        try:
            return pack_plain(steps, dtype)
        except ValueError:
            pass
    return pack_network(steps, panel_dtype(dtype), exact=exact)


def panel_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights in panels for computing in `dtype`: the CPU computes float16 as float32."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def packed(weights: Tensor, params: Tensor, program: Sequence[int]) -> Packed:
    """The network that the blobs hold, in the form that the program names."""
    return (PlainNetwork if is_plain(program) else PackedNetwork)(weights, params, program)


def is_plain(program: Sequence[int]) -> bool:
    return PlainNetwork.reads(program)

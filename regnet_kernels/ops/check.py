"""Checks that the ops share: each raises one clear error before any work is done."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensor(name: str, tensor: torch.Tensor, dims: int, letters: str, shape: tuple | None = None,
                 dtype: torch.dtype | None = None) -> None:
    """tensor has `dims` dimensions, and `shape` and `dtype` if given. Raises TypeError or ValueError."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor {letters}")
    if tensor.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {dims} dimensions {letters or shape}")
    if shape is not None and any(got != want for got, want in zip(tensor.shape, shape)):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}")
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f"{name} is {tensor.dtype}; expected {dtype}")


def check_dtype(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} is {tensor.dtype}; expected one of {', '.join(map(str, DTYPES))}")


def check_same_device(**tensors: torch.Tensor | None) -> None:
    given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in given.items())
        raise ValueError(f"the tensors are on different devices ({where}); move them to one")

"""What the two packed formats share: steps as two blobs and a program of integers (packing.py: panels for CPUs; plain.py: GPUs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .steps import Step

STEP_INTS = 16  # of a program, behind its format version and its number of steps


def step_integers(program: Sequence[int], version: int, packer: str) -> list[Sequence[int]]:
    """The integers of each step. Raises ValueError when the program's version or length are not what that version says."""
    if len(program) < 2 or program[0] != version:
        raise ValueError(f"program starts with {list(program[:2])}; expected [{version} (format version), number of steps]; "
                         f"pack the network again with {packer}")
    count = program[1]
    if count < 1 or len(program) != 2 + STEP_INTS * count:
        raise ValueError(f"a program of {count} steps has {len(program)} integers; expected {2 + STEP_INTS * max(count, 1)}")
    return [program[at:at + STEP_INTS] for at in range(2, len(program), STEP_INTS)]


def check_blobs(weights: torch.Tensor, params: torch.Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Raises ValueError unless the blobs are contiguous, 1-D, on one device, weights of one of `dtypes` and params float32
    (float64 beside float64, for references)."""
    for name, blob in (("weights", weights), ("params", params)):
        if blob.dim() != 1 or not blob.is_contiguous():
            raise ValueError(f"{name} has shape {tuple(blob.shape)}, strides {blob.stride()}; expected a contiguous 1-D blob")
    expected = torch.float64 if weights.dtype == torch.float64 else torch.float32
    if weights.dtype not in dtypes or params.dtype != expected:
        allowed = " or ".join(str(dtype) for dtype in dtypes if dtype != torch.float64)
        raise ValueError(f"weights is {weights.dtype}, params is {params.dtype}; expected weights {allowed} and params torch.float32 "
                         "(move a packed network by device only)")
    if weights.device != params.device:
        raise ValueError(f"weights is on {weights.device}, params on {params.device}; expected one device")


def check_end(index: int, name: str, blob: torch.Tensor, end: int) -> None:
    """Raises ValueError where step `index` reads the blob beyond its end."""
    if end > blob.numel():
        raise ValueError(f"step {index} reads {name} up to element {end}, but the blob has {blob.numel()}")


@dataclass(frozen=True, eq=False)
class BlobNetwork:
    """weights: 1-D; params: 1-D; program: list of ints. Checked when made: a program that reads outside of its blobs, or is
    malformed, raises ValueError. Pickles; `.to(device)` moves the blobs; `.slice(i, j)` shares them."""

    weights: torch.Tensor
    params: torch.Tensor
    program: list[int]

    def __post_init__(self):
        object.__setattr__(self, "program", [int(value) for value in self.program])
        self._check()

    def _check(self) -> None:
        """Raises ValueError unless the blobs hold all that the program reads."""
        raise NotImplementedError

    @property
    def specs(self) -> Sequence[Any]:
        """The steps' sizes."""
        raise NotImplementedError

    def unpack(self) -> list[Step]:
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the weights were packed for."""
        return self.weights.dtype

    @property
    def n_steps(self) -> int:
        return self.program[1]

    @property
    def c_in(self) -> int:
        return self.specs[0].c_in

    @property
    def c_out(self) -> int:
        """Output channels or classes; a head without classifier gives its input channels."""
        return self.specs[-1].c_out or self.specs[-1].c_in

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + self.params.nbytes

    def __len__(self) -> int:
        return self.n_steps

    def slice(self, start: int, stop: int):
        """Steps start .. stop - 1 on the same blobs."""
        if not 0 <= start < stop <= self.n_steps:
            raise ValueError(f"slice({start}, {stop}) of {self.n_steps} steps; expected 0 <= start < stop <= {self.n_steps}")
        body = self.program[2 + STEP_INTS * start:2 + STEP_INTS * stop]
        return type(self)(self.weights, self.params, [self.program[0], stop - start, *body])

    def to(self, device: torch.device | str):
        return type(self)(self.weights.to(device), self.params.to(device), self.program)

"""What the two packed formats share: steps as two blobs and a program of integers (packing.py: panels for CPUs; plain.py: GPUs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .steps import Step

STEP_INTS = 16  # of a program, behind its format version and its number of steps


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

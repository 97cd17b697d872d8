"""What a sampler gives: arrays of draws, their networks and complexity, and the list of configurations made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regnet.design_space.networks import Networks
from regnet.design_space.settings import AnyNetSettings, RegNetSettings, Rows


@dataclass(frozen=True)
class Draws(Rows):
    """n valid draws: raw settings, final networks, and flops, params, acts (n,) int64."""

    settings: AnyNetSettings | RegNetSettings
    networks: Networks
    flops: np.ndarray
    params: np.ndarray
    acts: np.ndarray

    def __len__(self) -> int:
        return len(self.flops)


class Sample(list):
    """A list of configurations; `draws` holds the raw settings that they came from and their complexity, row by row."""

    def __init__(self, configs, draws: Draws):
        super().__init__(configs)
        self.draws = draws


class Uniforms:
    """Numbers in [0, 1), multiples of 2**-53, from PCG64's raw output, which numpy keeps the same in all versions."""

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def take(self, *shape: int) -> np.ndarray:
        """float64 of `shape`."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)

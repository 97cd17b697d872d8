"""The window that a sample must fall into: ranges of flops, params and acts at a resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regnet.errors import ConfigError

Range = tuple[float, float] | None


@dataclass(frozen=True)
class Window:
    """Closed ranges (low, high) in multiply-adds, parameters and activations; None: any."""

    flops: Range = None
    params: Range = None
    acts: Range = None
    resolution: int | tuple[int, int] = 224

    def __post_init__(self):
        for name in ("flops", "params", "acts"):
            value = getattr(self, name)
            if value is None:
                continue
            if len(value) != 2 or not 0 <= value[0] <= value[1]:
                raise ConfigError(f"{name}={value} is no range; use (low, high) with 0 <= low <= high, such as {name}=(360e6, 400e6)")
            object.__setattr__(self, name, (float(value[0]), float(value[1])))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The ranges that were given."""
        return {name: getattr(self, name) for name in ("flops", "params", "acts") if getattr(self, name) is not None}

    def holds(self, costs: dict[str, np.ndarray]) -> np.ndarray | bool:
        """(n,) bool of {"flops": (n,), ...}, which must hold all given ranges; True where none was given."""
        held = True
        for name, (low, high) in self.ranges.items():
            held = held & (costs[name] >= low) & (costs[name] <= high)
        return held

    def __str__(self) -> str:
        return ", ".join(f"{name} {low:g}..{high:g}" for name, (low, high) in self.ranges.items()) or "any complexity"

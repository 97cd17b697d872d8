"""What narrows a design space: parameters that the stages share, order along the stages, limits of complexity, a user's own rule.

Constraints hold for the raw settings, before the widths are made compatible with the groups (with one bottleneck ratio and group
width for all stages, an order of the raw widths is also the order of the final ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regnet.errors import ConfigError

FIELDS = ("depths", "widths", "bottleneck_ratios", "group_widths")


@dataclass(frozen=True)
class Shared:
    """All stages have the same value of `field`, which is drawn once (a parameter less, not a rejection)."""

    field: str

    def __post_init__(self):
        _check_field(self.field)

    def __str__(self) -> str:
        return f"{self.field} shared by all stages"


@dataclass(frozen=True)
class Ordered:
    """`field` never falls (with decreasing=True: never rises) from a stage to the next; the stages are independent, given that."""

    field: str
    decreasing: bool = False

    def __post_init__(self):
        _check_field(self.field)

    def __str__(self) -> str:
        return f"{self.field} non-{'increasing' if self.decreasing else 'decreasing'}"

    def holds(self, settings) -> np.ndarray:
        """(n,) bool."""
        steps = np.diff(getattr(settings, self.field), axis=1)
        return (steps <= 0 if self.decreasing else steps >= 0).all(axis=1)


@dataclass(frozen=True)
class CostLimit:
    """A rule on the complexity at 224x224: test(flops, params, acts) of int64 arrays (n,) gives (n,) bool. text: what it says."""

    text: str
    test: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Where:
    """A rule on raw settings: test(settings), AnyNetSettings or RegNetSettings of n rows, gives (n,) bool. text: what it says."""

    text: str
    test: Callable[[object], np.ndarray]

    def __str__(self) -> str:
        return self.text

    def holds(self, settings) -> np.ndarray:
        """(n,) bool. Raises ConfigError where `test` gives something else."""
        found = np.asarray(self.test(settings))
        if found.shape != (len(settings),) or found.dtype != bool:
            raise ConfigError(
                f"the test of the constraint {self.text!r} gave {found.dtype} of shape {found.shape}; "
                f"it must give bool of shape ({len(settings)},), one for each setting"
            )
        return found


def non_decreasing(field: str) -> Ordered:
    """`field` ("depths", "widths", "bottleneck_ratios" or "group_widths") never falls from a stage to the next."""
    return Ordered(field)


def non_increasing(field: str) -> Ordered:
    """`field` never rises from a stage to the next."""
    return Ordered(field, decreasing=True)


def params_below_trend(intercept: float = 3.0, slope: float = 5.5) -> CostLimit:
    """params <= intercept + slope F, in millions, F in GF: the paper's limit for RegNetX."""
    return CostLimit(
        f"params <= {intercept:g} + {slope:g} F (M, F in GF)",
        lambda flops, params, acts: params <= intercept * 1e6 + slope * 1e-3 * flops,
    )


def acts_below_trend(factor: float = 6.5) -> CostLimit:
    """acts <= factor sqrt(F), in millions, F in GF: the paper's limit for RegNetX."""
    return CostLimit(
        f"acts <= {factor:g} sqrt(F) (M, F in GF)", lambda flops, params, acts: acts <= factor * 1e6 * np.sqrt(1e-9 * flops)
    )


def _check_field(field: str):
    if field not in FIELDS:
        raise ConfigError(f"no stage parameter {field!r}; use one of {', '.join(FIELDS)}")

"""One parameter of a design space: the values it may take and how often each is drawn.

Probabilities come from integer weights, computed in decimal arithmetic, so that every machine draws the same networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property

import numpy as np

from regnet.design_space.inversion import Inversion
from regnet.errors import ConfigError

WEIGHT_SCALE = 2**40
_DECIMAL = Context(prec=34)


@dataclass(frozen=True)
class Choices:
    """A finite set of values in ascending order. rule: "uniform" or "log_uniform"; step: their distance, or None for a list.

    Made by `uniform`, `log_uniform`, `power_of_two_or_log_uniform` and `one_of`.
    """

    values: tuple[float, ...]
    rule: str
    step: float | None = None

    def __post_init__(self):
        if not self.values or min(self.values) < 0 or any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ConfigError(f"{self.values[:8]} must be a non-empty, ascending list of positive values without repetition")

    def __len__(self) -> int:
        return len(self.values)

    def __contains__(self, value: float) -> bool:
        """Whether `value` is one of the values; for a step below 1 (real parameters on a grid) whether it lies in the range."""
        if self.step is not None and self.step < 1:
            return self.values[0] <= value < self.values[-1] + self.step
        return value in self._set

    def __str__(self) -> str:
        if self.step is None:
            return "one of " + ", ".join(f"{value:g}" for value in self.values) if len(self) > 1 else f"{self.values[0]:g}"
        return f"{self.values[0]:g}..{self.values[-1]:g} step {self.step:g}, {self.rule.replace('_', '-')}"

    @cached_property
    def array(self) -> np.ndarray:
        """(len,) float64."""
        return np.array(self.values, np.float64)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(len,) float64, sum 1 but for rounding."""
        weights = np.array(self._weights(), np.float64)  # below 2**53: exact
        return weights / float(sum(self._weights()))

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """The values of numbers in [0, 1), by inversion; any shape."""
        return self.array[self._inversion.find(uniforms.ravel() * self._inversion.total)].reshape(uniforms.shape)

    @cached_property
    def _inversion(self) -> Inversion:
        return Inversion(self.probabilities)

    @cached_property
    def _set(self) -> frozenset:
        return frozenset(self.values)

    def _weights(self) -> list[int]:
        if self.rule == "uniform":
            return [1] * len(self.values)
        low, step = _decimal(self.values[0]), _decimal(self.step)
        edges = [low - min(step, low / 2)] + [_decimal(value) for value in self.values]
        logs = [edge.ln(_DECIMAL) for edge in edges]
        return [int(((b - a) * WEIGHT_SCALE).to_integral_value()) for a, b in zip(logs, logs[1:], strict=False)]


def uniform(low: float, high: float, step: float = 1) -> Choices:
    """low, low + step, ..., high, all equally likely."""
    return Choices(_grid(low, high, step), "uniform", step)


def log_uniform(low: float, high: float, step: float = 1) -> Choices:
    """low, low + step, ..., high: a number log-uniform in (low - min(step, low / 2), high], rounded up to the grid, as in pycls."""
    return Choices(_grid(low, high, step), "log_uniform", step)


def power_of_two_or_log_uniform(low: float, high: float, step: float) -> Choices:
    """pycls' rule for group widths where low >= step: the powers of two below `step` fall away, so it is `log_uniform`.

    Raises ConfigError for low < step, whose powers of two this package does not draw.
    """
    if low < step:
        raise ConfigError(f"power_of_two_or_log_uniform with low={low} below step={step} is not offered; use low >= step, or one_of")
    return log_uniform(low, high, step)


def one_of(*values: float) -> Choices:
    """The given values, all equally likely; for powers of two that is log-uniform."""
    return Choices(tuple(sorted(values)), "uniform")


def as_choices(value: Choices | float | Iterable[float]) -> Choices:
    """Choices as they are, a number as the only choice, an iterable of numbers as `one_of`."""
    if isinstance(value, Choices):
        return value
    return one_of(*value) if isinstance(value, Iterable) else one_of(value)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))


def _grid(low: float, high: float, step: float) -> tuple[float, ...]:
    if not 0 < low <= high or step <= 0:
        raise ConfigError(f"no values from {low} to {high} in steps of {step}; use 0 < low <= high and step > 0")
    first, last, distance = _decimal(low), _decimal(high), _decimal(step)
    if first % distance or last % distance:
        raise ConfigError(f"the ends {low} and {high} must be multiples of the step {step}")
    make = int if distance == int(distance) else float
    return tuple(make(k * distance) for k in range(int(first / distance), int(last / distance) + 1))

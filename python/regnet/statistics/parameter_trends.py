"""How the best value of a parameter moves with flops: the empirical bootstrap in each flop regime (the paper's figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regnet.statistics.bootstrap import BootstrapRange, empirical_bootstrap
from regnet.statistics.samples import SampleError, as_sample

MODELS_AT_LEAST = 8  # in a regime: a quarter of fewer pairs is a single model


@dataclass(frozen=True)
class ParameterTrend:
    """flops: (k,) geometric mean of the models of each regime, rising; best: the bootstrap of the parameter in each."""

    flops: np.ndarray
    best: tuple[BootstrapRange, ...]

    @property
    def median(self) -> np.ndarray:
        return np.array([part.median for part in self.best])

    @property
    def low(self) -> np.ndarray:
        return np.array([part.low for part in self.best])

    @property
    def high(self) -> np.ndarray:
        return np.array([part.high for part in self.best])


def parameter_trend(
    flops: object, x: object, errors: object, *, edges: Sequence[float] | None = None, regimes: int = 4, **settings
) -> ParameterTrend:
    """The bootstrap of `x` against `errors` in each flop regime; flops, x, errors: (n,).

    edges: limits of the regimes, rising, lower one included; None: `regimes` parts of equally many models. Regimes of fewer
    than 8 models are left out. settings: of `empirical_bootstrap`. Raises SampleError as that does, and if no regime is left.
    """
    flops, x, errors = as_sample(flops, "flops"), as_sample(x, "x"), as_sample(errors)
    if not len(flops) == len(x) == len(errors):
        raise SampleError(f"flops, x and errors have {len(flops)}, {len(x)} and {len(errors)} values: give triples")
    if flops.min() <= 0:
        raise SampleError("flops must be above 0")
    if edges is None:
        if not 1 <= regimes * MODELS_AT_LEAST <= len(flops):
            raise SampleError(
                f"{regimes} regimes of {len(flops)} models: each needs {MODELS_AT_LEAST}; use at most {len(flops) // MODELS_AT_LEAST}"
            )
        limits = np.quantile(flops, np.linspace(0, 1, regimes + 1)[1:-1])
    else:
        limits = np.asarray(edges, dtype=np.float64)
        if limits.ndim != 1 or len(limits) < 2 or (np.diff(limits) <= 0).any():
            raise SampleError(f"edges {list(edges)} must be at least two rising numbers")
    regime = np.searchsorted(limits, flops, side="right")
    if edges is not None:
        regime[flops == limits[-1]] = len(limits) - 1
    inside = range(regimes) if edges is None else range(1, len(limits))
    chosen = [members for part in inside if (members := np.flatnonzero(regime == part)).size >= MODELS_AT_LEAST]
    if not chosen:
        raise SampleError(f"no flop regime holds {MODELS_AT_LEAST} models: use fewer regimes or other edges")
    return ParameterTrend(
        np.array([np.exp(np.log(flops[members]).mean()) for members in chosen]),
        tuple(empirical_bootstrap(x[members], errors[members], **settings) for members in chosen),
    )

"""How linear the widths of a network are: the quantized linear rule that fits them best, and the error of that fit (e_fit)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from regnet.design_space.recovery import regnet_parameters
from regnet.errors import ConfigError
from regnet.models.config import AnyNetConfig, RegNetConfig
from regnet.models.widths import QUANTUM, quantized_widths

# The first grid: w_0 about a factor 1.2 apart, w_a 1.25, w_m 0.1. Two finer ones around its best settings follow.
_W_0 = np.unique(np.rint(8 * 1.2 ** np.arange(28) / QUANTUM) * QUANTUM)
_W_A = np.concatenate([[0.0], 0.5 * 1.25 ** np.arange(32)])
_W_M = np.arange(15, 31) / 10
_KEPT = 3
_MAX_DEPTH = 256


@dataclass(frozen=True)
class LinearFit:
    """The setting of least error found: depth, w_0, w_a, w_m; e_fit: mean over blocks of |ln(predicted / observed width)|;
    widths: the predicted widths, one a block."""

    depth: int
    w_0: int
    w_a: float
    w_m: float
    e_fit: float
    widths: tuple[int, ...]


def fit_linear(config: AnyNetConfig | RegNetConfig | Sequence[int]) -> LinearFit:
    """Fit w_0, w_a, w_m (1.5 <= w_m <= 3) to the block widths of a network, or to a list of them, at its depth.

    A network that some parameters give exactly, group compatibility included, has e_fit 0, and gets such parameters (they are not
    unique; `widths` are then the network's own). Any other is compared with the rule's widths before group compatibility, on
    three grids, each finer around the best of the one before. Natural logarithm.

    Raises ConfigError for widths that are not positive or too many.
    """
    network = config.to_anynet() if isinstance(config, RegNetConfig) else config
    if not isinstance(network, AnyNetConfig):
        network = _network_of(network)
    if network is not None:
        exact = next(regnet_parameters(network), None)
        if exact is not None:
            widths = tuple(width for width, depth in zip(network.widths, network.depths, strict=True) for _ in range(depth))
            return LinearFit(exact.depth, exact.w_0, exact.w_a, exact.w_m, 0.0, widths)
        observed = np.repeat(network.widths, network.depths)
    else:
        observed = np.array(config)
    if len(observed) > _MAX_DEPTH:
        raise ConfigError(f"{len(observed)} blocks are more than {_MAX_DEPTH}, which no RegNet has")
    return _search(observed)


def _network_of(widths: Sequence[int]) -> AnyNetConfig | None:
    """The network of a list of block widths, or None where they are no multiples of 8."""
    widths = list(widths)
    if not widths or any(width != int(width) or width < 1 for width in widths):
        raise ConfigError(f"block widths {widths[:8]} must be whole numbers of 1 or more, one a block")
    runs = [(int(width), len(list(run))) for width, run in groupby(widths)]
    if any(width % QUANTUM for width, _ in runs):
        return None
    return AnyNetConfig(tuple(depth for _, depth in runs), tuple(width for width, _ in runs), group_widths=1)


def _search(observed: np.ndarray) -> LinearFit:
    depth, logs = len(observed), np.log(observed)
    settings, predicted = _first_grid(depth)
    errors = np.abs(predicted - logs.astype(np.float32)).mean(axis=1)
    best = settings[np.argpartition(errors, _KEPT)[:_KEPT]]
    best = _finer(best, logs, np.arange(-2, 3) * QUANTUM, 1.25 ** np.linspace(-1, 1, 11), np.linspace(-0.1, 0.1, 11))
    best = _finer(best, logs, np.arange(-1, 2) * QUANTUM, 1.04 ** np.linspace(-1, 1, 9), np.linspace(-0.02, 0.02, 9))
    w_0, w_a, w_m = int(best[0, 0]), float(best[0, 1]), round(float(best[0, 2]), 6)
    widths = quantized_widths(depth, w_0, w_a, w_m)
    error = math.fsum(abs(math.log(width / float(seen))) for width, seen in zip(widths, observed, strict=True)) / depth
    return LinearFit(depth, w_0, w_a, w_m, error, tuple(widths))


@lru_cache(maxsize=32)
def _first_grid(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Settings (n, 3) and the logarithms of their block widths (n, depth) float32."""
    return _settings(_W_0, _W_A, _W_M), _log_widths(_W_0, _W_A, _W_M, depth).astype(np.float32)


def _finer(around, logs, w_0_steps, w_a_factors, w_m_steps) -> np.ndarray:
    """The best setting, (1, 3), of a grid around each of some settings."""
    best, best_error = around[:1], math.inf
    for w_0, w_a, w_m in around:
        grid = (
            np.unique(np.maximum(QUANTUM, w_0 + w_0_steps)),
            w_a * w_a_factors if w_a else np.array([0.0, 0.1, 0.2, 0.3]),
            np.unique(np.clip(w_m + w_m_steps, 1.5, 3.0)),
        )
        errors = np.abs(_log_widths(*grid, len(logs)) - logs).mean(axis=1)
        if errors.min() < best_error:
            best, best_error = _settings(*grid)[[errors.argmin()]], errors.min()
    return best


def _settings(w_0, w_a, w_m) -> np.ndarray:
    return np.stack([grid.ravel() for grid in np.meshgrid(w_0, w_a, w_m, indexing="ij")], axis=1)


def _log_widths(w_0, w_a, w_m, depth: int) -> np.ndarray:
    """ln of the block widths, (settings, depth), for every combination of the three lists."""
    log_m = np.log(w_m)
    rises = np.log1p(w_a[:, None] / w_0[:, None, None] * np.arange(depth))  # (w_0, w_a, blocks)
    levels = np.rint(rises[:, :, None, :] / log_m[:, None]).astype(np.intp)
    widths = np.maximum(1.0, np.rint(w_0[:, None, None] * np.exp(np.arange(levels.max() + 1) * log_m[:, None]) / QUANTUM)) * QUANTUM
    table = np.log(widths)  # (w_0, w_m, levels)
    rows = np.arange(len(w_0))[:, None] * len(w_m) + np.arange(len(w_m))
    return table.ravel()[levels + (rows * table.shape[2])[:, None, :, None]].reshape(-1, depth)

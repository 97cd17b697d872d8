"""How many models must a random search train? The expected best of m (arXiv 2003.13678, appendix on random search)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regnet.statistics.samples import SampleError, as_sample, check_confidence, check_resamples, chunks, generator, tails


@dataclass(frozen=True)
class SearchEfficiency:
    """For each number of models m (k,): `expected`, the mean lowest error of m models; `low`, `high`, between which the outcome of
    one search lies with probability `confidence`; `expected_low`, `expected_high`, the interval of the mean itself (bootstrap over
    the n models; meaningful for m well below n). All (k,)."""

    m: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    expected_low: np.ndarray
    expected_high: np.ndarray
    n: int
    confidence: float

    def enough(self, gap: float) -> int:
        """The smallest m of the curve whose expected best is within `gap` of that of its largest m."""
        return int(self.m[np.flatnonzero(self.expected <= self.expected[-1] + gap)[0]])


def search_efficiency(
    errors: object, m: Sequence[int] | None = None, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> SearchEfficiency:
    """The efficiency of random search in a space of which the models with `errors` (n,) are a sample.

    m: numbers of models, 1..n each; None: 1, 2, 4, ... and n. The expectation is exact: the mean over all subsets of m of the n
    models, an unbiased estimate for the space. Raises SampleError for values that are not finite and m out of range.
    """
    errors = np.sort(as_sample(errors))
    n = len(errors)
    if m is None:
        m = sorted({*(2**k for k in range(n.bit_length()) if 2**k <= n), n})
    sizes = np.asarray(m, dtype=np.int64)
    if sizes.ndim != 1 or not len(sizes) or sizes.min() < 1 or sizes.max() > n:
        raise SampleError(f"m must be numbers of models from 1 to {n} (as many as there are errors), not {list(m)}")
    check_confidence(confidence)
    check_resamples(resamples)
    weights = np.stack([best_weights(n, int(size)) for size in sizes])
    low, high = (_weighted_quantile(errors, weights, q) for q in tails(confidence))
    rng, means = generator(seed), []
    for count in chunks(resamples, 2 * n):
        means.append(np.sort(errors[rng.integers(n, size=(count, n))], axis=1) @ weights.T)
    expected_low, expected_high = np.quantile(np.concatenate(means), tails(confidence), axis=0)
    return SearchEfficiency(sizes, weights @ errors, low, high, expected_low, expected_high, n, confidence)


def best_weights(n: int, m: int) -> np.ndarray:
    """(n,): the probability that the i-th lowest of n values is the lowest of m drawn without replacement,
    C(n - i, m - 1) / C(n, m) for i = 1..n."""
    i = np.arange(1, n)
    factors = np.clip((n - i - m + 1) / (n - i), 0, None)
    return m / n * np.concatenate([[1.0], np.cumprod(factors)])


def _weighted_quantile(ordered: np.ndarray, weights: np.ndarray, q: float) -> np.ndarray:
    """(n,) sorted values and (k, n) weights -> (k,): the smallest value whose cumulated weight reaches q."""
    reached = np.cumsum(weights, axis=1) >= q - 1e-12
    return ordered[np.where(reached.any(axis=1), reached.argmax(axis=1), len(ordered) - 1)]

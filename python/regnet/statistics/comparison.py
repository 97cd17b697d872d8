"""Is design space A better than B? Tests, the probability that a model of A has the lower error, and dominance of the EDFs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regnet.statistics.samples import as_sample, check_confidence, check_resamples, chunks, generator, tails
from regnet.statistics.two_samples import TestResult, ks_test, mann_whitney


@dataclass(frozen=True)
class Comparison:
    """Errors of A against those of B; intervals at `confidence` from `resamples` bootstrap resamples of both.

    ks: largest distance of the EDFs and its p-value. mann_whitney: U of A and its p-value.
    p_better: probability that a random model of A has a lower error than one of B, ties counted half; 0.5 is no difference.
    mean_difference: mean error of A minus that of B.
    a_dominates: share of the resamples in which the EDF of A is nowhere below that of B by more than `tolerance` (A is at least as
    good at every error); b_dominates the other way round. Both can hold at once if tolerance > 0 or the resamples are equal.
    """

    n_a: int
    n_b: int
    ks: TestResult
    mann_whitney: TestResult
    p_better: float
    p_better_interval: tuple[float, float]
    mean_difference: float
    mean_difference_interval: tuple[float, float]
    a_dominates: float
    b_dominates: float
    tolerance: float
    confidence: float
    resamples: int

    def __str__(self) -> str:
        low, high = self.p_better_interval
        return (
            f"P(A better) {self.p_better:.3f} [{low:.3f}, {high:.3f}], KS {self.ks.statistic:.3f} (p {self.ks.pvalue:.2g}), "
            f"A dominates {self.a_dominates:.2f}, B dominates {self.b_dominates:.2f}"
        )


def compare_errors(
    a: object, b: object, *, confidence: float = 0.95, resamples: int = 10_000, tolerance: float = 0.0, seed: int = 0
) -> Comparison:
    """Compare the errors of two samples of models, a: (n,) and b: (m,).

    tolerance: a share; how far one EDF may lie below the other and still count as dominating (0.02 forgives crossings in the
    tails, of which few resamples of equally good tails are free). Raises SampleError as `edf` does.
    """
    a, b = as_sample(a, "a"), as_sample(b, "b")
    check_confidence(confidence)
    check_resamples(resamples)
    values, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    of_a, of_b = places[: len(a)], places[len(a) :]
    rng = generator(seed)
    better, dominated = [], np.zeros(2)
    differences = []
    for count in chunks(resamples, 4 * len(values)):
        shares_a = _resampled_shares(rng, of_a, len(values), count)
        shares_b = _resampled_shares(rng, of_b, len(values), count)
        better.append(_p_better(shares_a, shares_b))
        differences.append((shares_a - shares_b) @ values)
        gap = np.cumsum(shares_a, axis=1) - np.cumsum(shares_b, axis=1)
        slack = tolerance + 1e-12  # sums of shares differ in their last digits
        dominated += (gap >= -slack).all(axis=1).sum(), (gap <= slack).all(axis=1).sum()
    ranks = mann_whitney(a, b)
    return Comparison(
        n_a=len(a), n_b=len(b), ks=ks_test(a, b), mann_whitney=ranks,
        p_better=1 - ranks.statistic / (len(a) * len(b)), p_better_interval=_interval(better, confidence),
        mean_difference=float(a.mean() - b.mean()), mean_difference_interval=_interval(differences, confidence),
        a_dominates=float(dominated[0] / resamples), b_dominates=float(dominated[1] / resamples),
        tolerance=tolerance, confidence=confidence, resamples=resamples,
    )  # fmt: skip


def _resampled_shares(rng: np.random.Generator, places: np.ndarray, values: int, resamples: int) -> np.ndarray:
    """(resamples, values): the share of each distinct value in resamples of a sample that holds value places[i] at i."""
    n = len(places)
    drawn = places[rng.integers(n, size=(resamples, n))]
    drawn += np.arange(resamples)[:, None] * values
    return np.bincount(drawn.ravel(), minlength=resamples * values).reshape(resamples, values) / n


def _p_better(shares_a: np.ndarray, shares_b: np.ndarray) -> np.ndarray:
    """(r, values) each -> (r,): P(a < b) + P(a = b) / 2."""
    below = np.cumsum(shares_a, axis=1) - shares_a / 2
    return np.einsum("rv,rv->r", below, shares_b)


def _interval(parts: list[np.ndarray], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(parts), tails(confidence))
    return float(low), float(high)

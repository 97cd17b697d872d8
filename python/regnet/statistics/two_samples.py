"""Tests of whether two samples come from one distribution: Kolmogorov-Smirnov and Mann-Whitney, with numpy alone."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from regnet.statistics.samples import as_sample

EXACT_UP_TO = 10_000  # models in the larger sample; the exact p-value costs n_a * n_b steps


class TestResult(NamedTuple):
    """statistic and two-sided p-value."""

    __test__ = False  # no test of pytest's

    statistic: float
    pvalue: float


def ks_test(a: object, b: object) -> TestResult:
    """Two-sample Kolmogorov-Smirnov test: the largest distance of the two EDFs, and how often chance makes one as large.

    Exact (conservative where values tie) up to 10,000 models a sample, by the limit distribution above.
    """
    a, b = np.sort(as_sample(a, "a")), np.sort(as_sample(b, "b"))
    n, m = len(a), len(b)
    pooled = np.concatenate([a, b])
    steps = np.abs(np.searchsorted(a, pooled, side="right") * m - np.searchsorted(b, pooled, side="right") * n)
    distance = int(steps.max())  # of the EDFs, times n m: whole numbers do not round
    pvalue = _exact_ks(n, m, distance) if max(n, m) <= EXACT_UP_TO else _limit_ks(distance / (n * m) * math.sqrt(n * m / (n + m)))
    return TestResult(distance / (n * m), pvalue)


def mann_whitney(a: object, b: object) -> TestResult:
    """Mann-Whitney U of a (pairs in which a's value is the larger one, ties half) and the p-value of its normal limit, with
    corrections for ties and continuity."""
    a, b = as_sample(a, "a"), as_sample(b, "b")
    n, m = len(a), len(b)
    ordered = np.sort(b)
    u = float(np.searchsorted(ordered, a, side="left").sum() + np.searchsorted(ordered, a, side="right").sum()) / 2
    _, ties = np.unique(np.concatenate([a, b]), return_counts=True)
    total = n + m
    tied = float((ties.astype(np.float64) ** 3 - ties).sum())
    variance = n * m / 12 * (total + 1 - tied / (total * (total - 1)))
    if variance <= 0:  # all values are equal
        return TestResult(u, 1.0)
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return TestResult(u, min(1.0, 2 * NormalDist().cdf(-z)))


def _exact_ks(n: int, m: int, distance: int) -> float:
    """Share of the orders of n and m values in which the EDFs get as far apart as `distance` / (n m).

    c(i, j) is that share for the first i and j values: 1 where |i m - j n| >= distance, else the mean of c(i - 1, j) and c(i, j - 1)
    weighted i : j. Diagonal by diagonal (i + j = k); no differences, so small p-values keep their digits
    (T. Viehmann, arXiv 2102.08037).
    """
    if distance == 0:
        return 1.0
    i = np.arange(n + 1)
    shares = np.zeros(n + 1)  # of the diagonal k = 0
    for k in range(1, n + m + 1):
        low, high = max(0, k - m), min(n, k)
        here = i[low : high + 1]
        from_left = np.where(here > 0, shares[np.maximum(here - 1, 0)], 0.0)
        mixed = (here * from_left + (k - here) * shares[low : high + 1]) / k
        apart = np.abs(here * m - (k - here) * n) >= distance
        shares[low : high + 1] = np.where(apart, 1.0, mixed)
    return float(min(1.0, shares[n]))


def _limit_ks(z: float) -> float:
    """Kolmogorov's distribution: P(K > z)."""
    if z < 0.2:
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * k**2 * z * z)), 0, 1))

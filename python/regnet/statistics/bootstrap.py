"""Which value of a parameter is best? The paper's empirical bootstrap (arXiv 2003.13678, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from regnet.statistics.samples import SampleError, as_sample, check_confidence, check_resamples, chunks, generator, tails


@dataclass(frozen=True)
class BootstrapRange:
    """median: the likely best value of the parameter. low, high: the range of good values, at `confidence`.

    values: the best value of each resample (resamples,); drawn: pairs a resample holds, of n.
    """

    median: float
    low: float
    high: float
    n: int
    drawn: int
    resamples: int
    confidence: float
    values: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


def empirical_bootstrap(
    x: object, errors: object, *, share: float = 0.25, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> BootstrapRange:
    """Draw `share` of the (x, error) pairs with replacement and keep the x of the lowest error, `resamples` times.

    x, errors: (n,). Of pairs with equal errors each is kept equally often. The quantiles are values that occur in x. Raises
    SampleError for lengths that differ, values that are not finite, and settings out of range.
    """
    x, errors = as_sample(x, "x"), as_sample(errors)
    if len(x) != len(errors):
        raise SampleError(f"x has {len(x)} values and errors {len(errors)}: give pairs")
    if not 0 < share <= 1:
        raise SampleError(f"share {share} is outside of 0..1; the paper draws 0.25 of the pairs")
    check_confidence(confidence)
    n, drawn = len(x), max(1, round(share * len(x)))
    order = np.argsort(errors, kind="stable")
    _, starts, sizes = np.unique(errors[order], return_index=True, return_counts=True)
    first_of_tie, ties = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    rng = generator(seed)
    best = np.empty(check_resamples(resamples), dtype=np.int64)  # places in `order`: the lowest place has the lowest error
    done = 0
    for count in chunks(resamples, drawn):
        place = rng.integers(n, size=(count, drawn)).min(axis=1)
        best[done : done + count] = first_of_tie[place] + (rng.random(count) * ties[place]).astype(np.int64)
        done += count
    values = x[order[best]]
    low, high = tails(confidence)
    low, median, high = np.quantile(values, (low, 0.5, high), method="inverted_cdf")
    return BootstrapRange(float(median), float(low), float(high), n, drawn, resamples, confidence, values)

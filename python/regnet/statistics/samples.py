"""What every statistic asks of its input, its generator, and the bootstrap counts that several of them are made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from regnet.errors import RegNetError

CHUNK = 1 << 21  # numbers held at once by a resampling loop: 16 MB of float64


class SampleError(RegNetError, ValueError):
    """Values that a statistic cannot be computed from."""


def as_sample(values: object, name: str = "errors", at_least: int = 1) -> np.ndarray:
    """A one-dimensional float64 array. Raises SampleError for another shape, too few values, or values that are not finite."""
    try:
        sample = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SampleError(f"{name} must be numbers: {error}; leave models without a result out") from error
    if sample.ndim != 1:
        raise SampleError(f"{name} must be a list of numbers, not an array of shape {sample.shape}")
    if len(sample) < at_least:
        raise SampleError(f"{name} has {len(sample)} values: at least {at_least} {'is' if at_least == 1 else 'are'} needed")
    if not np.isfinite(sample).all():
        at = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise SampleError(f"{name}[{at}] is {sample[at]}: leave models without a result out, or give them the error of guessing")
    return sample


def check_confidence(confidence: float) -> float:
    """Raises SampleError outside of 0..1, both excluded."""
    if not 0 < confidence < 1:
        raise SampleError(f"confidence {confidence} is outside of 0..1; use e.g. 0.95")
    return float(confidence)


def check_resamples(resamples: int) -> int:
    if resamples < 1:
        raise SampleError(f"resamples {resamples}: use at least 1; the paper takes 10,000")
    return int(resamples)


def tails(confidence: float) -> tuple[float, float]:
    """The two quantiles that a central interval lies between: 0.95 -> (0.025, 0.975)."""
    return (1 - confidence) / 2, (1 + confidence) / 2


def generator(seed: int) -> np.random.Generator:
    """PCG64: the same numbers from the same seed on any machine."""
    return np.random.Generator(np.random.PCG64(seed))


def chunks(resamples: int, numbers_each: int) -> Iterator[int]:
    """Sizes that sum to `resamples`, each of at most CHUNK numbers."""
    size = max(1, CHUNK // max(1, numbers_each))
    for done in range(0, resamples, size):
        yield min(size, resamples - done)


def resampled_counts(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """How often each of n values occurs in each of `resamples` draws of n with replacement: (resamples, n) int64."""
    drawn = rng.integers(n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)

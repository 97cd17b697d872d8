"""The error distribution of a design space: the empirical distribution function, with confidence bands (arXiv 2003.13678, eq. 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from regnet.statistics.samples import SampleError, as_sample, check_confidence

BANDS = ("dkw", "pointwise")


@dataclass(frozen=True)
class EDF:
    """F(e): the share of models with an error below e, of the n models whose errors are `errors` (n,), sorted.

    band says what `interval` gives: "dkw" a band that holds the whole true curve with probability `confidence`
    (Dvoretzky-Kiefer-Wolfowitz, Massart's constant), "pointwise" an interval that holds each of its points with about that
    probability (Wilson's for a share), which is narrower.
    """

    errors: np.ndarray
    confidence: float
    band: Literal["dkw", "pointwise"]

    @property
    def n(self) -> int:
        return len(self.errors)

    @property
    def min(self) -> float:
        return float(self.errors[0])

    @property
    def mean(self) -> float:
        return float(self.errors.mean())

    @property
    def median(self) -> float:
        return float(np.median(self.errors))

    @property
    def legend(self) -> str:
        """n | min | mean, as in the paper's figures."""
        return f"{self.n} | {self.min:.1f} | {self.mean:.1f}"

    def __call__(self, e: float | np.ndarray) -> float | np.ndarray:
        """The share of models with an error below e (of any shape)."""
        return np.searchsorted(self.errors, e, side="left") / self.n

    def interval(self, e: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the band at e, within 0..1."""
        return self._around(np.asarray(self(e)))

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For a step plot: each distinct error (k,), and share, lower and upper band just above it (k,)."""
        values, counts = np.unique(self.errors, return_counts=True)
        share = np.cumsum(counts) / self.n
        return values, share, *self._around(share)

    def _around(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.band == "dkw":
            half = math.sqrt(math.log(2 / (1 - self.confidence)) / (2 * self.n))
            return np.clip(share - half, 0, 1), np.clip(share + half, 0, 1)
        z = NormalDist().inv_cdf((1 + self.confidence) / 2)
        shrink = 1 + z * z / self.n
        middle = (share + z * z / (2 * self.n)) / shrink
        half = z / shrink * np.sqrt(share * (1 - share) / self.n + z * z / (4 * self.n**2))
        return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def edf(errors: object, *, confidence: float = 0.95, band: Literal["dkw", "pointwise"] = "dkw") -> EDF:
    """The error EDF of a sample of models.

    errors: (n,), in any unit (per cent in the paper). Raises SampleError for no values, values that are not finite, a confidence
    outside of 0..1 or an unknown band.
    """
    if band not in BANDS:
        raise SampleError(f"band {band!r} is unknown; use {' or '.join(map(repr, BANDS))}")
    return EDF(np.sort(as_sample(errors)), check_confidence(confidence), band)

"""How complexity and runtime grow with flops: acts = a sqrt(F), params = a + b F, runtime = a F + b sqrt(F), with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from regnet.statistics.samples import (
    SampleError,
    as_sample,
    check_confidence,
    check_resamples,
    chunks,
    generator,
    resampled_counts,
    tails,
)


@dataclass(frozen=True)
class TrendForm:
    """A curve that is linear in its coefficients: text, and the terms of x that they multiply."""

    name: str
    terms: tuple[str, ...]
    basis: tuple[Callable[[np.ndarray], np.ndarray], ...]

    def design(self, x: np.ndarray) -> np.ndarray:
        """(n,) -> (n, terms)."""
        return np.stack([term(x) for term in self.basis], axis=-1)


FORMS = {
    form.name: form
    for form in (
        TrendForm("sqrt", ("sqrt(F)",), (np.sqrt,)),
        TrendForm("proportional", ("F",), (np.asarray,)),
        TrendForm("linear", ("1", "F"), (np.ones_like, np.asarray)),
        TrendForm("linear_sqrt", ("F", "sqrt(F)"), (np.asarray, np.sqrt)),
    )
}
# What the paper fits to each quantity (its figure 12).
FORM_OF = {"acts": "sqrt", "params": "linear", "runtime": "linear_sqrt"}


@dataclass(frozen=True)
class Trend:
    """A fitted curve. coefficients (t,) in the order of form.terms, each with low and high of its interval (t,).

    r2: share of the variance of y that the curve explains. relative_residual: root mean square of (y - fit) / y.
    bootstrap: coefficients of each resample of the points (resamples, t).
    """

    form: TrendForm
    coefficients: np.ndarray
    low: np.ndarray
    high: np.ndarray
    r2: float
    relative_residual: float
    n: int
    confidence: float
    bootstrap: np.ndarray = field(repr=False)

    def __call__(self, x: float | np.ndarray) -> float | np.ndarray:
        return self.form.design(np.asarray(x, dtype=np.float64)) @ self.coefficients

    def interval(self, x: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of the curve at x (of any shape), from the bootstrap."""
        curves = self.form.design(np.asarray(x, dtype=np.float64)) @ self.bootstrap.T
        low, high = np.quantile(curves, tails(self.confidence), axis=-1)
        return low, high

    def __str__(self) -> str:
        terms = (
            f"{value:.3g}" + (f" {term}" if term != "1" else "")
            for value, term in zip(self.coefficients, self.form.terms, strict=True)
        )
        return " + ".join(terms).replace("+ -", "- ")


def fit_trend(
    x: object,
    y: object,
    form: str = "linear_sqrt",
    *,
    relative: bool = True,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Trend:
    """Least squares of y (n,) on x (n,) (flops in GF, as the paper writes its fits) in one of the FORMS.

    relative: minimise (y - fit) / y, so that a model of 0.2 GF counts as much as one of 32 GF (this gives the 6.3 F + 20 sqrt(F) ms
    of RegNetX on a V100); False: minimise y - fit. The intervals come from resampling the points. Raises SampleError for an unknown
    form, x < 0, no more points than coefficients, or fewer distinct x than coefficients.
    """
    if form not in FORMS:
        raise SampleError(f"form {form!r} is unknown; use one of {', '.join(map(repr, FORMS))}")
    curve = FORMS[form]
    terms = len(curve.terms)
    x, y = as_sample(x, "x", terms + 1), as_sample(y, "y", terms + 1)
    if len(x) != len(y):
        raise SampleError(f"x has {len(x)} values and y {len(y)}: give pairs")
    if x.min() < 0 or len(np.unique(x)) < terms:
        raise SampleError(
            f"a {form} trend needs at least {terms} different x, none below 0; got {len(np.unique(x))}, the lowest {x.min():g}"
        )
    if relative and (y <= 0).any():
        raise SampleError("a relative fit needs y above 0")
    check_confidence(confidence)
    design, weights = curve.design(x), 1 / y**2 if relative else np.ones_like(y)
    coefficients = _solve(design, y, weights[None])[0]
    rng, found = generator(seed), []
    for count in chunks(check_resamples(resamples), 2 * len(x)):
        found.append(_solve(design, y, weights * _usable_counts(rng, x, count, terms)))
    bootstrap = np.concatenate(found)
    low, high = np.quantile(bootstrap, tails(confidence), axis=0)
    residual = y - design @ coefficients
    spread = float(((y - y.mean()) ** 2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        relative_residual = float(np.sqrt(np.mean((residual / y) ** 2)))
    r2 = 1 - float((residual**2).sum()) / spread if spread else float("nan")
    return Trend(curve, coefficients, low, high, r2, relative_residual, len(x), confidence, bootstrap)


def _solve(design: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares, once for each row of weights (r, n) -> (r, terms)."""
    scale = np.sqrt((design**2).mean(axis=0))  # terms of one size: the normal equations stay well conditioned
    scaled = design / scale
    products = np.einsum("ni,nj->nij", scaled, scaled).reshape(len(y), -1)
    left = (weights @ products).reshape(-1, scaled.shape[1], scaled.shape[1])
    right = weights @ (scaled * y[:, None])
    return np.linalg.solve(left, right[..., None])[..., 0] / scale


def _usable_counts(rng: np.random.Generator, x: np.ndarray, resamples: int, terms: int) -> np.ndarray:
    """Bootstrap counts (resamples, n) that hold at least `terms` different x; others are drawn again."""
    distinct = np.unique(x, return_inverse=True)[1]
    counts = resampled_counts(rng, len(x), resamples)
    while len(bad := np.flatnonzero(_distinct(counts, distinct) < terms)):
        counts[bad] = resampled_counts(rng, len(x), len(bad))
    return counts


def _distinct(counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(r, n) counts of points, place of each among the distinct x (n,) -> (r,): how many different x were drawn."""
    members = places[:, None] == np.arange(places.max() + 1)
    return ((counts @ members) > 0).sum(axis=1)

"""Statistics of design spaces against scipy, against plain loops, and against what is known exactly."""

import itertools
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regnet.statistics import (
    SampleError,
    compare_errors,
    edf,
    empirical_bootstrap,
    fit_trend,
    ks_test,
    mann_whitney,
    parameter_trend,
    search_efficiency,
)
from regnet.statistics.search_efficiency import best_weights

# Coarse values, so that ties are as common as they are among printed errors.
SAMPLES = st.lists(st.integers(0, 30).map(lambda i: 40 + i / 2) | st.floats(0, 100), min_size=1, max_size=30)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_importing_the_statistics_brings_in_neither_torch_nor_scipy():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, regnet.statistics; print(*sys.modules)"], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert not {"torch", "scipy", "matplotlib", "rich"} & set(done.stdout.split())


@given(SAMPLES, st.sampled_from([0.5, 0.9, 0.95]))
def test_edf_is_the_share_below_and_its_bands_are_those_of_the_books(errors, confidence):
    curve = edf(errors, confidence=confidence)
    n = len(errors)
    assert curve.n == n and curve.min == min(errors) and math.isclose(curve.mean, np.mean(errors), abs_tol=1e-12)
    points = np.array([*errors, -1.0, 101.0, 50.25])
    assert np.allclose(curve(points), [sum(e < p for e in errors) / n for p in points])
    values, share, low, high = curve.steps()
    assert np.allclose(share, stats.ecdf(errors).cdf.probabilities) and np.allclose(values, stats.ecdf(errors).cdf.quantiles)
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * n))
    assert np.allclose(low, np.maximum(share - half, 0)) and np.allclose(high, np.minimum(share + half, 1))
    _, _, low, high = edf(errors, confidence=confidence, band="pointwise").steps()
    for k, lower, upper in zip(np.round(share * n), low, high, strict=True):
        expected = stats.binomtest(int(k), n).proportion_ci(confidence, method="wilson")
        assert math.isclose(lower, max(0, expected.low), abs_tol=1e-9) and math.isclose(upper, min(1, expected.high), abs_tol=1e-9)


@pytest.mark.parametrize("band", ["dkw", "pointwise"])
def test_edf_bands_hold_the_true_curve_as_often_as_they_say(band):
    """dkw: the whole curve; pointwise: each point."""
    points = np.linspace(0.05, 0.95, 181)
    inside = []
    for seed in range(400):
        low, high = edf(rng(seed).random(100), confidence=0.9, band=band).interval(points)
        inside.append((low <= points) & (points <= high))
    if band == "dkw":
        assert np.all(inside, axis=1).mean() > 0.88
    else:
        assert 0.86 < np.mean(inside) < 0.94 and np.all(inside, axis=1).mean() < 0.7


def test_edf_legend():
    assert edf([39.04, 40, 44]).legend == "3 | 39.0 | 41.0"


@given(SAMPLES, SAMPLES)
def test_two_sample_tests_are_scipys(a, b):
    ours, theirs = ks_test(a, b), stats.ks_2samp(a, b, method="exact")
    assert math.isclose(ours.statistic, theirs.statistic, abs_tol=1e-12)
    assert math.isclose(ours.pvalue, theirs.pvalue, rel_tol=1e-6, abs_tol=1e-12)
    ours, theirs = mann_whitney(a, b), stats.mannwhitneyu(a, b, method="asymptotic")
    assert ours.statistic == theirs.statistic
    assert math.isclose(ours.pvalue, theirs.pvalue, rel_tol=1e-9) or (math.isnan(theirs.pvalue) and ours.pvalue == 1)


def test_ks_far_out_and_for_large_samples():
    near, far = rng(0).normal(size=500), rng(1).normal(2.0, size=400)
    exact = stats.ks_2samp(near, far, method="exact").pvalue
    assert exact < 1e-100 and math.isclose(ks_test(near, far).pvalue, exact, rel_tol=1e-6)
    a, b = rng(2).random(12_000), rng(3).random(9_000) ** 1.02
    assert math.isclose(ks_test(a, b).pvalue, stats.ks_2samp(a, b, method="asymp").pvalue, rel_tol=0.02)


@given(SAMPLES, SAMPLES)
def test_probability_of_the_better_model_counts_pairs(a, b):
    found = compare_errors(a, b, resamples=50)
    pairs = [(x < y) + (x == y) / 2 for x in a for y in b]
    assert math.isclose(found.p_better, np.mean(pairs), abs_tol=1e-9)
    assert math.isclose(found.p_better, 1 - found.mann_whitney.statistic / len(pairs), abs_tol=1e-9)
    assert found.p_better_interval[0] <= found.p_better_interval[1]
    assert math.isclose(found.mean_difference, np.mean(a) - np.mean(b), abs_tol=1e-9)


def test_comparison_bootstrap_is_that_of_a_plain_loop():
    a, b = np.round(rng(0).normal(40.0, 2, 60), 1), np.round(rng(1).normal(41.5, 2, 50), 1)
    found = compare_errors(a, b, resamples=4000, tolerance=0.05)
    draw = rng(2)
    better, difference, dominates = [], [], []
    points = np.unique(np.concatenate([a, b]))
    for _ in range(4000):
        x, y = np.sort(draw.choice(a, len(a))), np.sort(draw.choice(b, len(b)))
        below = np.searchsorted(x, y, side="left") + np.searchsorted(x, y, side="right")
        better.append(below.mean() / 2 / len(x))
        difference.append(x.mean() - y.mean())
        share = [np.searchsorted(z, points, side="right") / len(z) for z in (x, y)]
        dominates.append(((share[0] - share[1]) >= -0.05 - 1e-9).all())
    assert np.allclose(found.p_better_interval, np.quantile(better, (0.025, 0.975)), atol=0.01)
    assert np.allclose(found.mean_difference_interval, np.quantile(difference, (0.025, 0.975)), atol=0.06)
    assert abs(found.a_dominates - np.mean(dominates)) < 0.04 and 0.2 < found.a_dominates < 0.98 and found.b_dominates < 0.01


def test_a_clearly_better_space_dominates_and_an_equal_one_does_not():
    better, worse = rng(0).normal(38, 1, 300), rng(1).normal(48, 1, 300)
    found = compare_errors(better, worse, resamples=500)
    assert found.p_better > 0.999 and found.a_dominates == 1 and found.b_dominates == 0 and found.ks.pvalue < 1e-50
    swapped = compare_errors(worse, better, resamples=500)
    assert swapped.b_dominates == 1 and math.isclose(swapped.p_better, 1 - found.p_better, abs_tol=1e-9)
    same = compare_errors(worse, worse + 0.0, resamples=500)
    assert same.p_better == 0.5 and same.ks.statistic == 0 and same.a_dominates < 0.2


def test_bootstrap_draws_what_a_plain_loop_draws():
    x, errors = rng(0).random(40), np.round(rng(1).normal(40, 1, 40))  # with ties
    found = empirical_bootstrap(x, errors, resamples=20_000)
    assert found.drawn == 10 and found.n == 40 and len(found.values) == 20_000
    draw, kept = rng(2), []
    for _ in range(20_000):
        pairs = draw.integers(40, size=10)
        kept.append(x[draw.choice(pairs[errors[pairs] == errors[pairs].min()])])
    ours, theirs = ([np.mean(np.asarray(values) == value) for value in x] for values in (found.values, kept))
    assert np.abs(np.subtract(ours, theirs)).max() < 0.015


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_bootstrap_does_not_depend_on_the_order_of_the_pairs(x, random):
    errors = list(range(len(x)))
    order = random.sample(errors, len(x))
    a = empirical_bootstrap(x, errors, resamples=200)
    b = empirical_bootstrap([x[i] for i in order], order, resamples=200)
    assert np.array_equal(a.values, b.values) and a.low <= a.median <= a.high and {a.low, a.median, a.high} <= set(x)


def test_bootstrap_finds_the_best_value_and_all_of_the_rest_only_by_chance():
    x = np.repeat(np.arange(1.0, 5.0), 125)
    found = empirical_bootstrap(x, 40 + (x - 2) ** 2 + rng(0).normal(0, 0.1, 500))
    assert (found.low, found.median, found.high) == (2, 2, 2)
    found = empirical_bootstrap(x, rng(0).random(500))
    assert found.low == 1 and found.high == 4


def test_expected_best_is_the_mean_over_all_subsets():
    errors = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    found = search_efficiency(errors, range(1, 8), confidence=0.5)
    for m, expected, low, high in zip(found.m, found.expected, found.low, found.high, strict=True):
        best = [min(subset) for subset in itertools.combinations(errors, int(m))]
        assert math.isclose(expected, np.mean(best))
        assert (low, high) == tuple(np.quantile(best, (0.25, 0.75), method="inverted_cdf"))
    assert found.enough(0) == 6 and found.enough(100) == 1


@given(st.integers(1, 400), st.data())
def test_weights_of_the_best_are_a_distribution(n, data):
    m = data.draw(st.integers(1, n))
    weights = best_weights(n, m)
    i = np.arange(1, n + 1)
    assert math.isclose(weights.sum(), 1, rel_tol=1e-9)
    expected = [math.comb(n - k, m - 1) / math.comb(n, m) for k in map(int, i)]
    assert np.allclose(weights, expected, rtol=1e-7, atol=1e-300)


def test_expected_best_has_no_bias_and_its_interval_holds_the_truth():
    """Uniform errors: the expected best of m is 1 / (m + 1)."""
    m = [1, 2, 8, 32]
    found = [search_efficiency(rng(seed).random(200), m, resamples=200) for seed in range(200)]
    truth = 1 / (1 + np.array(m))
    mean = np.mean([one.expected for one in found], axis=0)
    assert np.allclose(mean, truth, rtol=0.03)
    inside = np.mean([(one.expected_low <= truth) & (truth <= one.expected_high) for one in found], axis=0)
    assert (inside > 0.85).all()


def test_ten_thousand_resamples_of_five_hundred_models_are_quick_and_small():
    x, errors = rng(0).random(500), rng(1).random(500)
    tracemalloc.start()
    empirical_bootstrap(x, errors)
    compare_errors(errors, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_trend_of_exact_data_is_exact():
    flops = np.geomspace(0.2, 32, 12)
    for form, y, expected in (
        ("sqrt", 6.5 * np.sqrt(flops), [6.5]),
        ("proportional", 3 * flops, [3]),
        ("linear", 3 + 5.5 * flops, [3, 5.5]),
        ("linear_sqrt", 6.3 * flops + 20 * np.sqrt(flops), [6.3, 20]),
    ):
        for relative in (True, False):
            found = fit_trend(flops, y, form, relative=relative, resamples=200)
            assert np.allclose(found.coefficients, expected) and np.allclose([found.low, found.high], expected, rtol=1e-6)
            assert math.isclose(found.r2, 1) and np.allclose(found(flops), y) and np.allclose(found.interval(flops), y)
    assert str(found) == "6.3 F + 20 sqrt(F)"


def test_trend_is_least_squares_and_its_interval_holds_the_truth():
    flops = np.geomspace(0.2, 32, 30)
    inside = []
    for seed in range(200):
        y = (6 * flops + 20 * np.sqrt(flops)) * np.exp(rng(seed).normal(0, 0.1, 30))
        found = fit_trend(flops, y, resamples=300, seed=seed)
        inside.append((found.low <= [6, 20]) & ([6, 20] <= found.high))
    expected = np.linalg.lstsq(np.stack([flops, np.sqrt(flops)], 1) / y[:, None], np.ones(30), rcond=None)[0]
    assert np.allclose(found.coefficients, expected)
    assert (np.mean(inside, axis=0) > 0.85).all()


def test_the_published_v100_times_of_regnetx_follow_6_3_f_plus_20_sqrt_f():
    from regnet.published import published_models

    models = [model for model in published_models() if model.family == "RegNetX"]
    found = fit_trend([model.flops / 1e9 for model in models], [model.v100_ms for model in models])
    assert len(models) == 12 and str(found) == "6.3 F + 20 sqrt(F)"
    assert found.r2 > 0.99 and (found.low < found.coefficients).all() and (found.coefficients < found.high).all()


def test_parameter_trend_finds_what_moves_with_flops():
    draw = rng(0)
    flops = np.exp(draw.uniform(np.log(0.2), np.log(12), 2000))
    x = draw.uniform(0, 6, 2000)
    found = parameter_trend(flops, x, (x - (2 + np.log(flops))) ** 2 + draw.normal(0, 0.05, 2000), regimes=4)
    assert (np.diff(found.median) > 0).all() and (np.abs(found.median - 2 - np.log(found.flops)) < 0.6).all()
    edges = parameter_trend(flops, x, x, edges=(0.2, 1, 4, 12))
    assert len(edges.best) == 3 and (edges.low <= edges.median).all()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: edf([]), "0 values: at least 1 is needed"),
        (lambda: edf([1, float("nan")]), r"errors\[1\] is nan: leave models without a result out"),
        (lambda: edf([1, None]), "must be numbers|is nan"),
        (lambda: edf([[1]]), r"shape \(1, 1\)"),
        (lambda: edf([1], confidence=95), "confidence 95 is outside"),
        (lambda: edf([1], band="bootstrap"), "'dkw' or 'pointwise'"),
        (lambda: empirical_bootstrap([1, 2], [1]), "x has 2 values and errors 1"),
        (lambda: empirical_bootstrap([1], [1], share=25), "the paper draws 0.25"),
        (lambda: search_efficiency([1, 2], [3]), "from 1 to 2"),
        (lambda: fit_trend([1, 1, 1], [1, 2, 3]), "at least 2 different x"),
        (lambda: fit_trend([1, 2], [1, 2]), "2 values: at least 3 are needed"),
        (lambda: fit_trend([1, 2, 3], [1, 2, 3], "cubic"), "use one of 'sqrt'"),
        (lambda: parameter_trend([1] * 20, [1] * 20, [1] * 20), "4 regimes of 20 models: each needs 8; use at most 2"),
        (lambda: parameter_trend([1] * 20, [1] * 20, [1] * 20, edges=(5, 6)), "no flop regime holds 8 models"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(call, reason):
    with pytest.raises(SampleError, match=reason):
        call()

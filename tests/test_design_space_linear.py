"""The quantized linear rule for many networks at once, the way back from a network to its parameters, and the fit of any other."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import regnet
from regnet.design_space import AnyNetXC, AnyNetXE, RegNetX, fit_linear, quantized_widths, regnet_parameters, regnet_stages
from regnet.errors import ConfigError
from regnet.models import find_model, list_models, quantized_levels


def test_stages_are_those_of_the_rule_also_at_ties():
    rng = np.random.default_rng(0)
    n = 20_000
    depth, w_0 = rng.integers(1, 64, n), 8 * rng.integers(1, 32, n)
    w_a, w_m = rng.integers(80, 2560, n) / 10, rng.integers(1500, 3001, n) / 1000
    w_m[::4] = rng.choice([2.25, 1.5625, 2.56, 2.0], len(w_m[::4]))  # whose square roots are short: the logarithms meet in a half
    w_a[::8] = w_0[::8] * rng.choice([0.25, 0.5, 1.0], len(w_a[::8]))
    valid, depths, widths = regnet_stages(depth, w_0, w_a, w_m, 4)
    assert 0.05 < valid.mean() < 0.5
    for k in range(0, n, 4):
        rule = (int(depth[k]), int(w_0[k]), float(w_a[k]), float(w_m[k]))
        blocks = quantized_widths(*rule)
        assert valid[k] == (set(quantized_levels(*rule)) == {0, 1, 2, 3} and len(set(blocks)) == 4)
        if valid[k]:
            assert np.repeat(widths[k], depths[k]).tolist() == blocks


@pytest.mark.parametrize("name", list_models("regnet*"))
def test_published_models_are_found_again(name):
    """Perhaps by other parameters, as they are not unique: the network is the same."""
    config = find_model(name)[0].config
    fit = fit_linear(config)
    found = replace(config, w_0=fit.w_0, w_a=fit.w_a, w_m=fit.w_m)
    network = config.to_anynet()
    assert fit.e_fit == 0 and fit.depth == config.depth and found.to_anynet() == network
    assert list(fit.widths) == [spec.w_out for spec in network.blocks()]
    assert any((p.w_0, p.w_m) == (config.w_0, config.w_m) for p in regnet_parameters(network))


def test_every_sampled_regnet_fits_exactly():
    for config in RegNetX.sample(40, seed=7):
        fit = fit_linear(config)
        assert fit.e_fit == 0 and replace(config, w_0=fit.w_0, w_a=fit.w_a, w_m=fit.w_m).to_anynet() == config.to_anynet()


def test_the_fit_error_falls_from_c_to_e_and_is_what_it_says():
    means = []
    for space in (AnyNetXC, AnyNetXE):
        fits = []
        for config in space.sample(60, seed=0, flops=(360e6, 400e6)):
            fit = fit_linear(config)
            observed = [spec.w_out for spec in config.blocks()]
            assert len(fit.widths) == len(observed) == fit.depth and 1.5 <= fit.w_m <= 3
            if fit.e_fit:
                assert list(fit.widths) == quantized_widths(fit.depth, fit.w_0, fit.w_a, fit.w_m)
                assert fit.e_fit == pytest.approx(np.mean([abs(math.log(a / b)) for a, b in zip(fit.widths, observed, strict=True)]))
            fits.append(fit.e_fit)
        means.append(np.mean(fits))
    assert means[1] < 0.7 * means[0]


@given(st.lists(st.integers(1, 128), min_size=1, max_size=5), st.integers(0, 10**6))
def test_the_fit_is_about_as_good_as_a_fine_search(multiples, seed):
    """Against 300 random settings near the observed widths."""
    rng = np.random.default_rng(seed)
    observed = np.repeat(8 * np.array(multiples), rng.integers(1, 6, len(multiples)))
    fit = fit_linear(observed.tolist())
    for _ in range(300):
        w_0 = 8 * int(rng.integers(1, 2 + observed[0] // 4))
        setting = (len(observed), w_0, float(rng.uniform(0, 2 * observed.max())) / len(observed), float(rng.uniform(1.5, 3)))
        error = np.abs(np.log(np.array(quantized_widths(*setting)) / observed)).mean()
        assert fit.e_fit <= error + 0.05


def test_lists_and_bad_ones():
    assert fit_linear(quantized_widths(13, 24, 36.44, 2.49)).e_fit == 0
    assert fit_linear([64] * 20).widths == (64,) * 20
    assert 0 < fit_linear([30, 50, 77]).e_fit < 0.2  # no multiples of 8
    for bad in ([], [8, -8], [8.5]):
        with pytest.raises(ConfigError, match="whole numbers of 1 or more"):
            fit_linear(bad)
    assert list(regnet_parameters(regnet.AnyNetConfig((1, 1), (64, 32)))) == []

"""Design spaces: sizes, membership, what samples promise, and that the sampler by cells has the distribution of rejection."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import regnet
from regnet.design_space import (
    SPACES,
    AnyNetSettings,
    AnyNetSpace,
    AnyNetXA,
    AnyNetXD,
    AnyNetXE,
    AnyNetXEDecreasing,
    RegNetSettings,
    RegNetSpace,
    RegNetV,
    RegNetX,
    RegNetXConstrained,
    RegNetXW0Wa,
    RegNetY,
    RegNetYConstrained,
    Shared,
    Where,
    find_space,
    log_uniform,
    make_networks,
    non_decreasing,
    non_increasing,
    one_of,
    uniform,
)
from regnet.design_space import anynet_cells, regnet_cells
from regnet.design_space.constraints import FIELDS
from regnet.design_space.counts import COUNTED, count_one_by_one
from regnet.design_space.networks import Template
from regnet.design_space.windows import Window
from regnet.errors import ConfigError
from regnet.models import adjust_group_widths, find_model, list_models, quantized_levels

MEGA = 1e6
PAPER_WINDOW = (360 * MEGA, 400 * MEGA)


# Sizes


@pytest.mark.parametrize(("name", "paper", "exact"), [
    ("AnyNetXA", 1.847e18, (16 * 128 * 3 * 6) ** 4),
    ("AnyNetXB", 6.84e16, (16 * 128 * 6) ** 4 * 3),
    ("AnyNetXC", 3.17e14, (16 * 128) ** 4 * 18),
    ("AnyNetXD", 1.32e13, 16**4 * math.comb(131, 4) * 18),
    ("AnyNetXE", 5.50e11, math.comb(19, 4) * math.comb(131, 4) * 18),
    ("AnyNetXDDecreasing", None, 16**4 * math.comb(131, 4) * 18),
    ("AnyNetXDConstant", None, 16**4 * 128 * 18),
    ("AnyNetXEDecreasing", None, math.comb(19, 4) * math.comb(131, 4) * 18),
    ("AnyNetXEConstant", None, 16 * math.comb(131, 4) * 18),
    ("AnyNetXA5Stages", None, (16 * 128 * 3 * 6) ** 5),
    ("AnyNetXE3Stages", None, math.comb(18, 3) * math.comb(130, 3) * 18),
    ("AnyNetRA", None, (16 * 128 * 3) ** 4),
    ("AnyNetVRE", None, math.comb(19, 4) * math.comb(131, 4)),
    ("RegNetX", 3.02e8, 22_317_983_190),
    ("RegNetY", None, 22_317_983_190),
    ("RegNetXWm2", None, 554_444 * 18),
    ("RegNetXW0Wa", None, 542_314 * 18),
    ("RegNetXDepthwise", None, 1_239_887_955 * 3),
    ("RegNetXSearch", None, 453_577_440 * 16),
    ("RegNetXConstrained", None, None),
])  # fmt: skip
def test_sizes(name, paper, exact):
    size = SPACES[name].size()
    assert (size.paper, size.exact) == (paper, exact)


def test_exact_sizes_are_the_papers_where_it_counts_exactly():
    for name in ("AnyNetXD", "AnyNetXE"):
        assert f"{SPACES[name].size().exact:.3e}" == {"AnyNetXD": "1.382e+13", "AnyNetXE": "8.174e+11"}[name]


def test_counting_agrees_with_listing_every_setting():
    """A slice of the grid of RegNetX, counted at once and setting by setting by the rule itself."""
    depth, w_0, w_a, w_m = uniform(1, 40), one_of(8, 24), log_uniform(16.0, 32.0, 4.0), log_uniform(1.5, 2.5, 0.25)
    listed = 0
    for d in depth.values:
        for start in w_0.values:
            for slope in w_a.values:
                for m in w_m.values:
                    listed += is_regnet(d, start, slope, m, 4)
    assert count_one_by_one(depth, w_0, w_a, w_m, 4) == listed > 0
    assert len(COUNTED) == 5


def is_regnet(depth, w_0, w_a, w_m, stages):
    levels = quantized_levels(depth, w_0, w_a, w_m)
    return set(levels) == set(range(stages)) and len(set(regnet.models.quantized_widths(depth, w_0, w_a, w_m))) == stages


# Membership


@pytest.mark.parametrize("name", list_models("regnet*"))
def test_the_published_models_are_regnets(name):
    """All but RegNetX-32GF, whose w_0 is 320; and all but RegNetY-6.4GF keep to the limits of complexity."""
    config = find_model(name)[0].config
    family, limits = (RegNetY, RegNetYConstrained) if "y" in name else (RegNetX, RegNetXConstrained)
    assert family.contains(config) == family.contains(config.to_anynet()) == (name != "regnetx_32gf")
    assert limits.contains(config) == limits.contains(config.to_anynet()) == (name not in ("regnetx_32gf", "regnety_6.4gf"))
    assert not (RegNetX if "y" in name else RegNetY).contains(config)
    wider = replace(family, w_0=log_uniform(8, 320, 8))
    assert wider.contains(config)


def test_membership_is_of_networks():
    """Raw widths that give the network, in order and with one group width where the space asks for it."""
    network = regnet.AnyNetConfig((1, 2, 3, 4), (16, 64, 64, 128), bottleneck_ratios=1, group_widths=(16, 32, 32, 32))
    assert AnyNetXE.contains(network) and not AnyNetXEDecreasing.contains(network)
    assert not AnyNetXE.contains(replace(network, depths=(2, 1, 3, 4))) and AnyNetXD.contains(replace(network, depths=(2, 1, 3, 4)))
    assert not AnyNetXE.contains(replace(network, group_widths=(16, 16, 32, 32)))  # one group width cannot give 16 for a width of 64
    assert AnyNetXA.contains(replace(network, group_widths=(16, 16, 32, 32), widths=(64, 16, 64, 128)))
    assert not AnyNetXA.contains(replace(network, se_ratio=0.25)) and SPACES["AnyNetYE"].contains(replace(network, se_ratio=0.25))
    assert not AnyNetXA.contains(replace(network, widths=(16, 64, 64, 2048)))
    assert not AnyNetXA.contains(regnet.AnyNetConfig((1, 1), (16, 32)))
    with pytest.raises(TypeError, match="AnyNetConfig"):
        AnyNetXA.contains("regnetx_200mf")


# What a sample promises


@pytest.mark.parametrize("name", SPACES)
def test_samples_of_every_space_are_in_it_in_the_window_and_cost_what_they_say(name):
    space = SPACES[name]
    sample = space.sample(200, seed=1, flops=PAPER_WINDOW)
    draws = sample.draws
    for config, flops, params, acts in zip(sample, draws.flops, draws.params, draws.acts, strict=True):
        assert regnet.complexity(config) == regnet.Complexity(flops, params, acts)
    assert ((draws.flops >= PAPER_WINDOW[0]) & (draws.flops <= PAPER_WINDOW[1])).all()
    assert all(space.contains(config) for config in sample[:20])
    for config in sample[:5]:
        network = config.to_anynet() if isinstance(config, regnet.RegNetConfig) else config
        assert len(network.widths) == space.stages and space.contains(network)


@st.composite
def spaces(draw):
    """AnyNet spaces of a user: any choices and constraints."""
    kind = draw(st.sampled_from(["X", "X", "Y", "R", "V", "VR"]))
    space = AnyNetSpace(
        "mine",
        depth=log_uniform(1, draw(st.integers(1, 20))),
        width=log_uniform(8, 8 * draw(st.integers(1, 40)), 8),
        bottleneck_ratio=draw(st.sampled_from([[1], [1, 2, 4], [0.25, 0.5, 1], [1, 3]])),
        group_width=draw(st.sampled_from([[1], [1, 8, 24], [16, 40]])),
        stages=draw(st.integers(1, 5)),
        template=Template(strides=draw(st.sampled_from([1, 2])), stem_type=draw(st.sampled_from(["simple", "resnet"]))),
    ).with_blocks(kind)
    fields = draw(st.lists(st.sampled_from(FIELDS), unique=True))
    return space.constrain(*(draw(st.sampled_from([Shared, non_decreasing, non_increasing]))(field) for field in fields))


@settings(max_examples=25)
@given(spaces(), st.sampled_from(["flops", "params", "acts"]), st.integers(0, 9))
def test_any_space_gives_networks_of_its_own(space, metric, seed):
    everywhere = space.sample_arrays(200, seed)
    low, high = np.quantile(getattr(everywhere, metric), [0.3, 0.5])
    sample = space.sample(20, seed, **{metric: (low, high)})
    raw = sample.draws.settings
    assert ((getattr(sample.draws, metric) >= low) & (getattr(sample.draws, metric) <= high)).all()
    for config, flops in zip(sample, sample.draws.flops, strict=True):
        assert space.contains(config) and len(config.widths) == space.stages
        assert all(inner % group == 0 for inner, group in zip(config.inner_widths, config.group_widths, strict=True))
        assert regnet.complexity(config).flops == flops
    for constraint in space.constraints:
        steps = np.diff(getattr(raw, constraint.field), axis=1)
        assert (steps == 0).all() if isinstance(constraint, Shared) else constraint.holds(raw).all()
    if space.block in "XY":
        for k, config in enumerate(sample):
            adjusted = adjust_group_widths(raw.widths[k].tolist(), raw.bottleneck_ratios[k].tolist(), raw.group_widths[k].tolist())
            assert (list(config.widths), list(config.group_widths)) == adjusted


def test_a_sample_begins_every_longer_one_and_is_the_same_again():
    for space in (AnyNetXE, RegNetX):
        long = space.sample_arrays(3000, seed=3, flops=PAPER_WINDOW)
        short = space.sample_arrays(100, seed=3, flops=PAPER_WINDOW)
        assert all(np.array_equal(a, b) for a, b in zip(flat(long[:100]), flat(short), strict=True))
        assert not np.array_equal(short.flops, space.sample_arrays(100, seed=4, flops=PAPER_WINDOW).flops)
        anynet_cells.cover.cache_clear(), regnet_cells.cover.cache_clear()
        assert np.array_equal(short.flops, space.sample_arrays(100, seed=3, flops=PAPER_WINDOW).flops)


def flat(draws):
    return [array for rows in (draws.settings, draws.networks) for array in vars(rows).values()] + [
        draws.flops,
        draws.params,
        draws.acts,
    ]


def test_known_draws():
    """The same on every machine: these were drawn on x86-64."""
    assert AnyNetXE.sample(1, 0, flops=PAPER_WINDOW)[0] == regnet.AnyNetConfig(**KNOWN_E)
    assert RegNetX.sample(1, 0, flops=PAPER_WINDOW)[0] == regnet.RegNetConfig(**KNOWN_X)


KNOWN_E = {"depths": (2, 2, 2, 5), "widths": (8, 64, 320, 512), "bottleneck_ratios": 1, "group_widths": (8, 32, 32, 32)}
KNOWN_X = {"depth": 41, "w_0": 48, "w_a": 17.4, "w_m": 2.375, "group_width": 4, "bottleneck_ratio": 4.0}


def test_parts_of_an_endless_sample_are_small():
    parts = AnyNetXA.iter_arrays(None, seed=0, flops=PAPER_WINDOW)
    for _ in range(3):
        assert 0 < len(next(parts)) < 40_000


@pytest.mark.parametrize(("call", "message"), [
    (lambda: AnyNetXA.sample(0), "n=0 is no sample size"),
    (lambda: AnyNetXA.sample(1, -1), "seed=-1"),
    (lambda: AnyNetXA.sample(1, flops=(2, 1)), "flops=\\(2, 1\\) is no range"),
    (lambda: AnyNetXA.sample(1, flops=(1, 2)), "no network of AnyNetXA has flops 1..2; use a wider window"),
    (lambda: RegNetX.sample(1, params=(1, 2)), "no network of RegNetX has params 1..2"),
    (lambda: AnyNetXA.sample(1, method="luck"), "method='luck'"),
    (lambda: find_space("AnyNetXF"), "did you mean AnyNetX"),
    (lambda: non_decreasing("strides"), "no stage parameter 'strides'"),
    (lambda: AnyNetSpace("mine", width=[0, 8]), "whole numbers of 1 or more"),
    (lambda: AnyNetSpace("mine", bottleneck_ratio=1.5), "must be whole numbers or 1 over"),
    (lambda: RegNetSpace("mine", w_0=[12]), "multiples of 8"),
    (lambda: log_uniform(8, 20, 8), "must be multiples of the step"),
    (lambda: AnyNetXA.constrain(Where("odd", lambda s: s.depths)).sample(1), "must give bool of shape"),
])  # fmt: skip
def test_bad_arguments_say_what_to_do(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# The distribution


SMALL = AnyNetSpace(
    "small", depth=log_uniform(1, 4), width=log_uniform(8, 64, 8), bottleneck_ratio=[1, 2], group_width=[1, 16], stages=2
)
SMALL_REGNET = RegNetSpace(
    "small", depth=uniform(2, 14), w_0=log_uniform(8, 32, 8), w_a=log_uniform(8.0, 64.0, 8.0), w_m=log_uniform(1.5, 3.0, 0.1),
    bottleneck_ratio=[1, 2], group_width=[1, 16], stages=3,
)  # fmt: skip
SMALL_SPACES = {
    "free": SMALL,
    "shared": SMALL.constrain(Shared("bottleneck_ratios"), Shared("group_widths")),
    "ordered": SMALL.constrain(Shared("group_widths"), non_decreasing("widths"), non_decreasing("depths")),
    "falling": SMALL.constrain(Shared("bottleneck_ratios"), non_increasing("depths"), non_increasing("widths")),
    "odd orders": SMALL.constrain(
        non_decreasing("bottleneck_ratios"), non_increasing("group_widths"), non_decreasing("depths"), non_increasing("depths")
    ),
    "squeezed": SMALL.with_blocks("Y"),
    "stride 1": replace(SMALL.with_blocks("VR"), template=Template("VR", strides=1, stem_width=16)),
    "rule": SMALL.constrain(Where("deep", lambda s: s.depths.sum(axis=1) > 4)),
    "regnet": SMALL_REGNET,
    "w_0 = w_a": replace(SMALL_REGNET, w_a=None),
    "regnet rule": SMALL_REGNET.with_blocks("R").constrain(Where("wide", lambda s: s.w_0 > 8)),
}


def codes(space, raw) -> np.ndarray:
    """A number for each raw setting."""
    found = 0
    for name, choices in space.choices.items():
        index = np.searchsorted(choices.array, getattr(raw, name)).reshape(len(raw), -1)
        for column in index.T:
            found = found * len(choices) + column
    return found


def exact_distribution(space, window) -> dict[int, float]:
    """Probability of every setting of a small space that is valid and in the window, by listing all."""
    is_anynet = isinstance(space, AnyNetSpace)
    free = [(name, k) for name in space.choices for k in range(space.stages if is_anynet and name not in space.shared else 1)]
    grids = np.meshgrid(*(np.arange(len(space.choices[name])) for name, _ in free), indexing="ij")
    indices = dict(zip(free, (grid.ravel() for grid in grids), strict=True))
    odds, raw = np.ones(grids[0].size), {}
    for name, choices in space.choices.items():
        mine = [index for (field, _), index in indices.items() if field == name]
        for index in mine:
            odds = odds * choices.probabilities[index]
        values = choices.array[np.stack(mine, axis=1)]
        values = values if name in ("w_a", "w_m") or "ratio" in name else values.astype(np.int64)
        raw[name] = np.repeat(values, space.stages // len(mine), axis=1) if is_anynet else values[:, 0]
    if is_anynet:
        listed, networks = AnyNetSettings(**raw), make_networks(*raw.values())
    else:
        listed = RegNetSettings(**{"w_a": raw["w_0"] + 0.0} | raw)
        valid, networks = space.networks(listed)
        listed, odds = listed[valid], odds[valid]
    chance = dict(zip(codes(space, listed).tolist(), odds.tolist(), strict=True))
    found = {code: chance[code] for code in codes(space, space.keep(listed, networks, window).settings).tolist()}
    total = sum(found.values())
    return {code: odd / total for code, odd in found.items()}


def chi_square(space, draws, expected: dict[int, float]) -> float:
    """p-value of the settings drawn against their exact probabilities; 0 for a setting that cannot occur."""
    seen, counts = np.unique(codes(space, draws.settings), return_counts=True)
    if not set(seen.tolist()) <= set(expected):
        return 0.0
    observed = dict(zip(seen.tolist(), counts.tolist(), strict=True))
    probabilities = np.array(list(expected.values()))
    measured = np.array([observed.get(code, 0) for code in expected])
    means = probabilities * len(draws)
    rare = means < 10
    pooled = [np.append(values[~rare], values[rare].sum()) if rare.any() else values for values in (measured, means)]
    return float(stats.chisquare(*pooled).pvalue)


def small_window(space) -> tuple[float, float]:
    return tuple(np.quantile(space.sample_arrays(2000, 0).flops, [0.4, 0.6]).tolist())


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_setting_is_as_likely_as_it_should_be(name):
    space = SMALL_SPACES[name]
    flops = small_window(space)
    expected = exact_distribution(space, Window(flops=flops))
    assert len(expected) > 50
    for method in ("cells", "rejection"):
        assert chi_square(space, space.sample_arrays(60_000, 5, flops=flops, method=method), expected) > 1e-3, method


@pytest.mark.parametrize(("name", "module"), [("ordered", anynet_cells), ("regnet", regnet_cells)])
def test_a_biased_sampler_would_be_found(name, module, monkeypatch):
    """Cells of which some are a little too likely fail the test above."""
    space = SMALL_SPACES[name]
    flops = small_window(space)
    expected = exact_distribution(space, Window(flops=flops))
    right = module.Inversion
    monkeypatch.setattr(module, "Inversion", lambda odds: right(odds * np.linspace(0.85, 1.15, len(odds))))
    module.cover.cache_clear()
    try:
        draws = space.sample_arrays(60_000, 5, flops=flops)
    finally:
        module.cover.cache_clear()
    assert chi_square(space, draws, expected) < 1e-6


LARGE = {
    "AnyNetXA": {"flops": PAPER_WINDOW},
    "AnyNetXB": {"flops": (100 * MEGA, 2000 * MEGA), "acts": (3 * MEGA, 6 * MEGA)},
    "AnyNetXD": {"flops": (200 * MEGA, 800 * MEGA)},
    "AnyNetXE": {"params": (1 * MEGA, 9 * MEGA), "resolution": (160, 224)},
    "AnyNetXE5Stages": {"flops": (50 * MEGA, 1600 * MEGA)},
    "RegNetX": {"flops": (300 * MEGA, 450 * MEGA)},
    "RegNetYConstrained": {"flops": (200 * MEGA, 800 * MEGA)},
}


@pytest.mark.parametrize("name", LARGE)
def test_the_papers_spaces_are_sampled_as_by_rejection(name):
    """Kolmogorov-Smirnov on every parameter of every stage and on the complexity; Bonferroni over all of them."""
    space, window = SPACES[name], LARGE[name]
    quick, plain = (
        space.sample_arrays(20_000, 1, **window),
        space.sample_arrays(REJECTED.get(name, 4000), 2, method="rejection", **window),
    )
    pairs = [(getattr(quick, metric), getattr(plain, metric)) for metric in ("flops", "params", "acts")]
    for field in vars(quick.settings):
        a, b = (getattr(draws.settings, field).reshape(len(draws), -1) for draws in (quick, plain))
        pairs += list(zip(a.T, b.T, strict=True))
    p_values = [stats.ks_2samp(a, b).pvalue for a, b in pairs]
    assert min(p_values) > 1e-3 / len(p_values)


REJECTED = {"AnyNetXE": 2000, "AnyNetXE5Stages": 500, "AnyNetXD": 3000}


def test_values_follow_the_log_uniform_rule():
    choices = log_uniform(8, 1024, 8)
    assert choices.probabilities[0] == pytest.approx(math.log(2) / math.log(256))
    assert choices.probabilities[5] == pytest.approx(math.log(48 / 40) / math.log(256))
    assert choices.probabilities.sum() == pytest.approx(1) and len(log_uniform(8.0, 255.9, 0.1)) == 2480
    assert 24.48 in log_uniform(8.0, 255.9, 0.1) and 256.0 not in log_uniform(8.0, 255.9, 0.1) and 12 not in choices
    assert log_uniform(1.5, 3.0, 0.001).values[1] == 1.501


def test_variants():
    assert (RegNetXW0Wa.sample_arrays(50, 0).settings.w_a == RegNetXW0Wa.sample_arrays(50, 0).settings.w_0).all()
    assert isinstance(RegNetV.sample(1, 0)[0], regnet.AnyNetConfig)
    assert find_space("anynet-xe 5 stages") is SPACES["AnyNetXE5Stages"]

"""Complexity of many networks at once: the integers of `regnet.complexity`, and of a real model's weights and forward pass.

DESIGN_SPACE_MODELS=200 builds that many models of each space (a few minutes in all); the default keeps the run short.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import regnet
from regnet.design_space import CONVOLUTIONS, SPACES, RegNetX, Template, complexity_arrays, conv_complexity, make_networks
from regnet.errors import ConfigError
from regnet.models import AnyNet, adjust_group_widths, anynet

MODELS = int(os.environ.get("DESIGN_SPACE_MODELS", "2"))


def hook_counts(model: nn.Module, image: torch.Tensor) -> regnet.Complexity:
    """What the leaf modules say while they run, on meta tensors."""
    flops = acts = 0

    def hook(module, _, output):
        nonlocal flops, acts
        acts += output.numel()
        if not isinstance(module, nn.MaxPool2d):
            weight = module.weight
            flops += output.numel() * (weight.numel() // weight.shape[0] + (module.bias is not None))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            module.register_forward_hook(hook)
    with torch.inference_mode():
        model.eval()(image)
    return regnet.Complexity(flops, sum(parameter.numel() for parameter in model.parameters()), acts)


@pytest.fixture
def quick_models(monkeypatch):
    """Models without initial values, whose BatchNorms and activations pass on what they get: neither is counted."""
    for module in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(module, "reset_parameters", lambda self: None)
    for module in (nn.BatchNorm2d, nn.ReLU):
        monkeypatch.setattr(module, "forward", lambda self, x: x)
    monkeypatch.setattr(anynet, "_init", lambda module: None)


@pytest.mark.parametrize("name", SPACES)
def test_samples_cost_what_the_weights_and_the_forward_pass_say(name, quick_models):
    sample = SPACES[name].sample(MODELS, seed=2, resolution=(224, 192))
    draws, image = sample.draws, torch.empty(1, 3, 224, 192, device="meta")
    for config, flops, params, acts in zip(sample, draws.flops, draws.params, draws.acts, strict=True):
        with torch.device("meta"):
            net = AnyNet(config.to_anynet() if isinstance(config, regnet.RegNetConfig) else config)
        assert hook_counts(net, image) == regnet.Complexity(flops, params, acts)


@st.composite
def templates(draw) -> Template:
    block_type = draw(st.sampled_from(["X", "R", "V", "VR"]))
    se_ratio = 0.0 if block_type.startswith("V") else draw(st.sampled_from([0.0, 0.25, 0.3]))
    return Template(
        block_type,
        se_ratio,
        strides=draw(st.sampled_from([1, 2, 3, (1, 2, 3), (2, 1, 1)])),
        stem_type=draw(st.sampled_from(["simple", "resnet"])),
        stem_width=draw(st.sampled_from([16, 32])),
        in_chans=draw(st.sampled_from([1, 3])),
        num_classes=draw(st.sampled_from([0, 10, 1000])),
    )


@given(templates(), st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_template_and_resolution(template, height, width, seed):
    rng = np.random.default_rng(seed)
    shape = (20, 3)
    widths = 8 * rng.integers(1, 40, shape)
    widths[:, 0] = np.where(rng.random(20) < 0.5, template.stem_width, widths[:, 0])  # equal widths: no projection at stride 1
    ratios = rng.choice([0.25, 0.5, 1, 2, 4], shape) if template.block_type in "XR" else np.ones(shape)
    groups = rng.choice([1, 2, 8, 24, 32, 120], shape) if template.block_type == "X" else np.zeros(shape, np.int64)
    networks = make_networks(rng.integers(1, 9, shape), widths, ratios, groups)
    costs = complexity_arrays(networks, template, (height, width))
    for k, config in enumerate(networks.configs(template)):
        assert regnet.complexity(config, (height, width)) == regnet.Complexity(costs["flops"][k], costs["params"][k], costs["acts"][k])
        if template.block_type == "X":
            adjusted = adjust_group_widths(widths[k].tolist(), ratios[k].tolist(), groups[k].tolist())
            assert (list(config.widths), list(config.group_widths)) == adjusted


def test_many_rows_are_the_same_as_few():
    draws = RegNetX.sample_arrays(20_000, 0)
    again = complexity_arrays(draws.networks, RegNetX.template)
    assert np.array_equal(again["flops"], draws.flops) and np.array_equal(again["acts"], draws.acts)
    assert again["params"].dtype == np.int64 and len(complexity_arrays(draws.networks[:0], RegNetX.template)["flops"]) == 0


@pytest.mark.parametrize(("kind", "group_width"), [(kind, 8 if kind == "3x3 grouped" else None) for kind in CONVOLUTIONS])
def test_the_papers_table_of_convolutions(kind, group_width):
    w, r = 24, 14
    k = int(kind[0])
    groups = {"3x3 grouped": w // 8, "3x3 depthwise": w}.get(kind, 1)
    conv = nn.Conv2d(w, w, k, padding=k // 2, groups=groups, bias=False, device="meta")
    cost = conv_complexity(kind, w, r, group_width)
    assert cost == hook_counts(conv, torch.empty(1, w, r, r, device="meta"))
    assert cost.flops == {"1x1": w * w, "3x3": 9 * w * w, "3x3 grouped": 9 * w * 8, "3x3 depthwise": 9 * w}[kind] * r * r


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ConfigError, match="unknown convolution '5x5'"):
        conv_complexity("5x5", 8, 8)
    with pytest.raises(ConfigError, match="group_width 5 does not divide the width 8"):
        conv_complexity("3x3 grouped", 8, 8, 5)
    with pytest.raises(ConfigError, match="block_type 'W' is unknown"):
        Template("W")
    with pytest.raises(ConfigError, match="strides .* are for 3 stages, not 4"):
        replace(SPACES["AnyNetXA"], template=Template(strides=(1, 2, 2)))
    with pytest.raises(ConfigError, match="resolution 0"):
        RegNetX.sample(1, resolution=0)

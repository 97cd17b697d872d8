"""Complexity: the published numbers exactly, and equal to what a real forward pass of any AnyNet does."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regnet
from regnet.errors import ConfigError
from regnet.models import AnyNet, AnyNetConfig, FeatureNet, adjust_group_widths

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_models.json").read_text())["models"]


def hook_counts(model: nn.Module, image: torch.Tensor) -> regnet.Complexity:
    """Independent of cost.py and cost_trace.py: what the leaf modules say while they run."""
    flops = acts = 0

    def hook(module, _, output):
        nonlocal flops, acts
        acts += output.numel()
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        elif isinstance(module, nn.Linear):
            fan_in = module.in_features
        else:
            return
        flops += output.numel() * (fan_in + (module.bias is not None))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            module.register_forward_hook(hook)
    model.eval()(image)
    return regnet.Complexity(flops, sum(parameter.numel() for parameter in model.parameters()), acts)


@st.composite
def anynet_configs(draw) -> AnyNetConfig:
    block_type = draw(st.sampled_from(["X", "X", "R", "V", "VR"]))
    stages = draw(st.integers(1, 5))
    per_stage = lambda values: draw(st.lists(values, min_size=stages, max_size=stages))
    vanilla = block_type in ("V", "VR")
    ratios = [1.0] * stages if vanilla else per_stage(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]))
    raw_widths, raw_groups = per_stage(st.integers(4, 200)), per_stage(st.sampled_from([1, 2, 8, 24, 56, 120]))
    rounding = draw(st.sampled_from(["pycls", "torchvision"]))
    widths, group_widths = adjust_group_widths(raw_widths, ratios, raw_groups if block_type == "X" else [1] * stages, rounding)
    return AnyNetConfig(
        depths=per_stage(st.integers(1, 3)), widths=widths, strides=per_stage(st.sampled_from([1, 2, 3])), bottleneck_ratios=ratios,
        group_widths=group_widths if block_type == "X" else None, se_ratio=0.0 if vanilla else draw(st.sampled_from([0.0, 0.25, 1.0])),
        block_type=block_type, stem_type=draw(st.sampled_from(["simple", "resnet"])), stem_width=draw(st.integers(3, 64)),
        activation=draw(st.sampled_from(["relu", "silu"])), in_chans=draw(st.integers(1, 5)), num_classes=draw(st.sampled_from([0, 10])),
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_published_numbers_are_exact(name):
    got = regnet.complexity(name)
    assert {"flops": got.flops, "params": got.params, "acts": got.acts} == GOLDEN[name]["complexity"]


@settings(max_examples=60, deadline=None)
@given(anynet_configs(), st.integers(1, 70), st.integers(1, 70))
def test_any_config_costs_what_its_forward_pass_does(config, height, width):
    image = torch.empty(1, config.in_chans, height, width, device="meta")
    with torch.device("meta"):
        net = AnyNet(config)
        features = FeatureNet(AnyNet(config), out_indices=[len(config.widths) // 2])
    analytic = regnet.complexity(config, (height, width))
    assert analytic == regnet.complexity(net, (height, width)) == hook_counts(net, image)
    assert regnet.complexity(features, (height, width)) == hook_counts(features, image)
    assert net(image).shape == (1, config.num_classes or config.widths[-1])


@pytest.mark.peers
@pytest.mark.parametrize("name, make", [
    ("regnety_400mf", lambda: timm.create_model("regnety_004")),
    ("regnety_800mf", lambda: timm.create_model("regnety_008").train()),
    ("regnet_x_400mf", torchvision.models.regnet_x_400mf),
    ("resnet_50", torchvision.models.resnet50),
    ("resnext_50", torchvision.models.resnext50_32x4d),
])
def test_foreign_models_are_counted_and_left_alone(name, make):
    model = make()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    training = model.training
    assert regnet.complexity(model) == regnet.complexity(name)
    assert regnet.complexity(model, 64) == regnet.complexity(name, 64)
    assert model.training is training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_with_exchanged_parts_is_counted_as_it_is():
    with torch.device("meta"):
        net = regnet.create_model("regnetx_200mf")
        net.stages[0].blocks[0] = nn.Conv2d(32, 24, 1, 2)
    expected = hook_counts(net, torch.empty(1, 3, 224, 224, device="meta"))
    assert regnet.complexity(net) == expected != regnet.complexity("regnetx_200mf")


def test_silu_and_other_channels_count_from_the_config():
    config = regnet.RegNetConfig(13, 24, 36.44, 2.49, 8, activation="silu", in_chans=1, num_classes=0)
    full, bare = regnet.complexity("regnetx_200mf"), regnet.complexity(config)
    assert full.params - bare.params == 2 * 9 * 32 + 1000 * 369
    assert full.flops - bare.flops == 2 * 9 * 32 * 112 * 112 + 1000 * 369


class CustomOperator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        boxes = self.conv(x)[0, :, 0, :4]
        return torch.ops.torchvision.nms(boxes, boxes[:, 0], 0.5)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ConfigError, match="cannot count the operator torchvision.nms"):
        regnet.complexity(CustomOperator())
    with pytest.raises(ConfigError, match="optimized"):
        regnet.complexity(nn.Linear(3, 3))
    with pytest.raises(ConfigError, match="at least 1"):
        regnet.complexity("regnetx_200mf", 0)
    with pytest.raises(TypeError, match="int"):
        regnet.complexity(3)

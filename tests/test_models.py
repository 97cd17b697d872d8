"""Configurations, names, modules, features and published weights."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import regnet
from regnet.errors import ConfigError, RegNetError, UnknownModelError, WeightsUnavailableError
from regnet.models import (
    AnyNet, AnyNetConfig, RBlock, VBlock, VRBlock, XBlock, YBlock, adjust_group_widths, find_model, model_config, quantized_levels,
    quantized_widths,
)

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_models.json").read_text())["models"]


# Widths

@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(1, 40), st.floats(0, 256), st.floats(1.5, 3))
def test_quantized_widths_are_the_nearest_level(depth, w_0, w_a, w_m):
    w_0 *= 8
    widths, levels = quantized_widths(depth, w_0, w_a, w_m), quantized_levels(depth, w_0, w_a, w_m)
    assert len(widths) == depth and levels[0] == 0 and widths[0] == w_0
    for block, (width, level) in enumerate(zip(widths, levels, strict=True)):
        assert abs(math.log((w_0 + w_a * block) / w_0, w_m) - level) <= 0.5 + 1e-9
        assert width % 8 == 0 and abs(width - w_0 * w_m**level) <= 4 + 1e-9


def test_widths_round_half_to_even():
    # 24 * 2.5 = 60 = 7.5 * 8 goes to 8 * 8, 40 * 2.5 = 100 = 12.5 * 8 to 12 * 8.
    assert quantized_widths(2, 24, 36, 2.5) == [24, 64]
    assert quantized_widths(2, 40, 60, 2.5) == [40, 96]


@pytest.mark.parametrize("arguments", [(0, 24, 8, 2), (4, 20, 8, 2), (4, 24, -1, 2), (4, 24, 8, 1.0), (4, 24, math.nan, 2)])
def test_impossible_width_rules_are_refused(arguments):
    with pytest.raises(ConfigError, match="describe no RegNet"):
        quantized_widths(*arguments)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.sampled_from([0.25, 0.5, 1, 2, 4]), st.integers(1, 264), st.sampled_from(["pycls", "torchvision"]))
def test_group_compatibility(width, ratio, group_width, rounding):
    (new_width,), (new_group,) = adjust_group_widths([width], [ratio], [group_width], rounding)
    inner = new_width / ratio
    before = max(1, int(width / ratio))
    assert inner == int(inner) and inner % new_group == 0 and new_group == min(group_width, before)
    if ratio >= 1:  # an inverted bottleneck rounds to a multiple of the expansion as well
        assert abs(inner - before) <= before / (3 if rounding == "pycls" else 1) + 1e-9
        assert rounding == "pycls" or inner >= 0.9 * before


# Names and configurations

@pytest.mark.parametrize("name", GOLDEN)
def test_named_configs_are_the_published_ones(name):
    golden = GOLDEN[name]
    config = model_config(name)
    assert list(config.depths) == golden["depths"] and list(config.widths) == golden["widths"]
    assert list(config.group_widths) == golden["group_widths"]
    assert find_model(name)[0].weights_path == golden["weights_path"]
    if "timm_name" in golden:
        assert model_config(golden["timm_name"]) == config
    if "torchvision_name" in golden:
        theirs = model_config(golden["torchvision_name"])
        assert list(theirs.widths) == golden["torchvision_widths"]
        assert regnet.complexity(theirs).params == golden["torchvision_params"]
        assert model_config(name, widths="torchvision") == theirs
        assert model_config(golden.get("timm_name_for_torchvision_widths", golden["torchvision_name"])) == theirs


def test_modules_have_the_published_number_of_parameters():
    for name in regnet.list_models():
        net = regnet.create_model(name, device="meta")
        assert sum(parameter.numel() for parameter in net.parameters()) == regnet.complexity(name).params, name


def test_list_models():
    assert len(regnet.list_models("regnetx*")) == len(regnet.list_models("RegNetY*")) == 12
    assert regnet.list_models("*_1.6gf") == ["regnetx_1.6gf", "regnety_1.6gf"]
    assert set(regnet.list_models()) - set(regnet.list_models("regnet*")) == {"resnet_50", "resnext_50"}


@pytest.mark.parametrize("spelling", ["regnetx_1.6gf", "regnetx_1_6gf", "RegNetX-1.6GF", "regnetx_016", "regnet_x_1_6gf"])
def test_spellings_of_one_model(spelling):
    assert find_model(spelling)[0].name == "regnetx_1.6gf"


def test_wrong_names_suggest_the_nearest():
    for wrong, nearest in [("regnety_40mf", "regnety_400mf"), ("RegNetX-8.0MF", "regnetx_8.0gf"), ("regnet_y_1_6gb", "regnet_y_1_6gf")]:
        with pytest.raises(UnknownModelError, match=f"did you mean .*{nearest}"):
            regnet.create_model(wrong)


def test_widths_against_the_name_are_refused():
    assert model_config("regnet_y_400mf", widths="pycls") == model_config("regnety_400mf")
    with pytest.raises(ConfigError, match="torchvision's widths"):
        regnet.create_model("regnet_y_800mf", widths="pycls")
    with pytest.raises(ConfigError, match="no rounding"):
        regnet.create_model("regnety_800mf", widths="timm")


@pytest.mark.parametrize("changes, message", [
    ({"group_widths": (24, 24)}, "group_width 24 does not divide the bottleneck width 100; use group_width=20 or a bottleneck width of 96"),
    ({"widths": (100, 50), "bottleneck_ratios": (1, 4)}, "bottleneck_ratio 4 does not divide the width 50"),
    ({"depths": (1,)}, "depths has 1 entries and widths has 2"),
    ({"depths": (1, 0)}, "must be positive"),
    ({"block_type": "Z"}, "'Z' is unknown; use one of 'X'"),
    ({"block_type": "V", "se_ratio": 0.25}, "no squeeze-and-excite"),
    ({"block_type": "R", "group_widths": 10}, "have no groups"),
    ({"stem_width": 1, "se_ratio": 0.25}, "no channel"),
    ({"activation": "gelu"}, "'gelu' is unknown"),
    ({"num_classes": -1}, "num_classes >= 0"),
])
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AnyNetConfig(**{"depths": (1, 1), "widths": (100, 200)} | changes)


def test_a_config_survives_asdict():
    config = model_config("regnety_1.6gf")
    assert AnyNetConfig(**json.loads(json.dumps(asdict(config)))) == config
    from_arrays = AnyNetConfig(np.array([1, 2]), np.array([16, 32]), strides=np.int64(2), group_widths=np.array([8, 8]))
    assert json.dumps(asdict(from_arrays)) == json.dumps(asdict(AnyNetConfig((1, 2), (16, 32), group_widths=8)))


# Modules

def tiny(block_type="X", **options) -> AnyNet:
    torch.manual_seed(0)
    return AnyNet(AnyNetConfig(depths=(2, 1), widths=(16, 24), block_type=block_type, stem_width=8, num_classes=5, **options)).eval()


def test_state_names_and_block_classes():
    net = tiny(se_ratio=0.25, group_widths=8)
    names = set(net.state_dict())
    assert {"stem.conv.weight", "stem.bn.weight", "head.fc.bias", "stages.1.blocks.0.proj.bn.running_var"} <= names
    block = {name.removeprefix("stages.0.blocks.1.").rsplit(".", 1)[0] for name in names if name.startswith("stages.0.blocks.1.")}
    assert block == {"a.conv", "a.bn", "b.conv", "b.bn", "c.conv", "c.bn", "se.fc1", "se.fc2"}
    kinds = {"X": XBlock, "R": RBlock, "V": VBlock, "VR": VRBlock}
    assert all(type(tiny(kind).stages[0].blocks[0]) is block for kind, block in kinds.items())
    assert type(net.stages[0].blocks[0]) is YBlock


def test_r_is_x_without_groups_and_v_is_vr_without_shortcut():
    x = torch.randn(2, 3, 33, 17)
    r = tiny("R", bottleneck_ratios=2)
    plain = tiny("X", bottleneck_ratios=2)
    plain.load_state_dict(r.state_dict())
    torch.testing.assert_close(plain(x), r(x), rtol=0, atol=0)

    vr, v = tiny("VR").stages[0].blocks[1], tiny("V").stages[0].blocks[1]
    v.load_state_dict(vr.state_dict())
    features = torch.randn(2, 16, 5, 7)
    before_activation = v.a(features)
    torch.testing.assert_close(v(features), before_activation.relu())
    torch.testing.assert_close(vr(features), (before_activation + features).relu())


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    net = regnet.create_model("regnety_800mf")
    grouped = net.stages[3].blocks[0].b.conv
    assert grouped.groups > 1
    assert grouped.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * grouped.out_channels)), rel=0.01)
    assert net.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert all(not tensor.any() for name, tensor in net.named_parameters() if name.endswith("bias"))


def test_classes_channels_dtype_and_device():
    net = regnet.create_model("regnetx_200mf", num_classes=0, in_chans=1, dtype=torch.bfloat16).eval()
    out = net(torch.randn(2, 1, 40, 32, dtype=torch.bfloat16))
    assert out.shape == (2, 368) and out.dtype == torch.bfloat16 and not any(name.startswith("head") for name in net.state_dict())
    net.reset_classifier(7)
    assert net(torch.randn(1, 1, 32, 32, dtype=torch.bfloat16)).shape == (1, 7) and net.config.num_classes == 7
    assert regnet.create_model("regnetx_200mf", device="meta").head.fc.weight.is_meta
    with pytest.raises(ConfigError, match="floating point"):
        regnet.create_model("regnetx_200mf", dtype=torch.int8)


@pytest.mark.peers
@pytest.mark.parametrize("name, theirs, levels", [
    ("regnety_400mf", "regnety_004", None), ("regnet_x_400mf", "regnetx_004_tv", (1, 3)), ("resnet_50", "resnet50", (0, 1, 4)),
])
def test_features_are_shaped_like_timms(name, theirs, levels):
    options = {} if levels is None else {"out_indices": levels}
    ours = regnet.create_model(name, features_only=True, **options)
    peer = timm.create_model(theirs, features_only=True, **options)
    x = torch.randn(2, 3, 65, 97)
    assert [feature.shape for feature in ours(x)] == [feature.shape for feature in peer(x)]
    assert ours.feature_info.channels() == peer.feature_info.channels()
    assert ours.feature_info.reduction() == peer.feature_info.reduction()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())


def test_feature_levels_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="levels 0"):
        regnet.create_model("regnetx_200mf", features_only=True, out_indices=(5,))
    with pytest.raises(ConfigError, match="features_only"):
        regnet.create_model("regnetx_200mf", out_indices=(1,))


# Published weights

@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A file:// mirror that holds a made-up checkpoint of regnetx_200mf, and an empty torch.hub cache."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    torch.manual_seed(1)
    net = regnet.create_model("regnetx_200mf")
    path = tmp_path / "mirror" / GOLDEN["RegNetX-200MF"]["weights_path"]
    path.parent.mkdir(parents=True)
    torch.save({"epoch": 99, "model_state": regnet.convert_state_dict(net.state_dict(), to="pycls")}, path)
    return (tmp_path / "mirror").as_uri(), path, net


def same_tensors(model, source, but=()):
    state = source.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name not in but)


def test_pretrained_downloads_once_and_loads(mirror, monkeypatch):
    url, path, source = mirror
    monkeypatch.setenv("REGNET_WEIGHTS_URL", url)
    assert same_tensors(regnet.create_model("regnetx_002", pretrained=True), source)
    path.unlink()  # from now on from the cache
    head = ("head.fc.weight", "head.fc.bias")
    other = regnet.create_model("regnetx_200mf", pretrained=True, num_classes=7)
    assert same_tensors(other, source, but=head) and other.head.fc.weight.shape == (7, 368)
    features = regnet.create_model("regnetx_200mf", pretrained=True, features_only=True, out_indices=(0, 2), dtype=torch.float64)
    assert same_tensors(features.float(), source)


def test_a_missing_file_gives_one_clear_line(mirror):
    with pytest.raises(WeightsUnavailableError) as caught:
        regnet.create_model("regnety_400mf", pretrained=True, weights_url=mirror[0])
    message = str(caught.value)
    assert "\n" not in message and "put RegNetY-400MF_dds_8gpu.pyth into" in message and "checkpoints" in message


def test_a_broken_download_is_not_kept(mirror):
    url, path, source = mirror
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RegNetError):
        regnet.create_model("regnetx_200mf", pretrained=True, weights_url=url)
    path.write_bytes(whole)
    assert same_tensors(regnet.create_model("regnetx_200mf", pretrained=True, weights_url=url), source)


def test_weights_that_do_not_exist_are_refused():
    with pytest.raises(WeightsUnavailableError, match="torchvision's rounding"):
        regnet.create_model("regnet_y_800mf", pretrained=True)
    with pytest.raises(ConfigError, match="in_chans=1"):
        regnet.create_model("regnety_800mf", pretrained=True, in_chans=1)


# The public surface

def test_no_submodule_hides_a_public_function():
    for name in regnet.__all__:
        assert importlib.util.find_spec(f"regnet.{name}") is None, name
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        regnet.optimise  # noqa: B018
    code = "import regnet.cost, regnet.models, regnet; assert regnet.complexity('regnetx_200mf').params == 2684792 and regnet.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_regnet_does_not_import_torch():
    subprocess.run([sys.executable, "-c", "import sys, regnet; assert 'torch' not in sys.modules"], check=True)

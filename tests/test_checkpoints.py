"""Checkpoints against the real timm and torchvision models, and against pycls names from a table written apart from the
package's."""

import copy
import re

import pytest
import regnet
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from regnet.checkpoints import (
    CheckpointError,
    convert_checkpoint,
    convert_state_dict,
    detect_format,
    load_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

FORMATS = ("pycls", "timm", "torchvision", "regnet")
# timm's name, torchvision's name, our name and widths: the same network three times.
SAME = {
    "x": ("regnetx_004_tv", "regnet_x_400mf", "regnetx_400mf"),
    "y": ("regnety_004", "regnet_y_400mf", "regnety_400mf"),
}


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every tensor unlike every other, BatchNorm statistics included, so that a swapped pair cannot pass."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(int(torch.randint(1, 1000, (), generator=generator)))
            continue
        noise = 0.1 * torch.randn(tensor.shape, generator=generator)
        is_scale = key.endswith("running_var") or tensor.ndim == 1 and key.endswith("weight")
        tensor.copy_(1 + noise.abs() if is_scale else noise)
    return model.eval()


def build(kind: str, family: str, **options) -> torch.nn.Module:
    timm_name, torchvision_name, our_name = SAME[family]
    if kind == "timm":
        return timm.create_model(timm_name, **options)
    if kind == "torchvision":
        return getattr(torchvision.models, torchvision_name)(**options)
    return regnet.create_model(our_name, widths="torchvision", **options)


ABC = {"1": "a", "2": "b", "3": "c"}
# timm's name -> another format's, as substitutions; written from the formats' documentation, not from the package's
# tables.
NAMES = {
    "timm": [],
    "pycls": [
        (r"conv(\d)\.conv", lambda m: f"f.{ABC[m[1]]}"),
        (r"conv(\d)\.bn", lambda m: f"f.{ABC[m[1]]}_bn"),
        (r"\.se\.fc1", ".f.se.f_ex.0"),
        (r"\.se\.fc2", ".f.se.f_ex.2"),
        (r"downsample\.conv", "proj"),
        (r"downsample\.bn", "bn"),
    ],
    "torchvision": [
        (r"^s(\d+)\.b(\d+)", lambda m: f"trunk_output.block{m[1]}.block{m[1]}-{int(m[2]) - 1}"),
        (r"conv(\d)\.(conv|bn)", lambda m: f"f.{ABC[m[1]]}.{int(m[2] == 'bn')}"),
        (r"\.se\.", ".f.se."),
        (r"downsample\.conv", "proj.0"),
        (r"downsample\.bn", "proj.1"),
        (r"^stem\.conv", "stem.0"),
        (r"^stem\.bn", "stem.1"),
        (r"^head\.fc", "fc"),
    ],
    "regnet": [
        (r"^s(\d+)\.b(\d+)", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 1}"),
        (r"conv(\d)\.(conv|bn)", lambda m: f"{ABC[m[1]]}.{m[2]}"),
        (r"downsample\.", "proj."),
    ],
    "classy": [
        (r"^s(\d+)\.b(\d+)", lambda m: f"trunk_output.block{m[1]}.block{m[1]}-{int(m[2]) - 1}"),
        (r"conv3\.conv", "f.c"),
        (r"conv3\.bn", "f.final_bn"),
        (r"conv(\d)\.(conv|bn)", lambda m: f"f.{ABC[m[1]]}.{int(m[2] == 'bn')}"),
        (r"\.se\.fc1", ".f.se.excitation.0"),
        (r"\.se\.fc2", ".f.se.excitation.2"),
        (r"downsample\.conv", "proj"),
        (r"downsample\.bn", "bn"),
        (r"^stem\.conv", "stem.stem.0"),
        (r"^stem\.bn", "stem.stem.1"),
    ],
}
# VISSL wraps ClassyVision's trunk in feature blocks: stage 1 becomes res2.
SEER = [
    (r"^trunk_output\.block(\d)\.", lambda m: f"_feature_blocks.res{int(m[1]) + 1}."),
    (r"^stem\.", "_feature_blocks.conv1."),
]


def rename(key: str, pairs) -> str:
    for pattern, replacement in pairs:
        key = re.sub(pattern, replacement, key)
    return key


def from_timm(key: str, to: str) -> str:
    return rename(key, NAMES[to])


def states(family: str) -> dict[str, dict[str, torch.Tensor]]:
    """One set of weights under all four formats' names; pycls' stem is BGR."""
    source = randomised(build("timm", family)).state_dict()
    out = {to: {from_timm(key, to): tensor for key, tensor in source.items()} for to in FORMATS}
    stem = source["stem.conv.weight"]
    out["pycls"]["stem.conv.weight"] = torch.stack([stem[:, 2], stem[:, 1], stem[:, 0]], dim=1)
    return out


@pytest.fixture(scope="module")
def x_states():
    return states("x")


@pytest.fixture(scope="module")
def y_states():
    return states("y")


@pytest.fixture(params=["x", "y"])
def family(request, x_states, y_states):
    return request.param, {"x": x_states, "y": y_states}[request.param]


def assert_same(got: dict, wanted: dict) -> None:
    assert list(got) == list(wanted)
    for key, tensor in wanted.items():
        assert got[key].dtype == tensor.dtype and torch.equal(got[key], tensor), key


def snapshot(model) -> dict:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def refused(model, checkpoint, match: str, **options) -> None:
    """One line of error that matches; the model must be as before."""
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(checkpoint, model, **options)
    assert "\n" not in str(caught.value)
    assert_same(model.state_dict(), before)


# Names and bits


@pytest.mark.peers
def test_all_sixteen_directions_are_exact(family):
    name, by_format = family
    for kind in ("timm", "torchvision", "regnet"):
        real = build(kind, name).state_dict()
        assert {key: tensor.shape for key, tensor in real.items()} == {
            key: tensor.shape for key, tensor in by_format[kind].items()
        }
    for source in FORMATS:
        assert detect_format(by_format[source]) == source
        for to in FORMATS:
            assert_same(convert_state_dict(by_format[source], to=to), by_format[to])


@pytest.mark.peers
def test_logits_agree_in_float64_whatever_the_checkpoint(family):
    name, by_format = family
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    models = {kind: build(kind, name).double().eval() for kind in ("timm", "torchvision", "regnet")}
    logits = {}
    for kind, model in models.items():
        for source in FORMATS:
            assert load_checkpoint(by_format[source], randomised(model, seed=9)) is model
            with torch.no_grad():
                logits[kind, source] = model(x)
    reference = logits["timm", "timm"]
    assert reference.std() > 1e-3
    for pair, value in logits.items():
        torch.testing.assert_close(
            value, reference, rtol=1e-10, atol=1e-10, msg=lambda text, pair=pair: f"{pair}: {text}"
        )


def test_bgr_can_be_forced_either_way(y_states):
    rgb, bgr = y_states["timm"], y_states["pycls"]
    stem = "stem.conv.weight"
    assert torch.equal(convert_state_dict(bgr, "timm", bgr=False)[stem], bgr[stem])
    assert torch.equal(convert_state_dict(rgb, "regnet", bgr=True)[stem], bgr[stem])
    model = load_checkpoint(rgb, build("timm", "y"), bgr=True)
    assert torch.equal(model.state_dict()[stem], bgr[stem])
    grey = rgb | {stem: rgb[stem][:, :1]}
    assert torch.equal(convert_state_dict(grey, "pycls")[stem], grey[stem])
    four = rgb | {stem: rgb[stem][:, [0, 1, 2, 2]]}
    with pytest.raises(CheckpointError, match=r"stem.conv.weight.*\(32, 4, 3, 3\).*bgr=False"):
        convert_state_dict(four, "pycls")
    assert torch.equal(convert_state_dict(four, "pycls", bgr=False)[stem], four[stem])


depths = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(
    depths=depths,
    se=st.booleans(),
    proj=st.sets(st.integers(0, 30)),
    head=st.booleans(),
    counters=st.booleans(),
    to=st.sampled_from(FORMATS),
)
def test_any_depth_and_any_mix_of_parts_round_trips(depths, se, proj, head, counters, to):
    conv = ("conv.weight",)
    bn = tuple(
        f"bn.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var") + ("num_batches_tracked",) * counters
    )
    keys = [f"stem.{leaf}" for leaf in conv + bn]
    for i, depth in enumerate(depths):
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            keys += [
                f"{block}.{part}.{leaf}" for part in ("a", "b", "c") + ("proj",) * (i + j in proj) for leaf in conv + bn
            ]
            keys += [f"{block}.se.{fc}.{leaf}" for fc in ("fc1", "fc2") for leaf in ("weight", "bias")] * se
    keys += ["head.fc.weight", "head.fc.bias"] * head
    state = {key: torch.full((), float(n)) for n, key in enumerate(keys)} | {
        "stem.conv.weight": torch.randn(4, 3, 3, 3)
    }
    converted = convert_state_dict(state, to)
    assert len(converted) == len(state) and detect_format(converted) == to
    assert_same(convert_state_dict(converted, "regnet"), state)


# Wrappers, prefixes, other spellings


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "_orig_mod.module.model."]
)
def test_prefixes_are_removed(y_states, prefix):
    for source in ("pycls", "torchvision"):
        prefixed = {prefix + key: tensor for key, tensor in y_states[source].items()}
        assert detect_format(prefixed) == source
        assert_same(convert_state_dict(prefixed, "timm"), y_states["timm"])


def test_wrapped_models_and_submodules_compiled_apart(y_states):
    inside = {key.replace("s1.b1.", "s1.b1._orig_mod."): tensor for key, tensor in y_states["timm"].items()}
    model = torch.nn.DataParallel(build("timm", "y"))
    model.module.s1.b1 = torch.compile(model.module.s1.b1)
    load_checkpoint(inside, model)
    assert_same(convert_state_dict(model.state_dict(), "timm"), y_states["timm"])


@pytest.mark.parametrize(
    "plain, averaged", [("model_state", "ema_state"), ("state_dict", "state_dict_ema"), ("model", "model_ema")]
)
def test_wrappers_prefer_the_plain_weights(y_states, plain, averaged, tmp_path):
    ema = {f"module.{key}": tensor + 1 for key, tensor in y_states["timm"].items()} | {"n_averaged": torch.tensor(7)}
    path = tmp_path / "last.pyth"
    torch.save(
        {"epoch": 3, averaged: ema, plain: y_states["timm"], "cfg": "a: 1", "optimizer_state": {"lr": 0.1}}, path
    )
    assert_same(read_checkpoint(path), y_states["timm"])
    assert_same(read_checkpoint(path, ema=True), {key: tensor + 1 for key, tensor in y_states["timm"].items()})
    assert_same(load_checkpoint(path, build("timm", "y"), ema=True).state_dict(), read_checkpoint(path, ema=True))
    assert_same(read_checkpoint({averaged: ema}), read_checkpoint(path, ema=True))
    with pytest.raises(CheckpointError, match="no averaged copy under ema_state"):
        read_checkpoint({plain: y_states["timm"]}, ema=True)


def test_seer_and_classy_names_are_read(y_states):
    state = {from_timm(key, "classy"): tensor for key, tensor in y_states["timm"].items()}
    assert "trunk_output.block1.block1-0.f.final_bn.weight" in state and detect_format(state) == "classy"
    assert_same(convert_state_dict(state, "torchvision"), y_states["torchvision"])
    trunk = {rename(key, SEER): tensor for key, tensor in state.items() if not key.startswith("head.")}
    assert (
        "_feature_blocks.res2.block1-0.f.se.excitation.0.weight" in trunk
        and "_feature_blocks.conv1.stem.0.weight" in trunk
    )
    classifier = {"0.clf.0.weight": state["head.fc.weight"], "0.clf.0.bias": state["head.fc.bias"]}
    heads = classifier | {"1.projection_head.0.weight": torch.zeros(2), "1.prototypes0.weight": torch.zeros(2)}
    seer = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    assert_same(convert_state_dict(seer, "timm"), y_states["timm"])
    assert_same(load_checkpoint(seer, build("regnet", "y")).state_dict(), y_states["regnet"])
    with pytest.raises(CheckpointError, match="unknown checkpoint format 'classy'"):
        convert_state_dict(state, "classy")


@pytest.mark.peers
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_resnets_convert_between_torchvision_pycls_and_ours(name):
    theirs = randomised(getattr(torchvision.models, name)()).double()
    assert detect_format(theirs.state_dict()) == "resnet"
    pycls = convert_state_dict(theirs.state_dict(), "pycls")
    assert detect_format(pycls) == "pycls" and "s1.b1.f.a.weight" in pycls
    assert_same(convert_state_dict(pycls, "resnet"), theirs.state_dict())
    ours = load_checkpoint(pycls, regnet.create_model(name).double().eval())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(CheckpointError, match=r"'conv1.weight' has shape \(64, 3, 7, 7\).*to='resnet'"):
        convert_state_dict(theirs.state_dict(), "timm")


def test_basic_blocks_have_no_name_elsewhere():
    with pytest.raises(CheckpointError, match="missing key 'layer1.0.conv3.weight'"):
        convert_state_dict(torchvision.models.resnet18().state_dict(), "pycls")


@pytest.mark.parametrize("block_type", ["V", "VR"])
def test_blocks_of_one_convolution_stay_ours(block_type):
    config = regnet.AnyNetConfig(
        depths=(1, 2), widths=(16, 32), strides=(2, 2), block_type=block_type, num_classes=3, group_widths=None
    )
    source, target = randomised(regnet.models.AnyNet(config)), regnet.models.AnyNet(config)
    state = {f"module.{key}": tensor for key, tensor in source.state_dict().items()}
    assert_same(load_checkpoint(state, target).state_dict(), source.state_dict())
    assert_same(convert_state_dict(state, "regnet"), source.state_dict())
    with pytest.raises(CheckpointError, match="'stages.0.blocks.0.a.conv.weight' belongs to a block of one 3x3"):
        convert_state_dict(state, "timm")


@pytest.mark.peers
def test_networks_outside_the_table_load_under_their_own_names():
    source, target = randomised(timm.create_model("regnetv_040")), timm.create_model("regnetv_040")
    load_checkpoint({"state_dict": source.state_dict()}, target)
    assert_same(target.state_dict(), source.state_dict())
    with pytest.raises(CheckpointError, match="unknown key 'stem.weight'"):
        convert_state_dict(source.state_dict(), "torchvision")


# Heads and counters


@pytest.mark.peers
@pytest.mark.parametrize(
    "kind, options",
    [
        ("timm", {"num_classes": 0}),
        ("timm", {"features_only": True}),
        ("regnet", {"num_classes": 0}),
        ("regnet", {"features_only": True}),
    ],
)
def test_only_a_headless_model_ignores_the_head(y_states, kind, options):
    model = build(kind, "y", **options)
    wanted = {key: tensor for key, tensor in y_states[kind].items() if not key.startswith("head.")}
    for source in FORMATS:
        load_checkpoint(y_states[source], randomised(model, seed=3))
        assert_same(model.state_dict(), wanted)
    refused(build("torchvision", "y"), wanted, r"no tensor for the model's 'fc.weight' of shape \(1000, 440\)")
    refused(
        build(kind, "y", num_classes=10),
        y_states["pycls"],
        r"'head.fc.weight' has shape \(1000, 440\), the model's 'head.fc.weight' has \(10, 440\)",
    )
    refused(
        model,
        {**y_states["torchvision"], "trunk_output.block5.block5-0.f.a.0.weight": torch.zeros(8, 8, 1, 1)},
        r"block5-0.f.a.0.weight' of shape \(8, 8, 1, 1\) has no place",
    )


def test_counters_are_kept_never_invented(y_states):
    bare = {key: tensor for key, tensor in y_states["pycls"].items() if not key.endswith("num_batches_tracked")}
    assert not any("num_batches" in key for key in convert_state_dict(bare, "timm"))
    model = randomised(build("timm", "y"), seed=5)
    counts = {key: int(tensor) for key, tensor in model.state_dict().items() if key.endswith("num_batches_tracked")}
    with pytest.warns(UserWarning, match="keeps its own counts"):
        load_checkpoint(bare, model)
    assert all(int(model.state_dict()[key]) == count for key, count in counts.items())
    assert torch.equal(model.state_dict()["s4.b1.conv1.bn.weight"], y_states["timm"]["s4.b1.conv1.bn.weight"])
    partial = dict(y_states["pycls"])
    del partial["s2.b1.f.a_bn.num_batches_tracked"]
    refused(model, partial, "no tensor for the model's 's2.b1.conv1.bn.num_batches_tracked'")
    with pytest.raises(CheckpointError, match="missing key 's2.b1.f.a_bn.num_batches_tracked'"):
        convert_state_dict(partial, "timm")
    frozen = torchvision.models.regnet_y_400mf(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    load_checkpoint(y_states["pycls"], frozen)
    assert torch.equal(frozen.state_dict()["stem.1.running_var"], y_states["timm"]["stem.bn.running_var"])


# Damage: one clear error, the model as before


@pytest.mark.parametrize("kind", ["timm", "torchvision", "regnet"])
@pytest.mark.parametrize("source", FORMATS)
def test_renamed_missing_and_misshapen_tensors(x_states, y_states, kind, source):
    state, model = y_states[source], randomised(build(kind, "y"), seed=2)
    spell = {fmt: from_timm("s3.b2.conv2.conv.weight", fmt) for fmt in FORMATS}
    old, there = re.escape(spell[source]), re.escape(spell[kind])
    shape = re.escape(str(tuple(state[spell[source]].shape)))
    renamed = {key.replace(spell[source], "s3.b2.oops.weight"): tensor for key, tensor in state.items()}
    refused(
        model, renamed, rf"'s3.b2.oops.weight' of shape {shape} has no place.*'{there}' of shape {shape} is not filled"
    )
    missing = {key: tensor for key, tensor in state.items() if key != spell[source]}
    refused(model, missing, rf"no tensor for the model's '{there}' of shape {shape}")
    refused(
        model,
        state | {spell[source]: torch.zeros(7, 8, 3, 3)},
        rf"'{old}' has shape \(7, 8, 3, 3\), the model's '{there}' has {shape}",
    )
    refused(
        model,
        state | {spell[source]: state[spell[source]].to(torch.int64)},
        rf"'{old}' is torch.int64, the model's '{there}' is torch.float32",
    )
    first_half = dict(list(state.items())[: len(state) // 2])
    refused(model, first_half, r"no tensor for the model's '.*' of shape .*it is truncated")
    refused(model, x_states[source], "has no place|no tensor for|has shape")
    for broken, match in ((renamed, "unknown key 's3.b2.oops.weight'"), (missing, rf"missing key '{old}'")):
        for to in FORMATS:
            with pytest.raises(CheckpointError, match=match):
                convert_state_dict(broken, to)


def test_what_is_no_checkpoint(y_states):
    model = build("timm", "y")
    refused(model, {}, "empty")
    refused(model, {"epoch": 3}, "'epoch' is a int, not a tensor")
    refused(model, {"model": {"stem.conv.weight": [1.0]}}, "'stem.conv.weight' is a list, not a tensor")
    refused(
        model, {"encoder.weight": torch.zeros(2)}, "not a RegNet in any known naming: the first key is 'encoder.weight'"
    )
    refused(model, {**y_states["timm"], "model.stem.conv.weight": torch.zeros(2)}, "'model.stem.conv.weight' of shape")
    with pytest.raises(TypeError, match="path or a dict"):
        load_checkpoint(7, model)
    with pytest.raises(CheckpointError, match="meta device"):
        load_checkpoint(y_states["timm"], build("timm", "y").to("meta"))
    with pytest.raises(CheckpointError, match="the model is not a RegNet"):
        load_checkpoint(y_states["timm"], torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="name the same tensor"):
        convert_state_dict({**y_states["timm"], "s1._orig_mod.b1.conv1.conv.weight": torch.zeros(2)}, "pycls")
    with pytest.raises(CheckpointError, match="unknown checkpoint format 'keras'; expected one of pycls"):
        convert_state_dict(y_states["timm"], "keras")
    with pytest.raises(CheckpointError, match="unknown key 's1.b1.conv1.conv.weight'"):
        convert_state_dict(y_states["timm"], "regnet", source="pycls")


class Payload:
    """Not a tensor: weights_only loading must refuse it."""


def test_unreadable_files(y_states, tmp_path):
    model, good = build("timm", "y"), tmp_path / "good.pth"
    torch.save(y_states["timm"], good)
    data = good.read_bytes()
    for keep in (0, 3, 100, len(data) // 2, len(data) - 100):
        damaged = tmp_path / "cut.pth"
        damaged.write_bytes(data[:keep])
        refused(model, damaged, r"cut\.pth \(\d+ bytes\): the file is truncated")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    damaged.write_bytes(flipped)
    refused(model, damaged, "cut.pth: the file is damaged .*CRC-32")
    legacy = tmp_path / "legacy.pth"
    torch.save(y_states["timm"], legacy, _use_new_zipfile_serialization=False)
    load_checkpoint(legacy, model)
    legacy.write_bytes(legacy.read_bytes()[: legacy.stat().st_size // 2])
    refused(model, legacy, "legacy.pth .*truncated")
    torch.save({"state_dict": y_states["timm"], "args": Payload()}, damaged)
    refused(model, damaged, "pickles Python objects besides tensors")
    damaged.write_text("<html>404</html>")
    refused(model, damaged, "not a torch checkpoint")
    refused(model, tmp_path, "is a directory")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent.pth", model)


# Writing


def test_writing_replaces_whole_files_only(y_states, tmp_path):
    path = tmp_path / "out.pth"
    write_checkpoint(y_states["timm"], path)
    assert_same(read_checkpoint(path), y_states["timm"])
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint({"a": lambda: None}, path)
    assert_same(read_checkpoint(path), y_states["timm"])
    converted = convert_checkpoint(path, tmp_path / "out.pyth", "pycls")
    assert_same(converted, y_states["pycls"])
    assert_same(torch.load(tmp_path / "out.pyth", weights_only=True)["model_state"], y_states["pycls"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.pth", "out.pyth"]


def test_sources_are_not_modified(y_states):
    before = copy.deepcopy(y_states["pycls"])
    load_checkpoint(y_states["pycls"], build("timm", "y"))
    convert_state_dict(y_states["pycls"], "torchvision")
    assert_same(y_states["pycls"], before)

"""regnet.optimize: what it swaps, what it leaves and why, and that the result is an ordinary nn.Module."""

import copy
import io
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import regnet
import regnet_kernels
import timm
import torch
import torchvision
from regnet.models import AnyNet, AnyNetConfig
from regnet.swap import FusedBlocks, FusedRegNet, SwapError
from swap_models import Doubled, assert_close, image, make, own_model, randomise, timm_model, torchvision_model
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.misc import FrozenBatchNorm2d
from timm.layers.norm_act import freeze_batch_norm_2d

pytestmark = pytest.mark.peers

WHOLE = {
    "timm x": lambda: timm_model("regnetx_002"),
    "timm y": lambda: timm_model("regnety_002"),
    "timm torchvision widths": lambda: timm_model("regnetx_004_tv"),
    "timm no classes": lambda: timm_model(num_classes=0),
    "timm trunk": lambda: timm_model(num_classes=0, global_pool=""),
    "timm drops": lambda: timm_model(drop_rate=0.3, drop_path_rate=0.2),
    "timm features": lambda: timm_model(features_only=True),
    "timm some features": lambda: timm_model("regnetx_002", features_only=True, out_indices=(3, 1)),
    "timm feature dict": lambda: timm_model(features_only=True, feature_cls="dict"),
    "timm frozen norms": lambda: freeze_batch_norm_2d(timm_model("regnetx_002")).eval(),
    "timm silu": lambda: timm_model("regnetx_002", act_layer="silu"),
    "torchvision x": lambda: torchvision_model("regnet_x_400mf"),
    "torchvision y": lambda: torchvision_model("regnet_y_400mf"),
    "torchvision layers": lambda: IntermediateLayerGetter(torchvision_model(), {"stem": 0, "trunk_output": "top"}).eval(),
    "torchvision frozen norms": lambda: torchvision_frozen(),
    "own x": lambda: own_model("regnetx_200mf", num_classes=7),
    "own y": lambda: own_model("regnety_200mf"),
    "own r": lambda: make(AnyNet, any_config(block_type="R", se_ratio=0.25, group_widths=None)),
    "own silu": lambda: make(AnyNet, any_config(activation="silu")),
    "own features": lambda: own_model("regnety_200mf", features_only=True, out_indices=(0, 2, 4)),
}


def any_config(**changes) -> AnyNetConfig:
    stages = dict(depths=(1, 2), widths=(16, 24), strides=(2, 2), bottleneck_ratios=(1.0, 0.5), group_widths=(8, 16))
    return AnyNetConfig(**{**stages, "num_classes": 5, **changes})


def torchvision_frozen() -> nn.Module:
    model = torchvision_model("regnet_x_400mf")
    frozen = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(module.num_features, module.eps)
            norm.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(frozen.get_submodule(parent), child, norm)
    return frozen.eval()


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return timm_model("regnety_002")


@pytest.fixture(scope="module")
def fused(source) -> FusedRegNet:
    return regnet.optimize(source)


@pytest.mark.parametrize("name", WHOLE)
@torch.no_grad()
def test_whole_networks_run_as_one(name):
    model = WHOLE[name]()
    before = copy.deepcopy(model.state_dict())
    fused = regnet.optimize(model)
    assert type(fused) is FusedRegNet and fused.report.whole and not fused.report.kept
    assert dict(fused.named_parameters()) == {} and fused.weights.dtype == fused.params.dtype == torch.float32
    assert_close(fused(image()), model(image()))
    assert_close(fused(image(1, height=33, width=40)), model(image(1, height=33, width=40)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_other_channels_and_attributes():
    model = timm_model("regnetx_002", in_chans=5, num_classes=11)
    fused = regnet.optimize(model)
    assert_close(fused(image(channels=5)), model(image(channels=5)))
    assert (fused.num_classes, fused.num_features, fused.in_chans) == (11, 368, 5)
    assert timm.data.resolve_model_data_config(fused) == timm.data.resolve_model_data_config(model)
    features = timm_model("regnetx_002", features_only=True, out_indices=(1, 4))
    assert regnet.optimize(features).feature_info.channels() == features.feature_info.channels()
    with pytest.raises(SwapError, match="has no head"):
        regnet.optimize(features).forward_features(image())


@torch.no_grad()
def test_features_and_head_apart(source, fused):
    features = fused.forward_features(image())
    assert_close(features, source.forward_features(image()))
    assert features.is_contiguous(memory_format=torch.channels_last)
    for pre_logits in (False, True):
        assert_close(fused.forward_head(features, pre_logits=pre_logits), source.forward_head(features, pre_logits=pre_logits))


@torch.no_grad()
def test_a_head_of_the_user_follows_in_pytorch():
    pooled = timm_model(global_pool="max")
    mlp = torchvision_model("regnet_x_400mf")
    mlp.fc = nn.Sequential(nn.Linear(400, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    other = torchvision_model("regnet_x_400mf")
    other.fc = nn.Linear(400, 4, bias=False)
    headless = torchvision_model("regnet_x_400mf")
    headless.fc = nn.Identity()
    for model, kept in ((pooled, ["head"]), (mlp, ["fc"]), (other, []), (headless, [])):
        fused = regnet.optimize(model)
        assert type(fused) is FusedRegNet and [one.name for one in fused.report.kept] == kept
        assert_close(fused(image()), model(image()))
        assert_close(fused.forward_head(fused.forward_features(image())), fused(image()))
    assert fused.bfloat16()(image()).dtype == torch.bfloat16


def leave_alone(change: str):
    """A timm model with one block that must not be swapped, s3.b2, and what the report says of it."""
    model = timm_model("regnety_002")
    block = model.s3.b2
    if change == "wrapped":
        model.s3.b2 = Doubled(block).eval()
    elif change == "subclass":
        parent = type(block)
        block.__class__ = type("Mine", (parent,), {"forward": lambda self, x: 3 * parent.forward(self, x)})
    elif change == "patched":
        block.forward = lambda x: -x
    elif change == "inner patched":
        block.se.forward = lambda x: 0.5 * x
    elif change == "hooked":
        block.conv2.register_forward_hook(lambda module, args, output: output + 1)
    elif change == "group norm":
        block.conv2.bn = nn.GroupNorm(4, 152)
    elif change == "batch statistics":
        block.conv1.bn = nn.BatchNorm2d(152, track_running_stats=False).eval()
    elif change == "parametrized":
        nn.utils.parametrizations.weight_norm(block.conv1.conv)
    elif change == "gate":
        block.se.gate = nn.Hardsigmoid()
    elif change == "dilated":
        block.conv2.conv.dilation, block.conv2.conv.padding = (2, 2), (2, 2)
    elif change == "training":
        block.conv2.bn.train()
        block.conv2.bn.momentum = 0.0
    elif change == "circular":
        block.conv2.conv.padding_mode = "circular"
        block.conv2.conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
    elif change == "linear output":
        block.act3 = nn.Identity()
    elif change == "no shortcut":
        block.downsample = None
    return model


REASONS = {
    "wrapped": "Doubled", "subclass": "Mine", "patched": "`forward` replaced", "inner patched": "se has its `forward` replaced",
    "hooked": "conv2 has hooks", "group norm": "GroupNorm", "batch statistics": "running statistics",
    "parametrized": "conv is Parametrized", "gate": "Hardsigmoid", "dilated": "dilation 2", "training": "training mode", "circular": "circular",
    "linear output": "activations differ", "no shortcut": "shortcut",
}  # fmt: skip


@pytest.mark.parametrize("change", REASONS)
@torch.no_grad()
def test_what_cannot_be_swapped_goes_on_working_and_is_named(change):
    model = leave_alone(change)
    partly = regnet.optimize(model)
    assert not partly.report.whole and type(partly) is type(model)
    (kept,) = [one for one in partly.report.kept if one.name]
    assert kept.name == "s3.b2" and REASONS[change] in kept.reason and kept.reason in str(partly.report)
    assert partly.report.swapped[:4] == ["stem", "s1.b1", "s2.b1", "s3.b1"] and len(partly.report.swapped) == 13
    assert type(partly.s3.b3) is FusedBlocks and partly.s3.b3.step_names == ["s3.b3", "s3.b4"]
    assert type(partly.s3.b4) is nn.Identity and type(partly.s3.b2) is type(model.s3.b2)
    assert_close(partly(image()), model(image()))
    assert type(model.s3.b3).__name__ == "Bottleneck"  # the original is untouched


def test_a_class_patched_from_outside_is_not_swapped(monkeypatch):
    model = torchvision_model("regnet_x_400mf")
    monkeypatch.setattr(torchvision.models.regnet.ResBottleneckBlock, "forward", lambda self, x: x)
    with pytest.raises(SwapError, match="nothing to swap .* `forward` replaced"):
        regnet.optimize(model)


@torch.no_grad()
def test_networks_that_are_fused_in_part():
    stride16 = timm_model("regnetx_002", output_stride=16)
    hooked = timm_model(features_only=True, feature_cls="hook")
    resnet_stem = make(AnyNet, any_config(stem_type="resnet"))
    replaced = own_model("regnety_200mf")
    replaced.stages[2].blocks[1] = Doubled(replaced.stages[2].blocks[1]).eval()
    for model, kept in ((stride16, "s4.b2"), (hooked, None), (resnet_stem, None), (replaced, "stages.2.blocks.1")):
        partly = regnet.optimize(model)
        assert not partly.report.whole and partly.report.ops > 1
        assert kept is None or kept in [one.name for one in partly.report.kept]
        assert_close(partly(image()), model(image()))


class Detector(nn.Module):
    """A container that knows its backbone's insides."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.Conv2d(backbone.fc.in_features, 4, 1)

    def forward(self, x):
        x = self.backbone.trunk_output.block1(self.backbone.stem(x))
        return self.lateral(self.backbone.trunk_output[3](self.backbone.trunk_output[2](self.backbone.trunk_output.block2(x))))


@torch.no_grad()
def test_foreign_containers():
    detector = Detector(torchvision_model()).eval()
    partly = regnet.optimize(detector)
    assert partly.report.swapped[0] == "backbone.stem" and len(partly.report.swapped) == 17 and partly.report.ops == 5
    assert_close(partly(image()), detector(image()))
    lowered = regnet.optimize(detector, dtype=torch.bfloat16)  # what runs in PyTorch keeps its dtype
    assert lowered(image()).dtype == torch.float32 and lowered.backbone.stem.weights.dtype == torch.bfloat16
    chain = nn.Sequential(nn.BatchNorm2d(3), timm_model("regnetx_002"), nn.Softmax(1)).eval()
    partly = regnet.optimize(chain, dtype=torch.float16)
    assert type(partly[1]) is FusedRegNet and "1.s4.b1" in partly.report.swapped
    assert partly(image()).dtype == torch.float32
    shared = timm_model("regnetx_002").s4
    twice = nn.Sequential(OrderedDict(a=shared.b2, b=shared.b2, c=nn.ReLU(), d=shared.b3)).eval()
    x = image(channels=368, height=5, width=3)
    partly = regnet.optimize(twice)
    assert partly.report.swapped == ["a", "b", "d"] and partly.report.ops == 2
    assert_close(partly(x), twice(x))
    assert_close(regnet.optimize(shared.b2)(x), shared.b2(x))
    shared.b3 = shared.b2  # this container would run it once: nothing is fused across it
    broken = nn.Sequential(shared, twice.d).eval()
    x = image(channels=152, height=5, width=3)
    partly = regnet.optimize(broken)
    assert partly.report.swapped == ["1"] and "one module in two places" in str(partly.report)
    assert_close(partly(x), broken(x))


def test_nothing_to_swap_and_bad_arguments(source, fused):
    for name, reason in (("regnetz_005", "SiLU"), ("regnetv_040", "pre-activation"), ("resnet18", "holds no block")):
        with pytest.raises(SwapError, match=f"nothing to swap in timm .*{reason}"):
            regnet.optimize(timm.create_model(name).eval())
    with pytest.raises(SwapError, match="VBlock is no bottleneck"):
        regnet.optimize(AnyNet(any_config(block_type="V", bottleneck_ratios=1, group_widths=None)).eval())
    with pytest.raises(SwapError, match=r"call model.eval\(\) first"):
        regnet.optimize(timm.create_model("regnetx_002"))
    with pytest.raises(SwapError, match="_orig_mod"):
        regnet.optimize(torch.compile(source))
    with pytest.raises(SwapError, match="FusedRegNet already"):
        regnet.optimize(fused)
    with pytest.raises(SwapError, match="torch.int8"):
        regnet.optimize(source, dtype=torch.int8)
    with pytest.raises(SwapError, match="pass dtype=torch.float32"):
        regnet.optimize(copy.deepcopy(source).double())
    with pytest.raises(ValueError, match="'tpu' is unknown"):
        regnet.optimize(source, backend="tpu")
    with pytest.raises(regnet_kernels.BackendError, match="CUDA"):
        regnet.optimize(source, backend="cuda")
    with pytest.raises(TypeError, match="nn.Module"):
        regnet.optimize(image)
    with pytest.raises(SwapError, match="normalised"):
        fused(image().to(torch.uint8))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(n: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 65, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def normalised(pixels: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    return (pixels.double() / 255 - mean) / std


UINT8 = {
    "timm": lambda: timm_model("regnetx_002"),
    "torchvision": lambda: torchvision_model("regnet_x_400mf"),
    "own": lambda: own_model("regnety_200mf"),
    "features": lambda: timm_model(features_only=True, out_indices=(0, 2)),
    "feature dict": lambda: IntermediateLayerGetter(torchvision_model(), {"stem": 0, "trunk_output": "top"}).eval(),
    "in part": lambda: leave_alone("wrapped"),
    "inside a Sequential": lambda: nn.Sequential(nn.Identity(), timm_model("regnetx_002"), nn.Softmax(1)).eval(),
    "inside a detector": lambda: Detector(torchvision_model()).eval(),
}


@pytest.mark.parametrize("name", UINT8)
@torch.no_grad()
def test_uint8_images_are_normalised_on_the_way_in(name):
    """The oracle is float64: (x / 255 - mean) / std, padded with zeros after that. Borders are part of every map here."""
    model = UINT8[name]()
    expected = copy.deepcopy(model).double()(normalised(photographs()))
    fused = copy.deepcopy(regnet.optimize(model, mean=MEAN, std=STD))
    for x in (photographs(), photographs().contiguous(memory_format=torch.channels_last), photographs().transpose(2, 3).contiguous().transpose(2, 3)):
        found = fused(x)
        assert_close(found, as_float32(expected))
    assert_close(fused(normalised(photographs()).float()), found)  # floating images come normalised
    lower = regnet.optimize(model, dtype=torch.bfloat16, mean=MEAN, std=STD)(photographs())
    assert_close(as_float32(lower), as_float32(expected), 0.03)


def as_float32(value):
    if isinstance(value, torch.Tensor):
        return value.float()
    return {key: inner.float() for key, inner in value.items()} if isinstance(value, dict) else [inner.float() for inner in value]


@torch.no_grad()
def test_uint8_networks_are_ordinary_modules(source, fused):
    x = photographs()
    taking = regnet.optimize(source, mean=torch.tensor(MEAN), std=list(STD))
    expected = taking(x)
    assert set(taking.state_dict()) == set(fused.state_dict()) and "mean=(0.48" in repr(taking)
    fresh = regnet.optimize(randomise(copy.deepcopy(source), seed=5), mean=MEAN, std=STD)
    fresh.load_state_dict(fused.state_dict())  # mean and std are the module's own, and not state
    assert torch.equal(fresh(x), expected) and torch.equal(fused_again(taking)(x), expected)
    assert torch.equal(taking.forward_head(taking.forward_features(x)), expected)
    assert torch.equal(copy.deepcopy(taking).bfloat16().float().pixel_scale, taking.pixel_scale)  # numbers of the image, not of the weights
    assert regnet.optimize(source, backend="eager", mean=MEAN, std=STD)(x).dtype == torch.float32
    with torch.autocast("cpu"):
        assert_close(taking(x), expected)
    assert_close(torch.compile(taking, fullgraph=True)(x), expected)
    program = torch.export.export(taking, (x,), dynamic_shapes={"x": {0: torch.export.Dim("n")}})
    assert_close(program.module()(photographs(3)), taking(photographs(3)))
    assert regnet.optimize(copy.deepcopy(source), inplace=True, mean=MEAN, std=STD)(photographs(0)).shape == (0, 1000)
    part = regnet.optimize(leave_alone("wrapped"), dtype=torch.float16, mean=MEAN, std=STD)
    assert part(x).dtype == torch.float32 and part.bfloat16()(x).dtype == torch.bfloat16
    five = timm_model("regnetx_002", in_chans=5)
    numbers = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    assert_close(regnet.optimize(five, mean=numbers[0], std=numbers[1])(photographs(channels=5)),
                 five(normalised(photographs(channels=5), *numbers).float()))


def test_uint8_images_that_cannot_be_normalised(source, fused):
    def given(mean, std, model=source):
        return regnet.optimize(model, mean=mean, std=std)

    with pytest.raises(SwapError, match=r"torch.uint8; expected floating .*optimize\(model, mean=..., std=...\)"):
        fused(photographs())
    with pytest.raises(SwapError, match="torch.int32; expected floating images, .* or uint8 images"):
        given(MEAN, STD)(photographs().int())
    with pytest.raises(SwapError, match="torch.uint8"):
        given(MEAN, STD).forward_head(photographs())
    for mean, std, reason in ((MEAN, None, "mean is given without std"), (None, STD, "std is given without mean"),
                              (MEAN, (1.0, 0.0, 1.0), "std holds 0, .* must be positive"), (0.5, 0.5, "mean is 0.5; expected a number for each"),
                              (MEAN, (1.0, 1.0), "mean has 3 values, std has 2"), ((0.5,), (0.5,), "1 values, the model takes images of 3"),
                              ((123.675, 116.28, 103.53), (58.4, 57.1, 57.4), "123.675; mean and std are in units of pixel / 255"),
                              (MEAN, (1.0, float("nan"), 1.0), "finite")):
        with pytest.raises(SwapError, match=reason):
            given(mean, std)
    detector, before = Detector(torchvision_model()).eval(), Detector(torchvision_model()).state_dict()
    with pytest.raises(SwapError, match="images of 3 channels"):
        regnet.optimize(detector, mean=(0.5,), std=(0.5,), inplace=True)
    assert detector.state_dict().keys() == before.keys()  # refused before anything was changed
    with pytest.raises(SwapError, match="no stem of regnet AnyNet is swapped .*ResNet stem"):
        given(MEAN, STD, make(AnyNet, any_config(stem_type="resnet")))
    with pytest.raises(SwapError, match="is a block"):
        given(MEAN, STD, source.s2.b1)


@torch.no_grad()
def test_forced_backend(source):
    assert_close(regnet.optimize(source, backend="eager")(image()), source(image()))


@torch.no_grad()
def test_inplace_changes_the_object_itself(source):
    expected = source(image())
    model = copy.deepcopy(source)
    holder = nn.ModuleList([model])
    assert regnet.optimize(model, inplace=True) is model and type(holder[0]) is FusedRegNet
    assert_close(pickle.loads(pickle.dumps(model))(image()), expected)
    model = leave_alone("wrapped")
    expected = model(image())
    assert regnet.optimize(model, inplace=True) is model and type(model.s1.b1) is FusedBlocks
    assert_close(model(image()), expected)


@torch.no_grad()
def test_casts_pack_anew(source):
    x, expected = image(), source(image())
    model = regnet.optimize(source)
    half, brain = copy.deepcopy(model).half().half(), copy.deepcopy(model).to(torch.bfloat16)
    assert [m.weights.dtype for m in (model, half, brain)] == [torch.float32, torch.float32, torch.bfloat16]
    assert all(m.params.dtype == torch.float32 for m in (half, brain))
    for other in (half, brain):
        y = other(x)
        assert y.dtype == other.dtype and (y.float() - expected).abs().max() < 0.03 * expected.abs().max()
    assert torch.equal(half.float()(x), model(x))  # nothing was lost
    direct = regnet.optimize(source, dtype=torch.bfloat16)
    assert torch.equal(brain.weights, direct.weights) and brain.program == direct.program
    assert regnet.optimize(copy.deepcopy(source).bfloat16()).dtype == torch.bfloat16
    assert brain.float()(x).dtype == torch.float32
    with pytest.raises(SwapError, match="cannot be cast to torch.float64"):
        model.double()
    assert model.to("cpu", memory_format=torch.channels_last) is model and torch.equal(model(x), fused_again(model)(x))


def fused_again(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@torch.no_grad()
def test_state_dict(source, fused):
    stream = io.BytesIO()
    torch.save(fused.state_dict(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    assert set(state) == {"weights", "params", "_extra_state"}
    fresh = regnet.optimize(randomise(copy.deepcopy(source), seed=5))
    assert not torch.equal(fresh(image()), fused(image()))
    fresh.load_state_dict(state)
    assert torch.equal(fresh(image()), fused(image()))
    lower = regnet.optimize(randomise(copy.deepcopy(source), seed=5), dtype=torch.bfloat16)
    lower.load_state_dict(state)  # blobs of another dtype are packed anew
    assert torch.equal(lower.weights, copy.deepcopy(fused).bfloat16().weights)
    with pytest.raises(RuntimeError, match="step 1 of the state dict has se_width 8, this network's has 0"):
        regnet.optimize(timm_model("regnetx_002")).load_state_dict(state)
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        fresh.load_state_dict(state, strict=False)


@torch.no_grad()
def test_compile_and_export(fused):
    expected = fused(image())
    compiled = torch.compile(fused, fullgraph=True)
    assert_close(compiled(image()), expected)
    program = torch.export.export(fused, (image(),), dynamic_shapes={"x": {0: torch.export.Dim("n")}})
    calls = [node for node in program.graph.nodes if node.op == "call_function" and "regnet_kernels" in str(node.target)]
    assert len(calls) == 1
    assert_close(program.module()(image(3)), fused(image(3)))


def test_gradient_reaches_the_input(source, fused):
    grads = []
    for model in (source, fused):
        x = image(1).requires_grad_()
        model(x).square().sum().backward()
        grads.append(x.grad)
    assert_close(grads[1], grads[0])


class Images(torch.utils.data.Dataset):
    """Computes in the worker."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __len__(self) -> int:
        return 2

    @torch.no_grad()
    def __getitem__(self, index: int) -> torch.Tensor:
        return self.model(image(2)[index : index + 1])[0]


@torch.no_grad()
def test_threads_and_forked_workers(fused):
    expected = [fused(image(n)) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda n: fused(image(n)), range(4)), expected):
            assert torch.equal(found, wanted)
    loader = torch.utils.data.DataLoader(Images(fused), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert_close(next(iter(loader)), expected[2])

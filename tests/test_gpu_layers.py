"""Which backend runs each layer of a network on a GPU, without one: heuristics, what was tuned, what is forced, what is said of it."""

import pytest
import torch
from regnet.traffic import plain_network
from regnet_kernels import BackendError, BlockStep, ConvStep, HeadStep, explain, network, pack_plain
from regnet_kernels.backends import cuda, gpu, hopper, triton
from regnet_kernels.backends.gpu import choice
from regnet_kernels.backends.gpu.layers import MeanShape
from regnet_kernels.backends.triton.shapes import GateShape, GroupedShape, PointwiseShape
from regnet_kernels.problem import Problem
from regnet_kernels.testing import assert_close_to_oracle
from regnet_kernels.tuning import store

CARD = torch.device("cuda", 0)
HALF = torch.float16


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """As if a card were here, with both libraries, on which nothing was tuned yet; yields the tuned entries by shape."""
    entries = {}
    monkeypatch.setattr(cuda, "why_not_here", lambda device: "")
    monkeypatch.setattr(triton, "why_not_here", lambda device: "")
    monkeypatch.setattr(choice.table, "tuned", lambda device, shape, dtype: entries.get(shape))
    monkeypatch.setattr(choice, "_kept", lambda *args: choice._choose(*args[:-1]))
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    return entries


def problem(name, batch=32, dtype=HALF, layers="", side=224):
    specs = name if isinstance(name, tuple) else plain_network(name).specs
    return Problem("network", CARD, dtype, dtype, 3, layout="plain", specs=specs, sizes=(batch, side, side), layers=layers)


def chosen(*args, **kwargs):
    """{kind: backends} of a network."""
    found = {}
    for layer, choice_ in gpu.explain(problem(*args, **kwargs), "gpu"):
        found.setdefault(layer.shape.kernel, set()).add(choice_.backend)
    return found


def test_heuristics_by_layer():
    rest = {"direct": {"triton"}, "pointwise": {"triton"}, "mean": {"triton"}}
    assert chosen("regnety_400mf") == {**rest, "grouped": {"cuda"}, "gate": {"cuda"}}
    assert chosen("regnety_400mf", dtype=torch.float32) == {**rest, "grouped": {"triton"}, "gate": {"cuda"}}
    assert chosen("regnetx_8.0gf") == {**rest, "grouped": {"triton"}}  # groups of 120
    assert chosen("regnety_32gf") == {**rest, "grouped": {"triton"}, "gate": {"cuda", "triton"}}
    lines = gpu.table(gpu.explain(problem("regnety_32gf"), "gpu"))
    assert any("grouped 32 14 14 1392 232 1 1: triton (heuristic; cuda: groups of 232, wider than 64" in line for line in lines)
    assert any("pointwise" in line and "cuda: CUDA C++ has kernels for the grouped 3x3 and the gate" in line for line in lines)


def test_heuristics_on_hopper(monkeypatch):
    """As measured: narrow groups by the kernel of its own, wide 1x1 by the library, all small ones by Triton."""
    monkeypatch.setattr(choice, "_arch", lambda device: "sm_90")
    assert chosen("regnety_400mf", batch=1)["grouped"] == {"triton"}
    found = chosen("regnety_3.2gf", batch=256)
    assert found["grouped"] == {"cuda"} and found["gate"] == {"triton"} and found["pointwise"] == {"triton", "cudnn"}
    assert chosen("regnetx_8.0gf", batch=256)["grouped"] == {"triton"}  # groups of 120
    assert chosen("regnety_3.2gf", batch=256, dtype=torch.float32)["pointwise"] == {"triton"}


def test_tiles_for_hopper():
    """The estimate's first choice fits a block, covers the map and keeps whole maps only where they are whole."""
    layers = (256, 14, 576, 24, 1), (256, 7, 1008, 48, 2), (1, 56, 72, 24, 1), (32, 28, 240, 120, 1)
    for images, side, channels, group_width, stride in layers:
        for tile in hopper.candidates(images, side, side, channels, group_width, stride, True, 132)[:5]:
            need = hopper.needs(tile, group_width, stride, True)
            assert need.shared <= hopper.SHARED and need.steps * 2 >= 9 * group_width // 8
            assert tile.images == 1 or (tile.height, tile.width) == (side, side)
    assert hopper.tile(4, 7, 7, 232, 232, 1, False, 132) is None  # the weights of a group do not fit


def test_what_was_measured_goes_before_the_heuristic(card):
    shape = GroupedShape(32, 14, 14, 208, 8, 1, 1)
    pick = lambda: choice.choose(shape, HALF, CARD)  # noqa: E731
    assert pick()[:2] == ("cuda", "heuristic")
    card[shape] = store.Entry((64, 128, 32, 4, 3), 0.1, 0.1, {"cuda": 0.2, "cudnn": 0.3})
    assert pick()[:2] == ("triton", "tuned") and pick().reasons["cuda"] == "0.2000 ms, triton took 0.1000"
    card[shape] = card[shape]._replace(ms=0.199)
    assert pick().backend == "cuda"  # less than 2 % is noise
    card[shape] = card[shape]._replace(others={"cudnn": 0.1})
    assert pick().backend == "cudnn" and pick().reasons["cuda"] == "it failed when it was measured"
    assert choice.choose(shape, HALF, CARD, "grouped=cuda")[:2] == ("cuda", "forced")


def test_forced_layers(monkeypatch):
    assert set().union(*chosen("regnety_400mf", layers="triton").values()) == {"triton"}
    some = chosen("regnety_400mf", layers="cudnn, gate=cuda")
    assert some == {"direct": {"cudnn"}, "pointwise": {"cudnn"}, "mean": {"cudnn"}, "grouped": {"cudnn"}, "gate": {"cuda"}}
    monkeypatch.setenv(choice.VARIABLE, "grouped=triton")
    assert chosen("regnety_400mf")["grouped"] == {"triton"} and chosen("regnety_400mf", layers="cudnn")["grouped"] == {"cudnn"}
    monkeypatch.setenv(choice.VARIABLE, "conv=triton")
    with pytest.raises(ValueError, match="REGNET_KERNELS_LAYERS='conv=triton': 'conv=triton' is no backend and no kind=backend; kinds: pointwise"):
        chosen("regnety_400mf")
    with pytest.raises(ValueError, match="layers='tpu': 'tpu' is no backend"):
        chosen("regnety_400mf", layers="tpu")
    with pytest.raises(BackendError, match="grouped 32 56 56 48 8 2 1 was forced onto cuda, which cannot run it: the sums of a pool come from"):
        chosen("regnety_400mf", dtype=torch.float32, layers="grouped=cuda")
    with pytest.raises(BackendError, match="the layer direct .* was forced onto cuda"):
        chosen("regnety_400mf", layers="cuda")


def test_what_each_backend_cannot_run(monkeypatch):
    assert "multiples of 8" in choice.why_not("triton", PointwiseShape(1, 7, 7, 12, 16), HALF, CARD)
    assert "group width is 12" in choice.why_not("triton", GroupedShape(1, 7, 7, 24, 12), HALF, CARD)
    assert "group width is 12" in choice.why_not("cuda", GroupedShape(1, 7, 7, 24, 12), HALF, CARD)
    assert "more than 2147483647 pixels" in choice.why_not("cuda", GroupedShape(50_000, 112, 112, 24, 8, 2), HALF, CARD)
    assert "do not fit into shared memory" in choice.why_not("cuda", GateShape(1, 49, 12000, 1000), HALF, CARD)
    assert choice.why_not("cudnn", MeanShape(1, 49, 13), HALF, CARD) == ""
    monkeypatch.setattr(cuda, "why_not_here", lambda device: "absent")
    assert chosen("regnety_400mf")["grouped"] == {"triton"}
    monkeypatch.setattr(triton, "why_not_here", lambda device: "Triton is not installed")
    assert set().union(*chosen("regnety_400mf").values()) == {"cudnn"}


def odd_network(dtype=HALF):
    """Groups of 12 in the first block: nothing that loads 8 channels at once runs those."""
    def block(c, m, o, g, stride, se):
        new = torch.randn
        squeeze = (new(se, m) / 5, new(se), new(m, se) / 3, new(m)) if se else None
        return BlockStep((new(m, c, 1, 1) / 5, new(m)), (new(m, g, 3, 3) / 10, new(m)), (new(o, m, 1, 1) / 5, new(o)),
                         (new(o, c, 1, 1) / 5, new(o)), squeeze, stride, g, "relu")

    stem = ConvStep(torch.randn(20, 3, 3, 3) / 4, torch.randn(20), 2, 1, 1, "relu")
    return pack_plain([stem, block(20, 36, 24, 12, 2, 6), block(24, 48, 32, 16, 1, 12), HeadStep(torch.randn(10, 32) / 6, torch.randn(10))], dtype)


def test_odd_channels_cost_only_their_own_layers():
    packed = odd_network()
    by_layer = {(layer.step, layer.part): one.backend for layer, one in gpu.explain(problem(packed.specs), "gpu")}
    assert by_layer == {(0, "w"): "triton", (1, "a"): "cudnn", (1, "b"): "cudnn", (1, "se"): "cuda", (1, "c"): "cudnn", (2, "a"): "triton",
                        (2, "b"): "cuda", (2, "se"): "cuda", (2, "c"): "triton", (3, "mean"): "triton", (3, "fc"): "triton"}
    assert "step 1 has 20 input channels" in triton.why_not_anywhere(problem(packed.specs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torchs_own_operations_compute_every_layer(dtype):
    packed = odd_network(dtype)
    x = torch.randn(2, 3, 21, 18).to(dtype)
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    actual = gpu.run(x, packed.weights, packed.params, packed.program, layers="cudnn")
    assert_close_to_oracle(actual, exact, network(x, packed, backend="eager"), what="cudnn")
    image = torch.randint(0, 256, (2, 3, 21, 18), dtype=torch.uint8)
    mean, scale = torch.tensor([120.0, 115.0, 105.0]), torch.tensor([0.017, 0.018, 0.019])
    args = image, packed.weights, packed.params, packed.program, mean, scale
    normal = (image.float() - mean[:, None, None]) * scale[:, None, None]
    exact = network(normal.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    assert_close_to_oracle(gpu.run(*args, layers="cudnn"), exact, torch.ops.regnet_kernels.network_plain(*args), what="uint8")


def test_single_calls_are_weighed_the_same_way():
    def of(op, dtype, channels, **more):
        return Problem(op, CARD, dtype, None, channels, channels, **more)

    conv = of("conv_bn_act", HALF, 48, kernel=(3, 3), stride=1, padding=1, groups=2, sizes=(2, 14, 14))
    assert gpu.passed_over("cuda", conv) == "" and "once a tap" in gpu.passed_over("triton", conv)
    wide = conv._replace(c_in=240, c_out=240, groups=2)
    assert gpu.passed_over("triton", wide) == "" and "wider than 64" in gpu.passed_over("cuda", wide)
    gate = of("se_gate", torch.float32, 440, squeeze=110, sizes=(2, 1, 49))
    assert gpu.passed_over("cuda", gate) == "" and "one launch" in gpu.passed_over("triton", gate)
    large = gate._replace(c_in=3712, c_out=3712, squeeze=348)
    assert gpu.passed_over("triton", large) == "" and "a second launch" in gpu.passed_over("cuda", large)
    assert gpu.passed_over("triton", conv._replace(kernel=(1, 1), padding=0)) == ""


def test_layers_are_for_networks_that_run_layer_by_layer():
    packed = odd_network(torch.float32)
    with pytest.raises(ValueError, match="layers='cudnn' is for networks that run layer by layer on a GPU; this one runs on eager"):
        network(torch.randn(1, 3, 9, 9), packed, layers="cudnn")
    assert explain("network", torch.randn(1, 3, 9, 9), packed).layers == ()

"""A packed network on a card, each layer on each backend that can run it. Without a card all of it is skipped."""

import shutil
import subprocess
import sys

import pytest
import torch
from regnet_kernels import BlockStep, ConvStep, HeadStep, conv_bn_act, explain, network, pack_plain, se_gate, testing
from regnet_kernels._extension import CUDA
from regnet_kernels.backends.gpu import choice

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
HALVES = (torch.float16, torch.bfloat16)
FORCED = ("", "triton", "cudnn", "grouped=cuda,gate=cuda", "grouped=triton,gate=cuda", "grouped=cuda,gate=triton", "grouped=cuda,gate=cudnn",
          "pointwise=cudnn,grouped=cuda", "direct=cudnn,mean=cudnn")
in_each_half = pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def steps(odd=False):
    """Stem, blocks with groups of 24, 8 (an odd number of them) and 64 and a head; odd: one block with groups of 12."""
    def block(c, m, o, g, stride, se):
        new = torch.randn
        squeeze = (new(se, m) / m**0.5, new(se), new(m, se) / se**0.5, new(m)) if se else None
        proj = (new(o, c, 1, 1) / c**0.5, new(o)) if stride > 1 or c != o else None
        return BlockStep((new(m, c, 1, 1) / c**0.5, new(m)), (new(m, g, 3, 3) / (9 * g) ** 0.5, new(m)), (new(o, m, 1, 1) / m**0.5, new(o)),
                         proj, squeeze, stride, g, "relu")

    torch.manual_seed(0)
    stem = ConvStep(torch.randn(32, 3, 3, 3) / 5, torch.randn(32), 2, 1, 1, "relu")
    middle = block(48, 60, 40, 12, 2, 15) if odd else block(48, 72, 40, 8, 2, 12)
    return [stem, block(32, 48, 48, 24, 1, 8), middle, block(40, 128, 40, 64, 1, 0), HeadStep(torch.randn(10, 40) / 6, torch.randn(10))]


def packed_network(dtype, device="cuda", odd=False):
    return pack_plain(steps(odd), dtype).to(device)


def image(dtype, seed=1, device="cuda"):
    return torch.randn(5, 3, 61, 47, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def check(x, packed, layers, actual=None):
    actual = network(x, packed, layers=layers) if actual is None else actual
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    testing.assert_close_to_oracle(actual, exact, network(x, packed, backend="eager"), what=f"layers={layers!r}")


def need(layers):
    if "cuda" in layers and not CUDA.loaded:
        pytest.skip(f"the CUDA kernels are {CUDA.state}: {CUDA.reason}")


@in_each_half
@pytest.mark.parametrize("layers", FORCED)
def test_each_forced_choice_against_float64(dtype, layers):
    need(layers)
    x, packed = image(dtype), packed_network(dtype)
    check(x, packed, layers)
    wanted = choice.forced(layers)
    for layer, chosen in explain("network", x, packed, layers=layers).layers:
        assert chosen.backend == wanted.get(layer.shape.kernel, chosen.backend)


@pytest.mark.parametrize("layers", ["", "triton", "cudnn", "gate=cuda"])
def test_float32(layers, monkeypatch):
    need(layers)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check(image(torch.float32), packed_network(torch.float32), layers)


@in_each_half
def test_odd_channels_run_beside_the_fused_layers(dtype):
    x, packed = image(dtype), packed_network(dtype, odd=True)
    check(x, packed, "")
    backends = {one.choice.backend for one in explain("network", x, packed).layers if one.layer.step == 2}
    assert "cudnn" in backends


@in_each_half
@pytest.mark.parametrize("layers", FORCED)
def test_a_graph_replays_on_new_images_and_streams_agree(dtype, layers):
    need(layers)
    x, other, packed = image(dtype), image(dtype, seed=2), packed_network(dtype)
    expected = [network(one, packed, layers=layers) for one in (x, other)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        elsewhere = network(x, packed, layers=layers)
    torch.cuda.current_stream().wait_stream(side)
    fed = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(fed, packed, layers=layers)
    found = []
    for one in (x, other):
        fed.copy_(one)
        captured.zero_()
        graph.replay()
        found.append(captured.clone())
    torch.cuda.synchronize()
    if "cudnn" not in layers:  # the library may take another algorithm elsewhere
        assert torch.equal(elsewhere, expected[0]) and all(map(torch.equal, found, expected))
    for one, y in ((x, elsewhere), (x, found[0]), (other, found[1])):
        check(one, packed, layers, y)


def test_a_launch_waits_for_its_own_stream():
    """The input is made on a side stream behind a long kernel: a launch on any other stream would read what was there before."""
    need("cuda")
    packed, x = packed_network(torch.float16), image(torch.float16)
    fed, side = torch.zeros_like(x), torch.cuda.Stream()
    expected = network(x, packed, layers="grouped=cuda,gate=cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        fed.copy_(x)
        y = network(fed, packed, layers="grouped=cuda,gate=cuda")
    side.synchronize()
    assert torch.equal(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_tensors_on_a_second_device_while_the_first_is_current():
    need("cuda")
    packed, x = packed_network(torch.float16, "cuda:1"), image(torch.float16, device="cuda:1")
    with torch.cuda.device(0):
        for layers in FORCED:
            y = network(x, packed, layers=layers)
            assert y.device == x.device
            check(x, packed, layers, y)


def test_autocast():
    need("cuda")
    packed, x = packed_network(torch.bfloat16), image(torch.bfloat16)
    with torch.autocast("cuda", torch.float16):
        y = network(x.float(), packed, layers="grouped=cuda,gate=cuda,pointwise=cudnn")
    assert y.dtype == torch.bfloat16  # what was packed for, not what autocast asks for
    check(x, packed, "autocast", y)


@pytest.mark.parametrize("layers", ["", "cudnn", "grouped=cuda,gate=cuda"])
def test_compiles_without_a_break_and_for_any_batch(layers):
    need(layers)
    packed = packed_network(torch.float16)
    compiled = torch.compile(lambda x: network(x, packed, layers=layers), fullgraph=True, dynamic=True)
    for count in (5, 3):
        x = image(torch.float16)[:count]
        check(x, packed, layers, compiled(x))


def test_single_calls_compile_and_take_either_backend():
    need("cuda")
    (x, weight, bias), options = testing.make_conv(testing.ConvShape(3, 48, 48, 14, 14, 3, 1, 2), torch.float16, "cuda")
    _, *se = testing.make_squeeze_excite(testing.SeShape(3, 48, 12, 14, 14), torch.float32, "cuda")

    def both(x):
        y, sums = conv_bn_act(x, weight, bias, **options, pool=True)
        return y, se_gate(sums, *se, 196)

    expected = both(x)
    for actual, one in zip(torch.compile(both, fullgraph=True)(x), expected):
        torch.testing.assert_close(actual, one)
    for backend in ("cuda", "triton"):
        torch.testing.assert_close(se_gate(x.float().sum((2, 3)), *se, 196, backend=backend),
                                   se_gate(x.float().sum((2, 3)), *se, 196, backend="eager"), rtol=1e-4, atol=1e-5)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import torch, test_gpu_network as here
from regnet_kernels import network
for dtype in here.HALVES:
    x, packed = here.image(dtype)[:3], here.packed_network(dtype)
    network(x, packed, layers="cudnn,grouped=cuda,gate=cuda")
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing_in_the_cuda_kernels(tool):
    need("cuda")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    folder = __file__.rpartition("/")[0]
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kns=gconv3x3", "--kernel-name", "kns=se_gate", sys.executable,
               "-c", SCRIPT.format(folder=folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

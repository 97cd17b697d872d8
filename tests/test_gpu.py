"""The GPU path on a card, against float64. Without a card all of it is skipped; `make gpu-check` runs it first."""

import copy

import pytest
import regnet
import torch
from regnet_kernels import conv_bn_act, explain, network, pack_plain, testing
from regnet_kernels.backends import cuda
from regnet_kernels.testing import gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
in_each_dtype = pytest.mark.parametrize("dtype", testing.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
on_each_backend = pytest.mark.parametrize("backend", gpu.BACKENDS)


@pytest.fixture(autouse=True)
def exact_float32():
    with gpu.without_tf32():
        yield


def require(backend: str) -> None:
    """Skip where a backend cannot run here at all, with its reason."""
    if reason := gpu.BACKENDS[backend].why_not_here(torch.device("cuda", 0)):
        pytest.skip(reason)


@in_each_dtype
@on_each_backend
def test_convolutions_and_the_sums_of_a_squeeze(dtype, backend):
    require(backend)
    assert gpu.check_convolutions(dtype, backend=backend) > (10 if backend == "triton" else 5)


@on_each_backend
def test_gates(backend):
    require(backend)
    assert gpu.check_gates(backend=backend) == len(gpu.GATES)


@in_each_dtype
def test_squeeze_excite_and_blocks(dtype):
    gpu.check_squeeze_excite(dtype)
    gpu.check_blocks(dtype)


def test_float32_with_tf32_where_torch_allows_it():
    """TF32 keeps 10 bits of a factor: half a unit is 2^-11, and sums of random signs add little to it."""
    x, packed = gpu.small_steps(torch.float32)
    torch.backends.cudnn.allow_tf32 = True
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    assert testing.relative_error(network(x, packed), exact) < 2**-8


@in_each_dtype
def test_a_network_repeats_exactly_on_any_stream_and_in_a_graph(dtype):
    x, packed = gpu.small_network(dtype)
    assert explain("network", x, packed).chosen not in ("eager", "cpu")
    y = network(x, packed)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        elsewhere = [network(x, packed) for _ in range(3)]  # their memory is reused on this stream
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(x, packed)
    for _ in range(2):
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, captured)
    assert all(torch.equal(y, other) for other in elsewhere)
    given = x.clone()
    x.copy_(torch.flip(given, (0,)))  # a graph reads what lies in its input when it is replayed
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(network(x, packed), captured)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_a_second_card_while_the_first_is_current():
    model = regnet.create_model("regnetx_200mf").eval().half()
    images = torch.randn(2, 3, 64, 64).half()
    fused = [regnet.optimize(copy.deepcopy(model).to(f"cuda:{index}")) for index in (0, 1)]
    results = [one(images.to(one.weights.device)) for one in fused]
    assert [y.device.index for y in results] == [0, 1] and torch.cuda.current_device() == 0
    assert testing.relative_error(results[1], results[0].cpu().double()) < 1e-2  # another card may sum in another order
    moved = copy.deepcopy(fused[0]).to("cuda:1")
    assert torch.equal(moved(images.to("cuda:1")), results[1])


@pytest.mark.parametrize("name", ["regnety_400mf", "regnetx_600mf"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_optimized_models(name, dtype):
    model = regnet.create_model(name).eval().cuda().to(dtype)
    fused = regnet.optimize(model)
    x = torch.randn(4, 3, 96, 96, device="cuda").to(dtype)
    report = regnet.check_parity(model, fused, x)
    assert report.passed, str(report)
    with torch.autocast("cuda", dtype=torch.float16):
        assert fused(x.float()).dtype == dtype  # what was packed for, whatever autocast would choose
    assert torch.equal(torch.compile(fused, fullgraph=True)(x), fused(x))
    assert regnet.check_parity(model.cpu(), fused.cpu(), x.cpu()).passed  # packed anew for the CPU


def test_uint8_images():
    """The stem's kernel normalises: against float64, and as a graph that is captured with its mean and scale."""
    model = regnet.create_model("regnety_200mf").eval().cuda()
    pixels = torch.randint(0, 256, (3, 3, 65, 50), dtype=torch.uint8, device="cuda")
    for dtype in (torch.float16, torch.float32):
        fused = regnet.optimize(model, dtype=dtype, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        report = regnet.check_parity(model, fused, pixels)
        assert report.passed, str(report)
        expected = fused(pixels)
        for other in (pixels.contiguous(memory_format=torch.channels_last), pixels.transpose(2, 3).contiguous().transpose(2, 3)):
            assert torch.equal(fused(other), expected)
    with torch.inference_mode():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = fused(pixels)
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(captured, expected)


def test_channels_that_no_kernel_takes_run_in_torch():
    conv = torch.nn.Conv2d(20, 20, 3, padding=1, groups=5).cuda()
    x = torch.randn(2, 20, 7, 9, device="cuda")
    y = conv_bn_act(x, conv.weight.detach(), conv.bias.detach(), groups=5)
    assert testing.relative_error(y, torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 1, 1, 1, 5)) < 1e-5


def test_the_cuda_library_is_there_where_it_can_be_built():
    if reason := cuda.why_not_here(torch.device("cuda", 0)):
        pytest.skip(reason)
    for dtype in testing.DTYPES:
        assert gpu.run_every_kernel(dtype, "cuda") > len(gpu.GATES)
    torch.cuda.synchronize()

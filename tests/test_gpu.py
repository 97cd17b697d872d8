"""The GPU path on a card, against float64. Without a card all of it is skipped; `make gpu-check` runs it first."""

import pytest
import regnet
import torch
from regnet_kernels import explain, network, testing
from regnet_kernels.testing import gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
in_each_dtype = pytest.mark.parametrize("dtype", testing.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@in_each_dtype
def test_ops(dtype):
    assert gpu.check_convolutions(dtype) > 10
    gpu.check_squeeze_excite(dtype)
    gpu.check_blocks(dtype)


@in_each_dtype
def test_a_network_repeats_exactly_on_any_stream_and_in_a_graph(dtype):
    x, packed = gpu.small_network(dtype)
    assert explain("network", x, packed).chosen == "triton"
    y = network(x, packed)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        elsewhere = network(x, packed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(x, packed)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, elsewhere) and torch.equal(y, captured)


@pytest.mark.parametrize("name", ["regnety_400mf", "regnetx_600mf"])
def test_optimized_models(name):
    model = regnet.create_model(name).eval().cuda().half()
    fused = regnet.optimize(model)
    x = torch.randn(4, 3, 96, 96, device="cuda").half()
    report = regnet.check_parity(model, fused, x)
    assert report.passed, str(report)
    with torch.autocast("cuda"):
        assert fused(x.float()).dtype == torch.float16
    assert torch.equal(torch.compile(fused)(x), fused(x))
    assert regnet.check_parity(model.cpu(), fused.cpu(), x.cpu()).passed  # packed anew for the CPU

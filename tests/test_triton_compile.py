"""Our own launches, compiled for cards that are not here: machine code of a small sample of shapes (all: python -m benchmarks.gpu_report)."""

import pytest
import torch
from regnet_kernels import ConvStep, HeadStep, pack_plain, testing
from regnet_kernels.backends import gpu
from regnet_kernels.backends.triton.machine import Machine, interpreting

triton = pytest.importorskip("triton", reason="Triton is not installed")
dry = pytest.importorskip("regnet_kernels.testing.triton_dry_run")
pytestmark = pytest.mark.skipif(interpreting(), reason="a process that interprets cannot compile")
BARS = any(triton.__version__.startswith(version + ".") for version in dry.CHECKED_TRITON)


def compile_network(arch, dtype, batch=64):
    """The launches of a stem, two blocks and a head: every kernel but the standalone squeeze-excite's."""
    def block(*shape):
        return testing.make_block(testing.BlockShape(1, *shape, 8, 8), torch.float32)[1]

    stem = ConvStep(torch.randn(32, 3, 3, 3), torch.randn(32), 2, 1, 1, "relu")
    steps = [stem, block(32, 104, 104, 8, 8, 2, True), block(104, 120, 104, 120, 26, 1, False), HeadStep(torch.randn(10, 104), torch.randn(10))]
    packed = pack_plain(steps, dtype).to("meta")
    image = torch.empty(batch, 3, 64, 64, dtype=dtype, device="meta")
    with dry.dry_run(Machine(arch, 100)) as launches:
        y = gpu.run(image, packed.weights, packed.params, packed.program, layers="triton")
    assert y.shape == (batch, 10)
    return launches


@pytest.mark.parametrize("arch, dtype", [
    ("sm_80", torch.float16), ("sm_80", torch.float32), ("sm_86", torch.float16), ("sm_90", torch.float16), ("sm_90", torch.bfloat16),
    ("sm_100", torch.float16), ("sm_120", torch.float16), ("gfx942", torch.float16)], ids=str)
def test_machine_code(arch, dtype):
    inspected = [dry.inspect_kernel(launch) for launch in compile_network(arch, dtype)]
    assert {one.name for one in inspected} == {"direct_kernel", "pointwise_kernel", "grouped_kernel", "gate_kernel", "pool_kernel"}
    assert all(one.shared <= one.shared_limit for one in inspected)
    faults = [f"{one.name} {one.constants}: {fault}" for one in inspected for fault in one.faults()]
    if not BARS:
        pytest.xfail(f"the bars are set for Triton {', '.join(dry.CHECKED_TRITON)}, here is {triton.__version__}: " + "; ".join(faults))
    assert not faults, "\n".join(faults)


def test_padding_stays_below_a_quarter_for_every_group_width():
    from regnet_kernels.backends.triton import configs
    from regnet_kernels.backends.triton.tiles import MAX_WASTE, cut_columns

    for width in (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 104, 112, 120, 128, 168, 232, 264):
        for arch in configs.LIMITS:
            for dtype in (torch.float16, torch.float32):
                config = configs._grouped(Machine(arch, 100), dtype, 25088, 0, width, 4 * width)
                span = configs.group_span(width, 4 * width)
                cut = cut_columns(span, config.columns)
                assert cut.waste(span) <= MAX_WASTE
                assert 1 - 9 * span / (configs.walk(span, config.depth)[1] * config.depth) <= MAX_WASTE / 2


def test_a_dry_run_leaves_no_trace():
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    with pytest.raises(KeyError), dry.dry_run(Machine("sm_90", 132)):
        raise KeyError
    assert JITFunction.run is before

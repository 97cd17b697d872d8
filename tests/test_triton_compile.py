"""Our own launches, compiled for cards that are not here: a small sample (all shapes: python -m benchmarks.gpu_report)."""

import pytest
import torch
from regnet_kernels import ConvStep, HeadStep, pack_plain, testing
from regnet_kernels.backends import gpu
from regnet_kernels.backends.triton.machine import Machine, interpreting

triton = pytest.importorskip("triton", reason="Triton is not installed")
dry = pytest.importorskip("regnet_kernels.testing.triton_dry_run")
pytestmark = pytest.mark.skipif(interpreting(), reason="a process that interprets cannot compile")


def compile_network(arch, dtype, batch=64):
    """The launches of a stem, two blocks and a head: every kernel of a network."""
    def block(*shape):
        return testing.make_block(testing.BlockShape(1, *shape, 8, 8), torch.float32)[1]

    stem = ConvStep(torch.randn(32, 3, 3, 3), torch.randn(32), 2, 1, 1, "relu")
    head = HeadStep(torch.randn(10, 104), torch.randn(10))
    steps = [stem, block(32, 104, 104, 8, 8, 2, True), block(104, 120, 104, 120, 26, 1, False), head]
    packed = pack_plain(steps, dtype).to("meta")
    image = torch.empty(batch, 3, 64, 64, dtype=dtype, device="meta")
    with dry.dry_run(Machine(arch, 100)) as launches:
        y = gpu.run(image, packed.weights, packed.params, packed.program, layers="triton")
    assert y.shape == (batch, 10)
    return launches


@pytest.mark.parametrize("arch, dtype", [
    ("sm_80", torch.float16), ("sm_86", torch.float16), ("sm_90", torch.float16), ("sm_100", torch.float16), ("sm_120", torch.float16),
    ("gfx942", torch.float16), ("sm_90", torch.bfloat16), ("sm_80", torch.float32)], ids=str)
def test_machine_code(arch, dtype):
    check(compile_network(arch, dtype), {"direct_kernel", "pointwise_kernel", "grouped_kernel", "gate_kernel", "pool_kernel"})


def test_forms_that_spilled_on_consumer_blackwell_before_it_had_a_row_of_its_own():
    """Its compiler is another than the other cards'; layers of regnety_12gf, regnetx_12gf and regnetx_4.0gf."""
    from regnet_kernels.backends.triton.grouped import grouped
    from regnet_kernels.backends.triton.pointwise import pointwise

    def new(*shape, dtype=torch.float16):
        return torch.empty(shape, dtype=dtype, device="meta")

    def image(n, c, side):
        return new(n, side, side, c).permute(0, 3, 1, 2)

    with dry.dry_run(Machine("sm_120", 170)) as launches:
        grouped(image(32, 896, 28), new(896, 3, 3, 112), new(896, dtype=torch.float32), stride=2, activation=1, pool=True)
        pointwise(image(32, 448, 28), new(448, 448), new(448, dtype=torch.float32), activation=1, shortcut=image(32, 224, 56),
                  w_shortcut=new(448, 224), shortcut_stride=2)
        pointwise(image(1, 80, 56), new(80, 80), new(80, dtype=torch.float32), activation=1, residual=image(1, 80, 56))
    check(launches, {"grouped_kernel", "pointwise_kernel"})


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_the_fused_1x1_and_grouped_3x3(arch):
    """As the estimate chooses it on the cards where it gains, and as it would run on those where it does not."""
    from regnet_kernels.backends.triton import configs, fusion
    from regnet_kernels.backends.triton.expand_grouped import expand_grouped
    from regnet_kernels.backends.triton.shapes import ExpandShape

    def new(*shape, dtype=torch.float16):
        return torch.empty(shape, dtype=dtype, device="meta")

    card = Machine(arch, 84)
    with dry.dry_run(card) as launches:
        for shape in (ExpandShape(256, 56, 56, 32, 48, 16, 2, 1), ExpandShape(32, 28, 28, 24, 56, 8, 2, 0)):
            k, c, g = shape.k, shape.channels, shape.group_width
            x = new(shape.images, shape.height_in, shape.width_in, k).permute(0, 3, 1, 2)
            bias = new(c, dtype=torch.float32)
            config = configs.expand_config(card, torch.float16, shape)
            expand_grouped(x, new(c, k), bias, new(c, 3, 3, g), bias, config, stride=2, activation=1, pool=bool(shape.pool))
            one = fusion.estimate(card, torch.float16, shape)
            assert one.fused.bytes < one.apart.bytes and one.fused.flops > one.apart.flops
            assert one.gains == (configs.heuristic(card, torch.float16, shape).launches == 1)
    check(launches, {"expand_grouped_kernel"})


def test_layers_stay_apart_where_the_estimate_gains_nothing():
    from regnet_kernels.backends.triton import configs
    from regnet_kernels.backends.triton.shapes import ExpandShape

    def fused(arch, multiprocessors, *shape):
        return configs.heuristic(Machine(arch, multiprocessors), torch.float16, ExpandShape(*shape)).launches == 1

    first, inner = (256, 56, 56, 32, 48, 16, 2, 1), (256, 28, 28, 104, 104, 8, 1, 1)
    assert fused("sm_86", 84, *first) and not fused("sm_100", 148, *first)
    assert not any(fused(arch, 100, *inner) for arch in ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))  # 3 x the 1x1 is too much


def check(launches, names):
    assert {launch.name for launch in launches} == names
    bars = dry.bars_here()
    faults = [f"{one.arch} {one.name} {one.constants}: {fault}" for one in dry.inspect_kernels(dry.distinct(launches))
              for fault in one.faults(*[bars] if bars else [])]
    if bars is None:
        pytest.xfail(f"there are bars for Triton {', '.join(dry.BARS)}, here is {triton.__version__}: look at the report, then add it to "
                     "BARS in regnet_kernels/testing/triton_dry_run.py. " + "; ".join(faults))
    assert not faults, "\n".join(faults)


def test_the_parts_of_a_disassembly_are_told_apart():
    """Many kernels are disassembled at once: each must have the instructions that it has alone. And results are kept."""
    launches = dry.distinct(compile_network("sm_90", torch.float16))[:3]
    assert [dry.inspect_kernel(launch) for launch in launches] == dry.inspect_kernels(launches)


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

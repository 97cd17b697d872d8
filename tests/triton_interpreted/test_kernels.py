"""Triton's kernels against float64, in the interpreter: every address in bounds, every element written exactly once (see conftest)."""

import pytest
import torch
from regnet_kernels import (BackendError, ConvStep, HeadStep, bottleneck, conv_bn_act, explain, network, pack_plain, se_gate,
                            squeeze_excite, testing)
from regnet_kernels.testing import ConvShape, SeShape, assert_close_to_oracle, make_block, make_conv, make_squeeze_excite, widen

HALVES = (torch.bfloat16, torch.float16)
in_each_dtype = pytest.mark.parametrize("dtype", testing.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# Kernel, strides, tails: (shape, activation, residual, gate).
CONVS = [
    (ConvShape(3, 24, 56, 9, 7, 1), "relu", True, True),
    (ConvShape(2, 48, 104, 9, 7, 1, 2), "silu", False, False),
    (ConvShape(1, 200, 40, 5, 4, 1), "none", True, False),
    (ConvShape(2, 3, 32, 19, 21, 3, 2), "relu", False, False),
    (ConvShape(1, 5, 10, 9, 9, 5, 1), "silu", False, False),
    (ConvShape(2, 48, 48, 9, 7, 3, 1, 6), "relu", False, False),
    (ConvShape(2, 24, 24, 9, 7, 3, 2, 3), "relu", False, False),  # an odd number of groups of 8
    (ConvShape(2, 48, 48, 8, 7, 3, 2, 2), "silu", False, False),
    (ConvShape(1, 16, 16, 1, 1, 3, 1, 1), "relu", False, False),
    (ConvShape(0, 16, 16, 5, 5, 3, 1, 2), "relu", False, False),
]
GROUP_WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 104, 112, 120, 128, 168, 232, 264)


def compare(op, args, kwargs, what):
    with testing.poisoned_memory():
        actual = op(*args, **kwargs, backend="triton")
    exact = op(*widen(args), **widen(kwargs), backend="eager")
    eager = op(*args, **kwargs, backend="eager")
    if kwargs.get("pool"):  # the reference sums float16 before it rounds; the kernels may sum what they stored, as on a GPU
        eager = eager[0], eager[0].sum((2, 3), dtype=torch.float32)
    for one in zip(*[value if isinstance(value, tuple) else (value,) for value in (actual, exact, eager)]):
        assert_close_to_oracle(*one, what=what)


@in_each_dtype
def test_convolutions(dtype, launches):
    for index, (shape, activation, residual, gate) in enumerate(CONVS):
        args, kwargs = make_conv(shape, dtype, seed=index, activation=activation, residual=residual, gate=gate)
        compare(conv_bn_act, args, {**kwargs, "pool": index % 2 == 1}, f"{shape} {activation}")
    assert set(launches) == {"pointwise_kernel", "direct_kernel", "grouped_kernel", "pool_kernel"}


@pytest.mark.parametrize("width", GROUP_WIDTHS)
def test_every_group_width(width):
    groups = 2 if width < 80 else 1
    shape = ConvShape(1, width * groups, width * groups, 3, 4, 3, 1, groups)
    args, kwargs = make_conv(shape, HALVES[width // 8 % 2])
    compare(conv_bn_act, args, {**kwargs, "pool": True}, str(shape))


@in_each_dtype
def test_squeeze_excite_in_one_launch_and_in_two(dtype, launches, monkeypatch):
    from regnet_kernels.backends.triton import configs

    for limit in (configs.ONE_LAUNCH_BYTES, 0):
        monkeypatch.setattr(configs, "ONE_LAUNCH_BYTES", limit)
        for shape in (SeShape(2, 48, 8, 7, 9), SeShape(1, 20, 10, 1, 1), SeShape(17, 72, 42, 2, 3)):
            x, *weights = make_squeeze_excite(shape, dtype)
            compare(squeeze_excite, (x, *weights), {}, str(shape))
        compare(se_gate, (x.float().sum((2, 3)), *weights, 6), {}, "se_gate")
    assert {"gate_kernel", "hidden_kernel", "excite_kernel", "scale_kernel"} <= set(launches)


BLOCKS = [testing.BlockShape(2, 32, 48, 48, 8, 8, 2, True, 9, 7), testing.BlockShape(1, 48, 48, 48, 24, 0, 1, False, 7, 9),
          testing.BlockShape(2, 40, 120, 24, 120, 42, 2, True, 6, 5)]


@in_each_dtype
def test_blocks(dtype):
    for index, shape in enumerate(BLOCKS):
        x, step = make_block(shape, dtype, activation=("relu", "silu")[index % 2])
        check_network(bottleneck, x, pack_plain([step], dtype), str(shape))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_network_is_a_list_of_launches(dtype, launches):
    stem = ConvStep(torch.randn(32, 3, 3, 3) / 4, torch.randn(32), 2, 1, 1, "relu")
    blocks = [make_block(shape, torch.float32)[1] for shape in BLOCKS[:2]]
    for head in (HeadStep(torch.randn(10, 48) / 7, torch.randn(10)), HeadStep(None, None, 48)):
        check_network(network, torch.randn(2, 3, 13, 15).to(dtype), pack_plain([stem, *blocks, head], dtype), "network")
        y_block = ["pointwise_kernel", "grouped_kernel", "gate_kernel", "pointwise_kernel"]
        x_block = [name for name in y_block if name != "gate_kernel"]
        assert launches[:-1 if head.weight is not None else None] == ["direct_kernel", *y_block, *x_block, "pool_kernel"]
        launches.clear()


def check_network(op, x, packed, what):
    with testing.poisoned_memory():
        actual = op(x, packed, backend="triton")
    exact = op(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    assert_close_to_oracle(actual, exact, op(x, packed, backend="eager"), what=what)


def test_images_beyond_one_launch_grid_row_and_uint8_images():
    from regnet_kernels.backends.triton.direct import direct

    images = torch.randint(0, 256, (2, 3, 11, 9), dtype=torch.uint8).permute(0, 1, 3, 2)
    mean, scale = torch.tensor([120.0, 115.0, 105.0]), torch.tensor([0.017, 0.018, 0.019])
    weight = torch.randn(16, 3, 3, 3) / 5
    rows = torch.nn.functional.pad(weight.permute(0, 2, 3, 1).flatten(1), (0, 5)).contiguous()
    y = direct(images, rows, torch.zeros(16), 3, stride=2, padding=1, normalise=(mean, scale))
    normal = (images.double() - mean[:, None, None]) * scale[:, None, None]
    exact = torch.nn.functional.conv2d(normal, weight.double(), None, 2, 1)
    assert testing.relative_error(y, exact) < 1e-6


@in_each_dtype
def test_a_network_of_uint8_images(dtype, launches):
    """Against float64, borders too: the padding is zeros of the normalised image."""
    x = torch.randint(0, 256, (2, 3, 15, 11), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    mean, scale = torch.tensor([120.0, 115.0, 105.0]), torch.tensor([0.017, 0.018, 0.019])
    steps = [ConvStep(torch.randn(16, 3, 3, 3) / 4, torch.randn(16), 2, 1, 1, "relu"), HeadStep(torch.randn(10, 16) / 4, torch.randn(10))]
    packed = pack_plain(steps, dtype)
    wide = pack_plain(packed.unpack(), torch.float64)
    normal = (x.double() - mean[:, None, None]) * scale[:, None, None]
    for count in (1, 2):
        actual, eager = (network(x, packed.slice(0, count), mean=mean, scale=scale, backend=name) for name in ("triton", "eager"))
        exact = network(normal, wide.slice(0, count), backend="eager")
        assert_close_to_oracle(actual, exact, eager, what="uint8")
    assert launches[0] == "direct_kernel"
    ops, blobs = torch.ops.regnet_kernels, (packed.weights, packed.params, packed.program)
    torch.library.opcheck(ops._network_plain_triton, (x, *blobs, mean, scale))
    for wrong, error in ((dict(mean=mean), "need both"), (dict(mean=mean[:2], scale=scale), r"mean has shape \(2,\)")):
        with pytest.raises(ValueError, match=error):
            network(x, packed, backend="triton", **wrong)
    with pytest.raises(TypeError, match="floating ones come normalised"):
        ops.network_plain(normal.to(dtype), *blobs, mean, scale)
    with pytest.raises(ValueError, match="the first step is a block or a head"):
        network(x[:, :1].expand(2, 16, 15, 11), packed.slice(1, 2), mean=torch.zeros(16), scale=torch.ones(16), backend="triton")


def test_the_interpreter_is_only_taken_when_asked_for():
    args, kwargs = make_conv(ConvShape(1, 8, 8, 3, 3, 1), torch.float32)
    explanation = explain("conv_bn_act", *args, **kwargs)
    assert explanation.chosen != "triton" and "interpreter is for tests" in explanation.reasons["triton"]
    with pytest.raises(BackendError, match="both must be multiples of 8"):
        conv_bn_act(torch.randn(1, 12, 3, 3), torch.randn(8, 12, 1, 1), backend="triton")
    with pytest.raises(BackendError, match="a gate is fused into the 1x1 only"):
        conv_bn_act(torch.randn(1, 16, 3, 3), torch.randn(16, 8, 3, 3), gate=torch.ones(1, 16), groups=2, backend="triton")


def test_ops_are_torchs_own():
    """opcheck of the forms for a forced backend: fake kernels, autograd, functionalisation."""
    ops = torch.ops.regnet_kernels
    (x, weight, bias), _ = make_conv(ConvShape(1, 8, 16, 3, 3, 1), torch.float32)
    x.requires_grad_()
    torch.library.opcheck(ops._conv_bn_act_triton, (x, weight, bias, None, None, 1, 0, 1, 1, True))
    x, step = make_block(testing.BlockShape(1, 8, 8, 8, 8, 8, 1, False, 3, 3), torch.float16)
    packed = pack_plain([step], torch.float16)
    torch.library.opcheck(ops._network_plain_triton, (x, packed.weights, packed.params, packed.program))


def test_the_watch_finds_what_it_is_there_for(launches):
    import triton
    import triton.language as tl

    @triton.jit
    def wrong(x, y, SHIFT: tl.constexpr, COUNT: tl.constexpr):
        at = tl.arange(0, 8)
        tl.store(y + at // COUNT, tl.load(x + at + SHIFT, mask=at < 8, other=0.0), mask=at < 8)

    x, y = torch.zeros(8), torch.zeros(8)
    wrong[(1,)](x, y, SHIFT=0, COUNT=1)
    with pytest.raises(Exception, match="reads 1 of 8 addresses outside"):
        wrong[(1,)](x, y, SHIFT=1, COUNT=1)
    with pytest.raises(AssertionError, match="writes 4 of 8 elements never and 4 more than once"):
        wrong[(1,)](x, y, SHIFT=0, COUNT=2)


def test_optimize_for_the_backend():
    import regnet
    from regnet.models import AnyNet, AnyNetConfig

    model = AnyNet(AnyNetConfig(depths=(1, 2), widths=(16, 24), group_widths=(8, 24), se_ratio=0.25, num_classes=7)).eval()
    fused = regnet.optimize(model, dtype=torch.float16, backend="triton")
    assert fused.weights.dtype == torch.float16 and fused.packed.unpack()[0].weight.dtype == torch.float16
    report = regnet.check_parity(model, fused, torch.randn(1, 3, 32, 32))
    assert report.passed, str(report)
    taking = regnet.optimize(model, dtype=torch.float16, backend="triton", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    report = regnet.check_parity(model, taking, torch.randint(0, 256, (1, 3, 31, 32), dtype=torch.uint8))
    assert report.passed, str(report)
    state = regnet.optimize(model).state_dict()  # packed for the CPU
    fused.load_state_dict(state)

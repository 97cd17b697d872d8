"""The 1x1 and the grouped 3x3 in one kernel, against float64: addresses and writes watched (see conftest)."""

import pytest
import torch
import torch.nn.functional as F
from regnet_kernels import pack_plain, testing, tuning
from regnet_kernels.backends import gpu
from regnet_kernels.backends.triton import configs, fusion
from regnet_kernels.backends.triton.configs import ExpandConfig
from regnet_kernels.backends.triton.machine import INTERPRETER
from regnet_kernels.backends.triton.shapes import ExpandShape
from regnet_kernels.testing import assert_close_to_oracle, make_block

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
# images, K, C, group width, H, W, stride, activation, dtype, and a configuration that meets the tails (None: the heuristic's)
CASES = [
    (3, 24, 48, 8, 4, 9, 1, 1, F16, ExpandConfig(32, 8, 2, 16, 2, 16, 4, 2)),  # strips of lines and columns, images in a tile, steps of K
    (2, 40, 72, 24, 9, 7, 2, 2, BF16, ExpandConfig(32, 8, 8, 32, 2, 16, 4, 2)),  # padded groups and parts
    (2, 32, 40, 8, 6, 5, 2, 1, F16, ExpandConfig(16, 4, 1, 32, 1, 32, 4, 1)),  # four groups on a diagonal, one missing
    (1, 16, 24, 8, 1, 1, 1, 1, F32, None),
    (5, 16, 40, 40, 1, 1, 2, 1, BF16, None),
    (2, 32, 32, 16, 5, 4, 1, 2, F32, None),
    (0, 16, 16, 8, 3, 1, 2, 1, F16, None),
]
WIDTHS = (8, 24, 32, 48, 64, 80, 120, 128)


def compare(n, k, c, g, height, width, stride, activation, dtype, config=None, pool=True):
    from regnet_kernels.backends.triton import kernels

    x = torch.randn(n, k, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    a, b = (torch.randn(c, k) / k**0.5).to(dtype), (torch.randn(c, 3, 3, g) / (9 * g)**0.5).to(dtype)
    a_bias, b_bias = torch.randn(c), torch.randn(c)
    act = (None, F.relu, F.silu)[activation]

    def two_layers(kind):
        t = act(F.conv2d(x.to(kind), a.to(kind)[:, :, None, None], a_bias.to(kind)))
        return act(F.conv2d(t, b.to(kind).permute(0, 3, 1, 2), b_bias.to(kind), stride, 1, 1, c // g))

    shape = ExpandShape(n, (height - 1) // stride + 1, (width - 1) // stride + 1, k, c, g, stride, int(pool))
    assert fusion.why_not(shape, dtype) == ""
    config = config or configs.expand_config(INTERPRETER, dtype, shape)
    with testing.poisoned_memory():
        y, sums = kernels().expand_grouped(x, a, a_bias, b, b_bias, config, stride=stride, activation=activation, pool=pool)
    assert y.shape == (n, c, shape.height, shape.width) and y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    exact, eager = two_layers(torch.float64), two_layers(dtype)
    assert_close_to_oracle(y, exact, eager, what=str(shape))
    if pool:
        assert_close_to_oracle(sums.sum(1), exact.sum((2, 3)), eager.sum((2, 3), dtype=torch.float32), what=f"sums of {shape}")
    else:
        assert sums is None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case, launches):
    compare(*case)
    assert launches == (["expand_grouped_kernel"] if case[0] else [])


@pytest.mark.parametrize("width", WIDTHS)
def test_group_widths(width):
    compare(1, 24, 2 * width, width, 3, 4, 1 + width // 8 % 2, 1, (F16, BF16)[width // 16 % 2], pool=False)


def test_what_it_does_not_take():
    for shape, dtype, reason in ((ExpandShape(1, 7, 7, 64, 168, 168), F16, "up to 128 channels"),
                                 (ExpandShape(1, 7, 7, 64, 96, 48), F32, "up to 32"), (ExpandShape(1, 7, 7, 20, 32, 16), F16, "multiples of 8"),
                                 (ExpandShape(1, 7, 7, 16, 32, 16), torch.float64, "float64"),
                                 (ExpandShape(1, 1 << 14, 1 << 13, 16, 16, 16), F16, "32-bit")):
        assert reason in fusion.why_not(shape, dtype)


def test_a_block_takes_what_was_tuned_and_computes_the_same(launches, monkeypatch, tmp_path):
    monkeypatch.setenv("REGNET_KERNELS_CACHE_DIR", str(tmp_path))
    tuning.forget()
    x, step = make_block(testing.BlockShape(2, 32, 48, 48, 8, 8, 2, True, 8, 6), F16)
    packed = pack_plain([step], F16)
    shape = ExpandShape(2, 4, 3, 32, 48, 8, 2, 1)
    apart = gpu.run(x, packed.weights, packed.params, packed.program)
    assert "expand_grouped_kernel" not in launches  # on 8 multiprocessors the estimate is against it

    def clock(call):
        with tuning.watch() as seen:
            call()
        return 2.0 - (next(one.config for one in seen if one.shape == shape).launches == 1)

    # what the search over `launches` comes to; the other fields are searched as every kernel's are
    monkeypatch.setattr(configs, "neighbours", lambda card, dtype, shape, config: [config._replace(launches=1)])
    found = tuning.tune(shape, F16, torch.device("cpu"), timer=clock)
    assert found.config.launches == 1 and found.failed == 0
    launches.clear()
    fused = gpu.run(x, packed.weights, packed.params, packed.program)
    assert launches == ["expand_grouped_kernel", "gate_kernel", "pointwise_kernel"]
    assert testing.relative_error(fused, apart.double()) < 2e-3
    launches.clear()
    gpu.run(x, packed.weights, packed.params, packed.program, layers="triton")  # layers are forced one by one
    assert "expand_grouped_kernel" not in launches
    tuning.forget()

"""Each op on each backend against float64, over odd shapes, layouts and dtypes, out of poisoned memory.

The file runs again under each instruction set (test_isa.py), each supported torch (make test-oldest) and the sanitizers.
"""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regnet_kernels import (ConvStep, HeadStep, bottleneck, conv_bn_act, network, pack_network, se_gate,
                            squeeze_excite, testing)
from regnet_kernels._extension import CPU
from regnet_kernels.testing import (BLOCK_SHAPES, CONV_SHAPES, SE_SHAPES, ConvShape, assert_close_to_oracle, make_block,
                                    make_conv, make_squeeze_excite, poisoned_memory, widen)

pytestmark = pytest.mark.kernels
BACKENDS = ["eager", "cpu"] if CPU.loaded else ["eager"]
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
in_each_dtype = pytest.mark.parametrize("dtype", testing.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

LAYOUTS = {
    "nchw": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: torch.stack([x, x * float("nan")], dim=-1).flatten(3)[..., ::2],
    "slice of channels": lambda x: torch.cat([x, x * float("nan")], dim=1).contiguous(memory_format=torch.channels_last)[:, :x.shape[1]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "offset": lambda x: torch.cat([x.new_full((1,), float("nan")), x.flatten()])[1:].view(x.shape),
}


def packed_dtype(dtype):
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def has_channels_last_strides(x):
    return x.stride() == torch.empty(x.shape, memory_format=torch.channels_last).stride()


def compare(op, backend, args, kwargs, what):
    with poisoned_memory():
        actual = op(*args, **kwargs, backend=backend)
    exact = op(*widen(args), **widen(kwargs), backend="eager")
    eager = op(*args, **kwargs, backend="eager")
    pairs = zip(actual, exact, eager) if isinstance(actual, tuple) else [(actual, exact, eager)]
    for one in pairs:
        assert_close_to_oracle(*one, what=what)
        assert one[0].dim() != 4 or has_channels_last_strides(one[0]), (what, one[0].stride())


def compare_packed(op, backend, x, packed, what):
    with poisoned_memory():
        actual = op(x, packed, backend=backend)
    exact = op(x.double(), pack_network(packed.unpack(), torch.float64), backend="eager")
    assert_close_to_oracle(actual, exact, op(x, packed, backend="eager"), factor=testing.factor_for(packed), what=what)
    assert actual.dim() != 4 or has_channels_last_strides(actual)


@on_each_backend
@in_each_dtype
def test_conv_catalogue_with_every_option_and_layout(backend, dtype):
    options = [(activation, residual, gate, pool) for activation in ("none", "relu", "silu")
               for residual in (False, True) for gate in (False, True) for pool in (False, True)]
    layouts = list(LAYOUTS.items())
    for index in range(len(options) * 3):
        shape = CONV_SHAPES[index % len(CONV_SHAPES)]
        activation, residual, gate, pool = options[index % len(options)]
        (x, *rest), kwargs = make_conv(shape, dtype, seed=index, activation=activation, residual=residual, gate=gate)
        name, layout = layouts[index % len(layouts)]
        if residual:
            kwargs["residual"] = layouts[(index + 1) % len(layouts)][1](kwargs["residual"])
        what = f"{shape} {activation} residual={residual} gate={gate} pool={pool} {name}"
        compare(conv_bn_act, backend, (layout(x), *rest), {**kwargs, "pool": pool}, what)


@st.composite
def conv_problems(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 7]))
    width = draw(st.integers(1, 40) if groups > 1 else st.integers(1, 70))
    out = groups * draw(st.integers(1, 24 if groups > 1 else 70))
    k = draw(st.sampled_from([1, 3, 5, 7]))
    shape = ConvShape(draw(st.integers(0, 3)), groups * width, out, draw(st.integers(1, 19)), draw(st.integers(1, 19)),
                      k, draw(st.sampled_from([1, 2, 3])), groups)
    options = {name: draw(st.booleans()) for name in ("residual", "gate")}
    return shape, options, draw(st.sampled_from(["none", "relu", "silu"])), draw(st.sampled_from(list(LAYOUTS))), draw(st.booleans())


@on_each_backend
@given(problem=conv_problems(), dtype=st.sampled_from(testing.DTYPES))
def test_conv_of_any_shape(backend, problem, dtype):
    shape, options, activation, layout, pool = problem
    (x, *rest), kwargs = make_conv(shape, dtype, activation=activation, **options)
    compare(conv_bn_act, backend, (LAYOUTS[layout](x), *rest), {**kwargs, "pool": pool}, str(problem))


@on_each_backend
def test_conv_padding_other_than_half_the_kernel(backend):
    for k, padding, stride in ((3, 0, 1), (1, 1, 1), (3, 2, 2), (5, 0, 2)):
        args, kwargs = make_conv(ConvShape(2, 12, 20, 9, 7, k, stride, 2), torch.float32)
        compare(conv_bn_act, backend, args, {**kwargs, "padding": padding}, f"k={k} padding={padding}")
    args, kwargs = make_conv(ConvShape(1, 12, 20, 9, 7), torch.float32)
    compare(conv_bn_act, backend, (*args[:2], None), kwargs, "without a bias")


@on_each_backend
@in_each_dtype
def test_squeeze_excite(backend, dtype):
    for shape in SE_SHAPES:
        x, *weights = make_squeeze_excite(shape, dtype)
        for name, layout in LAYOUTS.items():
            compare(squeeze_excite, backend, (layout(x), *weights), {}, f"{shape} {name}")
    w1, b1, w2, b2 = weights
    as_convs = squeeze_excite(x, w1[:, :, None, None], b1, w2[:, :, None, None], b2, backend=backend)
    assert torch.equal(as_convs, squeeze_excite(x, *weights, backend=backend))


@on_each_backend
def test_pool_gate_and_conv_make_a_squeeze_excite(backend):
    (x, weight, bias), kwargs = make_conv(ConvShape(3, 16, 48, 7, 9), torch.float32)
    _, *se = make_squeeze_excite(testing.SeShape(3, 48, 10, 7, 9), torch.float32)
    y, sums = conv_bn_act(x, weight, bias, **kwargs, pool=True, backend=backend)
    gate = se_gate(sums, *se, 7 * 9, backend=backend)
    last = torch.randn(20, 48, 1, 1) / 7
    fused = conv_bn_act(y, last, gate=gate, backend=backend)
    whole = conv_bn_act(squeeze_excite(y, *se, backend=backend), last, backend=backend)
    torch.testing.assert_close(fused, whole, rtol=1e-5, atol=1e-5)
    compare(se_gate, backend, (sums, *se, 63), {}, "se_gate")


@on_each_backend
@in_each_dtype
def test_bottleneck_catalogue(backend, dtype):
    for index, shape in enumerate(BLOCK_SHAPES):
        x, step = make_block(shape, dtype, activation=("relu", "silu")[index % 2])
        for exact in (False, True):
            packed = pack_network([step], packed_dtype(dtype), exact=exact)
            for name, layout in LAYOUTS.items():
                compare_packed(bottleneck, backend, layout(x), packed, f"{shape} {name} exact={exact}")


@on_each_backend
def test_stride_1_blocks_of_maps_that_fill_tiles_well_and_badly(backend):
    """Sizes at which Winograd's 4x4 tiles are used, cut off at the edges or given up, of every width that has them."""
    for width, groups, squeeze in ((8, 6, 8), (16, 3, 0), (24, 2, 10), (40, 1, 0), (48, 2, 12), (56, 1, 0), (64, 1, 0)):
        for n, h, w in ((1, 14, 14), (2, 28, 9), (3, 7, 7), (1, 4, 5)):
            shape = testing.BlockShape(n, 24, width * groups, 24, width, squeeze, 1, False, h, w)
            x, step = make_block(shape, torch.float32)
            compare_packed(bottleneck, backend, LAYOUTS["channels_last"](x), pack_network([step]), str(shape))


@on_each_backend
def test_stride_2_blocks_of_even_and_odd_maps(backend):
    """Sizes at which Winograd's tiles of 2x2 outputs are used, whole and cut off, one image and several at a time, and given up."""
    for width, groups, squeeze in ((24, 2, 10), (40, 1, 0), (48, 2, 12), (56, 3, 8), (120, 2, 8)):
        for n, h, w in ((1, 28, 28), (6, 29, 28), (2, 31, 57), (5, 14, 13), (1, 4, 5)):
            shape = testing.BlockShape(n, 24, width * groups, 32, width, squeeze, 2, True, h, w)
            x, step = make_block(shape, torch.float32)
            compare_packed(bottleneck, backend, LAYOUTS["channels_last"](x), pack_network([step]), str(shape))


@on_each_backend
@in_each_dtype
def test_direct_groups_on_rows_of_whole_runs_and_others(backend, dtype):
    """Interleaved groups of 8 and 16, all together, with others left over, and alone, on rows of 7 and 8 pixels, of several, and of neither."""
    for width, groups in ((8, 4), (8, 7), (16, 2), (16, 3), (24, 2)):
        for n, h, w in ((1, 14, 14), (2, 5, 28), (3, 13, 13), (1, 16, 15), (2, 3, 64), (1, 9, 10)):
            shape = testing.BlockShape(n, 24, width * groups, 32, width, 8 * (groups == 7), 2, True, h, w)
            x, step = make_block(shape, torch.float32)
            compare_packed(bottleneck, backend, LAYOUTS["channels_last"](x.to(dtype)), pack_network([step], packed_dtype(dtype)), str(shape))


@on_each_backend
@in_each_dtype
def test_stem_on_rows_of_many_lengths(backend, dtype):
    """Shorter than a tile, whole tiles of it, and others; the image in every order and type."""
    new = testing.make._Normal(0, "cpu")
    for activation in ("relu", "silu"):
        packed = pack_network([ConvStep(new(32, 3, 3, 3, fan_in=27), new(32), 2, 1, 1, activation)], packed_dtype(dtype))
        for n, h, w in ((1, 4, 23), (2, 7, 24), (1, 3, 26), (1, 2, 31), (1, 56, 28), (2, 5, 67), (1, 1, 130)):
            x = torch.randn(n, 3, h, w).to(dtype)
            for name in ("nchw", "channels_last", "every other column"):
                compare_packed(network, backend, LAYOUTS[name](x), packed, f"{n}x{h}x{w} {name} {activation}")


def small_network(dtype=torch.float32, classes=10):
    new = testing.make._Normal(0, "cpu")
    stem = ConvStep(new(32, 3, 3, 3, fan_in=27), new(32), 2, 1, 1, "relu")
    shapes = [testing.BlockShape(1, 32, 48, 48, 8, 8, 2, True, 9, 9), testing.BlockShape(1, 48, 48, 48, 24, 10, 1, False, 9, 9),
              testing.BlockShape(1, 48, 112, 104, 56, 0, 2, True, 9, 9)]
    blocks = [make_block(shape, torch.float32, seed=index)[1] for index, shape in enumerate(shapes)]
    head = HeadStep(new(classes, 104, fan_in=104), new(classes)) if classes else HeadStep(None, None, 104)
    return pack_network([stem, *blocks, head], dtype)


@on_each_backend
@in_each_dtype
def test_network_of_dynamic_batch_and_resolution(backend, dtype):
    packed = small_network(packed_dtype(dtype))
    for n, h, w in ((1, 32, 32), (3, 7, 9), (0, 16, 16), (2, 1, 1), (1, 45, 21), (1, 32, 32)):
        x = torch.randn(n, 3, h, w).to(dtype)
        for name in ("nchw", "channels_last", "every other column"):
            compare_packed(network, backend, LAYOUTS[name](x), packed, f"{n}x{h}x{w} {name}")


@on_each_backend
@in_each_dtype
def test_network_in_slices_is_the_network(backend, dtype):
    packed = small_network(packed_dtype(dtype))
    x = torch.randn(2, 3, 33, 31).to(dtype)
    y = network(x, packed.slice(0, 1), backend=backend)
    y = bottleneck(y, packed.slice(1, 4), backend=backend)
    assert y.shape == (2, 104, 5, 4) and has_channels_last_strides(y)
    parts, whole = network(y, packed.slice(4, 5), backend=backend), network(x, packed, backend=backend)
    # Slices round to the dtype between them; one call may keep more.
    assert testing.relative_error(parts, whole) <= 4 * testing.FLOOR[dtype]
    for name, layout in LAYOUTS.items():  # a head that comes first has to load its input
        compare_packed(network, backend, layout(y), packed.slice(4, 5), f"head alone, {name}")
    flat = network(x, small_network(packed_dtype(dtype), classes=0), backend=backend)
    assert flat.shape == (2, 104) and flat.is_contiguous()


@on_each_backend
def test_same_result_from_several_threads_at_once(backend):
    packed, x = small_network(), torch.randn(2, 3, 33, 31)
    expected = network(x, packed, backend=backend)
    results = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda into: into.extend(network(x, packed, backend=backend) for _ in range(5)), args=(into,))
               for into in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in sum(results, []):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert [len(result) for result in results] == [5] * 4


def test_inputs_are_left_as_they_were():
    packed, x = small_network(), torch.randn(2, 3, 9, 9)
    (cx, weight, bias), kwargs = make_conv(ConvShape(2, 16, 16, 7, 9), torch.float32, residual=True, gate=True)
    se = make_squeeze_excite(SE_SHAPES[0], torch.float32)
    inputs = [x, packed.weights, packed.params, cx, weight, bias, kwargs["residual"], kwargs["gate"], *se]
    copies = [tensor.clone() for tensor in inputs]
    network(x, packed), conv_bn_act(cx, weight, bias, **kwargs), squeeze_excite(*se)
    assert all(torch.equal(now, before) for now, before in zip(inputs, copies))



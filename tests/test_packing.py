"""The packed format: read back by hand from its description, round trips, slices, gradients, clear refusals."""

import copy
import dataclasses
import io
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regnet_kernels import BlockStep, ConvStep, HeadStep, PackedNetwork, network, pack_network, unpack_network
from regnet_kernels.testing import BLOCK_SHAPES, BlockShape, make_block
from test_ops import small_network

pytestmark = pytest.mark.kernels


def block(**changes):
    values = dict(n=1, c_in=20, c_mid=48, c_out=44, group_width=24, squeeze=10, stride=2, proj=True, h=5, w=5)
    return make_block(BlockShape(**{**values, **changes}), torch.float32)[1]


def element(flat, rows, k, o, i, pair):
    """M[o, i] as the description of a panel says, counted by hand: full panels are 16 wide, the last 8 or 16."""
    full, rest = divmod(rows, 16)
    k_stored = k + k % 2 if pair else k
    panel, lane = divmod(o, 16)
    width = 16 if panel < full else (8 if rest <= 8 else 16)
    start = panel * 16 * k_stored
    return flat[start + ((i // 2 * width + lane) * 2 + i % 2 if pair else i * width + lane)]


@given(groups=st.integers(1, 3), rows=st.integers(1, 50), k=st.integers(1, 21), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_panels_by_the_book_and_back(groups, rows, k, dtype):
    from regnet_kernels.panels import from_panels, panel_elements, to_panels

    m = torch.arange(groups * rows * k).remainder(199).add(1).reshape(groups, rows, k).to(dtype)
    flat = to_panels(m)
    assert flat.shape == (panel_elements(groups, rows, k, dtype),)
    assert torch.equal(from_panels(flat, groups, rows, k), m)
    size = flat.numel() // groups
    for g, o, i in ((0, 0, 0), (groups - 1, rows - 1, k - 1), (0, rows // 2, k // 2), (groups - 1, rows - 1, 0)):
        assert element(flat[g * size:(g + 1) * size], rows, k, o, i, dtype == torch.bfloat16) == m[g, o, i]
    assert int((flat != 0).sum()) == m.numel()  # all else is zeros


@pytest.mark.parametrize("width", [8, 16, 24, 40, 56])
@pytest.mark.parametrize("dtype, pair", [(torch.float32, 2), (torch.bfloat16, 4)])
def test_pairs_by_the_book_and_back(width, dtype, pair):
    from regnet_kernels.panels import from_pairs, packs_pairs, to_pairs

    m = torch.randn(2, width, 9 * width).to(dtype)
    flat = to_pairs(m)
    assert torch.equal(from_pairs(flat, 2, width, 9 * width), m)
    panels = flat.reshape(2, width // 8, 9 * width // pair, 8, pair)  # group, panel, pair of words, lane, k of the pair
    for g, o, k in ((0, 0, 1), (1, width - 1, 9 * width - 1), (1, width // 2, 7)):
        assert panels[g, o // 8, k // pair, o % 8, k % pair] == m[g, o, k]
    assert packs_pairs(width) and not packs_pairs(width + 4)


def test_the_program_and_blobs_of_a_block_by_the_book():
    step = block()
    for dtype in (torch.float32, torch.bfloat16):
        packed = pack_network([ConvStep(torch.randn(20, 3, 3, 3), None, 2, 1, 1, "silu"), step], dtype)
        conv_params = 656 + 32  # 20 rows are 24 lanes, 24 * 27 = 648, filled to 656; then 20 biases, filled to 32
        assert packed.program == [7, 2,
                                  0, 3, 0, 20, 3, 2, 1, 3, 0, 0, 2, 0, 0, 0, 0, 0,
                                  1, 20, 48, 44, 3, 2, 1, 24, 10, 1, 1, 0, conv_params, int(dtype == torch.float32), int(dtype == torch.float32), 0]
        a, b = 48 * 20, 2 * 24 * 216
        assert packed.weights.numel() == a + b + 44 // 16 * 16 * 68 + 16 * 68
        pair = dtype == torch.bfloat16
        # the two groups of 24 are together: channel k of group i is at 2 k + i; before the 3x3 pairs of channels in bfloat16
        inner = torch.arange(48).reshape(2, 24).t().reshape(-1)
        before = torch.arange(48).reshape(2, 12, 2).transpose(0, 1).reshape(-1) if pair else inner
        assert element(packed.weights, 48, 20, 17, 13, pair) == step.a[0][before[17], 13, 0, 0].to(dtype)
        k = (2 * 3 + 1) * 24 + 5
        assert element(packed.weights[a:a + b], 48, 216, 2 * 23 + 1, k, pair) == step.b[0][24 + 23, 5, 2, 1].to(dtype)
        section_c = packed.weights[a + b:]
        assert element(section_c, 44, 68, 40, 46, pair) == step.c[0][40, 23, 0, 0].to(dtype)
        assert element(section_c, 44, 68, 40, 48 + 3, pair) == step.proj[0][40, 3, 0, 0].to(dtype)
        params = packed.params[conv_params:]
        assert packed.params.dtype == torch.float32
        assert torch.equal(params[:48], step.a[1][before]) and torch.equal(params[48:96], step.b[1][inner])
        assert torch.equal(params[96:96 + 480].reshape(10, 48), step.se[0][:, inner]) and torch.equal(params[576:586], step.se[1])
        assert torch.equal(params[592:592 + 480].reshape(10, 48), step.se[2].t()[:, inner]) and torch.equal(params[1072:1120], step.se[3][inner])
        assert torch.equal(params[1120:1164], step.c[1] + step.proj[1])
        assert params.numel() == (1168 if pair else 1168 + 64 + 96)  # pair sums in float32 alone: 48 + 1, 2 (44 + 1); see below


def test_winograds_weights_by_the_book():
    step = block(c_in=72, c_mid=72, c_out=72, stride=1, proj=False)  # three groups of 24: two together, one alone
    packed = pack_network([step], torch.bfloat16)
    exact = pack_network([step], torch.bfloat16, exact=True)
    plain = exact.weights.numel()
    assert packed.program[-3:] == [2, 0, 0] and exact.program[-3:] == [0, 0, 0] and torch.equal(packed.weights[:plain], exact.weights)
    u = packed.weights[plain:]
    assert u.numel() == 16 * 72 * 24
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    for position, k, out in ((0, 0, 0), (6, 13, 5), (15, 23, 23)):
        row, column = divmod(position, 4)
        for group in range(3):
            want = g[row] @ step.b[0][24 * group + out, k].double() @ g[column]
            if group < 2:
                found = element(u[position * 48 * 24:], 48, 24, 2 * out + group, k, True)
            else:
                found = element(u[16 * 48 * 24 + position * 24 * 24:], 24, 24, out, k, True)
            assert found == want.to(torch.bfloat16)


def pairs_of(k):
    """(i, j, sign) of the channels that are multiplied as a pair, counted by hand: runs of 48, of the rest one of 24."""
    pairs, start = [], 0
    while k - start >= 24:
        run = 48 if k - start >= 48 else 24
        pairs += [(start + j, start + j + run // 3, -1 if j % 2 else 1) for j in range(run // 3)]
        start += run
        if run == 24:
            break
    return pairs


@pytest.mark.parametrize("k", [20, 24, 47, 48, 71, 72, 95, 96, 100, 104, 168])
def test_pair_sums_by_the_book(k):
    from regnet_kernels.pairs import magnitude, pair_sums

    assert len(pairs_of(k)) == {20: 0, 24: 8, 47: 8, 48: 16, 71: 16, 72: 24, 95: 24, 96: 32, 100: 32, 104: 32, 168: 56}[k]
    m = torch.randn(3, k)
    sums = pair_sums(m)
    assert sums.dtype == torch.float64
    for row in range(3):
        want = sum(sign * float(m[row, i]) * float(m[row, j]) for i, j, sign in pairs_of(k))
        assert abs(float(sums[row]) - want) < 1e-12 * k
    assert magnitude(2.25) == 1.5 and [magnitude(value) for value in (0.0, float("inf"), float("nan"))] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("changes", [
    {},  # a has no run
    dict(c_in=104, c_mid=168, c_out=56, squeeze=0),  # 2 x 48 + 8
    dict(c_in=72, c_mid=72, c_out=72, stride=1, proj=False),  # 48 + 24
])
def test_pair_sums_of_a_block_by_the_book(changes):
    step = block(**changes)
    packed = pack_network([step])
    (spec,) = packed.specs
    order, at = spec.channel_order(), spec.params_offset + sum(size + -size % 16 for size in spec.param_sections()[:-2])
    matrices = [step.a[0].flatten(1)[order], step.c[0].flatten(1)[:, order], *([step.proj[0].flatten(1)] if spec.has_proj else [])]
    for i, m in enumerate(matrices):
        rows, k = m.shape
        want = [sum(sign * float(row[i]) * float(row[j]) for i, j, sign in pairs_of(k)) for row in m]
        mean = sum(float(v) ** 2 for v in m.flatten()) / (rows * k)
        sums, size = packed.params[at:at + rows], float(packed.params[at + rows])
        torch.testing.assert_close(sums, torch.tensor(want, dtype=torch.float32), rtol=1e-6, atol=1e-6)
        assert abs(size / mean**0.5 - 1) < 1e-4  # which needs no more
        at += rows + 1
        if spec.has_proj and i == 1:
            continue  # its sums follow at once
        assert not packed.params[at:at + -at % 16].any()
        at += -at % 16
    assert at == packed.params.numel()


@pytest.mark.parametrize("options", [dict(exact=True), dict(dtype=torch.bfloat16), dict(dtype=torch.bfloat16, exact=True), dict(dtype=torch.float64)])
def test_pair_sums_are_packed_for_fast_float32_alone(options):
    packed, fast = pack_network([block()], **options), pack_network([block()])
    assert (packed.specs[0].pairs, fast.specs[0].pairs) == (0, 1) and len(packed.specs[0].param_sections()) == len(fast.specs[0].param_sections()) - 2
    sections = sum(size + -size % 16 for size in fast.specs[0].param_sections()[-2:])
    assert packed.params.numel() == fast.params.numel() - sections


def test_unpacking_gives_the_steps_and_packing_them_again_the_same_bytes():
    steps = [make_block(shape, torch.float32, seed=index)[1] for index, shape in enumerate(BLOCK_SHAPES)]
    for step in steps:
        packed = pack_network([step])
        (again,) = packed.unpack()
        assert torch.equal(again.a[0], step.a[0]) and torch.equal(again.b[0], step.b[0]) and torch.equal(again.c[0], step.c[0])
        assert again.activation == "relu" and again.group_width == step.group_width and again.stride == step.stride
        for dtype in (torch.float32, torch.bfloat16):
            # Winograd's weights are made before the others are rounded to bfloat16, so they cannot come back the same
            once = pack_network([step], dtype, exact=dtype == torch.bfloat16)
            twice = pack_network(once.unpack(), dtype, exact=dtype == torch.bfloat16)
            assert torch.equal(once.weights, twice.weights) and torch.equal(once.params, twice.params) and once.program == twice.program


def test_packed_networks_pickle_copy_slice_and_move():
    packed = small_network()
    stream = io.BytesIO()
    torch.save(packed, stream)
    stream.seek(0)
    x = torch.randn(1, 3, 16, 16)
    for other in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed), packed.to("cpu"), torch.load(stream, weights_only=False)):
        assert isinstance(other, PackedNetwork) and other.program == packed.program
        assert torch.equal(network(x, other), network(x, packed))
    part = packed.slice(1, 3)
    assert (len(packed), len(part), part.c_in, part.c_out, packed.c_out) == (5, 2, 32, 48, 10)
    assert part.weights.data_ptr() == packed.weights.data_ptr()
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed.program = []


def test_unpacking_is_differentiable_and_packing_is_its_transpose():
    packed = small_network(torch.float64)
    weights, params = packed.weights.clone().requires_grad_(), packed.params.clone().requires_grad_()
    steps = unpack_network(weights, params, packed.program)
    loss = sum(tensor.mul(torch.arange(tensor.numel()).reshape(tensor.shape)).sum() for tensor in tensors_of(steps))
    loss.backward()
    expected = sum((tensor * torch.arange(tensor.numel()).reshape(tensor.shape)).sum() for tensor in tensors_of(packed.unpack()))
    torch.testing.assert_close((weights.grad * packed.weights).sum() + (params.grad * packed.params).sum(), expected)


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    values = vars(value).values() if dataclasses.is_dataclass(value) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in values for tensor in tensors_of(item)]


@pytest.mark.parametrize("steps, message", [
    ([], "at least one step"),
    ([torch.nn.Identity()], "step 0 is a Identity; expected ConvStep"),
    ([block(), block()], "step 1 (BlockStep) takes 20 channels, but the step before gives 44"),
    ([dataclasses.replace(block(), group_width=20)], "group_width 20 does not divide the bottleneck width 48"),
    ([dataclasses.replace(block(), b=(torch.zeros(48, 8, 3, 3), None))], "b's weight is (48, 8, 3, 3); expected (48, 24, 3, 3)"),
    ([dataclasses.replace(block(), proj=None)], "without a projection"),
    ([dataclasses.replace(block(), proj=(torch.zeros(44, 21, 1, 1), None))], "proj's weight is (44, 21, 1, 1); expected (44, 20, 1, 1)"),
    ([dataclasses.replace(block(), se=block(squeeze=8).se[:3] + (torch.zeros(3),))], "se's b2 is (3,); expected (48,)"),
    ([dataclasses.replace(block(), a=(torch.zeros(48, 20, 1, 1), torch.zeros(2)))], "a's bias is (2,); expected (48,)"),
    ([dataclasses.replace(block(), activation="gelu")], "activation 'gelu' is unknown; use one of 'none', 'relu', 'silu'"),
    ([ConvStep(torch.zeros(8, 3, 3, 5), None)], "the kernel is 3x5"),
    ([ConvStep(torch.zeros(8, 3, 3, 3), None, groups=3)], "groups=3 does not divide the 8 output channels"),
    ([HeadStep(torch.zeros(5, 44), None), block()], "must be the last step"),
    ([HeadStep(None, None)], "without a weight give c_in"),
])
def test_steps_that_do_not_fit_are_named(steps, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        pack_network(steps)


def test_dtypes_and_programs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="float16 is computed as float32, so pack with dtype=torch.float32"):
        pack_network([block()], torch.float16)
    packed = small_network()
    weights, params, program = packed.weights, packed.params, packed.program
    for bad, message in (
        ((weights, params, [1, *program[1:]]), "format version"),
        ((weights, params, program[:-1]), "expected 82"),
        ((weights, params, [7, 1, 7, *program[3:18]]), "has kind 7"),
        ((weights[:100], params, program), "but the blob has 100"),
        ((weights, params[:64], program), "but the blob has 64"),
        ((weights.half(), params, program), "move a packed network by device only"),
        ((weights[::2], params, program), "contiguous 1-D blob"),
        ((weights, params, [*program[:29], 1, *program[30:]]), "unaligned offsets"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            PackedNetwork(*bad)
    assert isinstance(packed.unpack()[1], BlockStep)


@pytest.mark.parametrize("groups, width", [(1, 8), (7, 8), (5, 16), (3, 24), (2, 48), (3, 12), (2, 232)])
def test_the_order_of_inner_channels_by_the_book_and_back(groups, width):
    from regnet_kernels.interleave import channel_order, group_runs, interleaved, inverse, separated

    most = 4 if width == 8 else 2 if width in (16, 24, 232) else 1
    runs = group_runs(groups, width)
    assert [run.first for run in runs] == [sum(run.together * run.count for run in runs[:i]) for i in range(len(runs))]
    assert sum(run.together * run.count for run in runs) == groups and runs[0].together == min(most, 2 if groups == 3 else groups)
    for word in (1, 2):
        order = channel_order(groups, width, word).tolist()
        for together, first, count in runs:
            for index in range(count):
                start = (first + index * together) * width
                expected = [start + i * width + k + j for k in range(0, width, word) for i in range(together) for j in range(word)]
                assert order[start:start + together * width] == expected
        assert torch.equal(channel_order(groups, width, word)[inverse(channel_order(groups, width, word))], torch.arange(groups * width))
    matrices = torch.randn(4, width, 6)
    assert torch.equal(separated(interleaved(matrices, most), most), matrices)
    assert torch.equal(interleaved(matrices, most)[-1, -1], matrices[-1, -1])

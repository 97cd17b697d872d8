"""The CUDA kernels without a GPU: run on the host under an emulator, and compiled with nvcc and looked at.

What this cannot tell: whether the PTX operand layouts are as documented, and any time.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import cuda_report
from regnet_kernels import ConvStep, HeadStep, network, pack_plain
from regnet_kernels.backends import cuda, gpu, hopper
from regnet_kernels.backends.gpu import choice
from regnet_kernels.ops import squeeze_excite
from regnet_kernels.problem import Problem
from regnet_kernels.testing import BlockShape, assert_close_to_oracle, make_block

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "cuda_emulation"
TORCH = Path(torch.__file__).resolve().parent


def _module(path):
    spec = importlib.util.spec_from_file_location(f"_cuda_test_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


emulated = _module(EMULATION / "emulated.py")
cuda_build = _module(ROOT / "csrc" / "cuda" / "build.py")

ACTIVATIONS = (lambda y: y, F.relu, F.silu)
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # relative error of one rounding
SMALLEST = {torch.float32: 2.0**-126, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-126}


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    output = tmp_path_factory.mktemp("emulated") / "library.so"
    flags = ["-O2", "-fPIC", "-shared"]
    return emulated.EmulatedKernel(emulated.compile_host(EMULATION / "library.cpp", output, flags))


def _check_result(y, sums, exact_of, dtype, terms_of_one, activation, pool):
    """Within what rounding explains. exact_of: of the tensors and of their magnitudes, in float64, before the activation."""
    exact = ACTIVATIONS[activation](exact_of[0])
    terms = terms_of_one + (8 if activation == 2 else 0)
    bound = UNIT[dtype] * exact.abs() + 1.1 * terms * 2.0**-24 * exact_of[1] * (1 + UNIT[dtype]) + SMALLEST[dtype]
    worst = ((y.double() - exact).abs() - bound).max().item()
    assert worst <= 0, f"off by {worst} more than rounding explains"
    if pool:  # of what is rounded to y afterwards: float32 roundings only
        slack = 1.1 * (terms + y.shape[2] * y.shape[3]) * 2.0**-24 * (exact_of[1].sum((2, 3)) + exact.abs().sum((2, 3)))
        worst = ((sums.double().sum(1) - exact.sum((2, 3))).abs() - slack).max().item()
        assert worst <= 0, f"sums off by {worst} more than rounding explains"


def _tensors(images, channels, group_width, height, width, dtype):
    x = torch.randn(images, channels, height, width).to(dtype)
    weight = (torch.randn(channels, group_width, 3, 3) / (9 * group_width) ** 0.5).to(dtype)
    return x, weight, torch.randn(channels)


def plain(weight):
    """(C, group_width, 3, 3) as the kernels and the packed networks have it: (C, 3, 3, group_width)."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _check(kernel, images, channels, group_width, height, width, stride, dtype, activation=1, pool=False, **schedule):
    x, weight, bias = _tensors(images, channels, group_width, height, width, dtype)
    run = kernel.wgmma if "tile" in schedule else kernel
    y, sums, finding = run(x, plain(weight), bias, stride, activation, pool, **schedule)
    assert not finding, finding
    conv = [F.conv2d(a.double(), w.double(), b.double(), stride, 1, 1, channels // group_width)
            for a, w, b in ((x, weight, bias), (x.abs(), weight.abs(), bias.abs()))]
    # One rounding of the result, and a float32 rounding for each of the 9 * group_width + 1 terms of the sum (that bound
    # is Higham's; silu's slope is at most 1.1, and its exp and division round a few times more).
    _check_result(y, sums, conv, dtype, 9 * group_width + 1, activation, pool)


LAYERS = [  # RegNet's own layers: images, channels, group width, side of the input, stride
    (1, 48, 8, 112, 2, torch.float16), (2, 440, 8, 7, 1, torch.bfloat16),  # Y-400MF
    (1, 128, 16, 28, 1, torch.bfloat16),  # X-800MF
    (1, 72, 24, 56, 1, torch.float16), (1, 168, 24, 56, 2, torch.bfloat16),  # X-1.6GF
    (2, 912, 24, 7, 1, torch.float16), (1, 72, 24, 56, 1, torch.float32),
    (1, 240, 40, 28, 1, torch.bfloat16),  # X-4GF
    (1, 432, 48, 14, 1, torch.float16),  # X-3.2GF
    (1, 448, 56, 28, 2, torch.float16),  # Y-8GF
    (1, 512, 64, 14, 1, torch.bfloat16),  # Y-4GF
    (1, 224, 112, 28, 1, torch.float16),  # Y-16GF
    (1, 720, 120, 14, 1, torch.bfloat16),  # X-8GF
    (1, 672, 168, 14, 1, torch.float16),  # X-32GF
    (1, 696, 232, 28, 2, torch.bfloat16), (2, 232, 232, 7, 1, torch.float16),  # Y-32GF
]


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_matches_float64_at_real_layers(kernel, index):
    images, channels, group_width, side, stride, dtype = LAYERS[index]
    _check(kernel, images, channels, group_width, side, side, stride, dtype, pool=dtype != torch.float32 and index % 3 != 0,
           order=emulated.ORDERS[index % 5], eager_copies=index % 2 == 0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_matches_float64_at_any_shape_under_any_schedule(kernel, data):
    draw = data.draw
    group_width = draw(st.sampled_from([8, 16, 24, 32, 40, 56, 64, 72, 80, 104, 120, 128, 232, 264]))
    groups, dtype = draw(st.integers(1, 5 if group_width <= 32 else 2)), draw(st.sampled_from(emulated.DTYPES))
    _check(kernel, draw(st.integers(1, 3)), groups * group_width, group_width, draw(st.integers(1, 17)), draw(st.integers(1, 17)),
           draw(st.sampled_from([1, 2])), dtype, draw(st.integers(0, 2)), dtype != torch.float32 and draw(st.booleans()),
           order=draw(st.sampled_from(emulated.ORDERS)), eager_copies=draw(st.booleans()),
           multiprocessors=draw(st.sampled_from([1, 10000])))


def test_hopper_matches_float64_at_real_layers(kernel):
    """In the tile that the estimate takes for best, and in others."""
    for index, (images, channels, group_width, side, stride, dtype) in enumerate(LAYERS):
        if dtype == torch.float32 or group_width > 168:
            continue
        out, pool = (side - 1) // stride + 1, index % 3 != 0
        tiles = hopper.candidates(images, out, out, channels, group_width, stride, pool, 4)
        assert tiles, (channels, group_width, side, stride)
        _check(kernel, images, channels, group_width, side, side, stride, dtype, pool=pool, tile=tiles[index % 2 * (len(tiles) - 1)],
               order=emulated.ORDERS[index % 5], eager_copies=index % 2 == 0, blocks=1 + index % 3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hopper_matches_float64_at_any_shape_under_any_schedule(kernel, data):
    draw = data.draw
    group_width = draw(st.sampled_from([8, 16, 24, 32, 40, 56, 64, 72, 104, 128]))
    groups, images, stride = draw(st.integers(1, 5 if group_width <= 32 else 2)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    height, width, pool = draw(st.integers(1, 17)), draw(st.integers(1, 17)), draw(st.booleans())
    tiles = hopper.candidates(images, (height - 1) // stride + 1, (width - 1) // stride + 1, groups * group_width, group_width, stride,
                              pool, draw(st.sampled_from([1, 132])))
    _check(kernel, images, groups * group_width, group_width, height, width, stride, draw(st.sampled_from([torch.float16, torch.bfloat16])),
           draw(st.integers(0, 2)), pool, tile=draw(st.sampled_from(tiles)), order=draw(st.sampled_from(emulated.ORDERS)),
           eager_copies=draw(st.booleans()), blocks=draw(st.integers(1, 3)))


@pytest.mark.parametrize("group_width", [8, 24])
def test_a_group_sees_nothing_of_its_neighbours(kernel, group_width):
    """Infinities and NaNs in group 1 leave the others as they were, to the bit, and come through the ReLU."""
    x, weight, bias = _tensors(1, 3 * group_width, group_width, 9, 9, torch.float16)
    clean, clean_sums, _ = kernel(x, plain(weight), bias, 1, 1, True)
    x[:, group_width, 4, 4], x[:, 2 * group_width - 1, 4, 4] = float("nan"), float("inf")
    y, sums, finding = kernel(x, plain(weight), bias, 1, 1, True)
    assert not finding, finding
    others = [slice(0, group_width), slice(2 * group_width, None)]
    assert all(torch.equal(y[:, part], clean[:, part]) and torch.equal(sums[:, :, part], clean_sums[:, :, part]) for part in others)
    hit = y[:, group_width:2 * group_width].isnan()
    assert hit[:, :, 3:6, 3:6].all() and hit.sum() == 9 * group_width


RACE = "without a barrier|never written|copy to it is under way"  # which of them comes first depends on the order
MISTAKES = {  # what is changed in the kernel -> what the emulator says of it
    "no barrier after the copies": (
        ("    device::barrier();  // this item has arrived for all; all have left the other stage\n", ""), RACE),
    "no barrier after the table": (("  device::barrier();\n\n  const auto group_of", "\n  const auto group_of"), RACE),
    "does not wait for the last copies": (("wait_copies<0>", "wait_copies<1>"), "while a copy to it is under way"),
    "copies into the stage in use": (("halo = stages + item % 2 * plan.stage_bytes, weights = halo + plan.halo_bytes;\n    const int group = "
                                      "group_of(item), chunk = chunk_of(item);\n    const int here",
                                      "halo = stages, weights = halo + plan.halo_bytes;\n    const int group = "
                                      "group_of(item), chunk = chunk_of(item);\n    const int here"), RACE),
    "no barrier before the last sums": (("  device::barrier();  // the last group's sums are there\n", ""), RACE),
    "one buffer for the sums": (("item / plan.chunks % 2", "item * 0"), RACE),
    "stores pixels beyond the map": ((" && row < plan.out_height && column < plan.out_width", ""), "exactly once|outside every tensor"),
    "reads rows beyond the image": (("row < conv.height && column", "column"), "load outside every tensor"),
}


WGMMA_MISTAKES = {
    "no barrier after the halo": ("    device::barrier();  // the halo has arrived for all; all have added up the last tile's sums\n",
                                  "", RACE),
    "no wait for the halo": ("wait_copies<1>", "wait_copies<2>", RACE),
    "no fence before the products": ("    device::fence_shared();\n", "", "without fence_shared"),
    "no barrier before the sums are added": ("    device::barrier();  // all have multiplied; the warps' sums are there\n", "", RACE),
    "stores lines beyond the map": ("min(first_line + plan.tile.height, plan.out_height)", "first_line + plan.tile.height",
                                    "exactly once|outside every tensor"),
}
WIDTHS = {"one buffer for the sums": 16}  # a group of more than 16 ends a barrier later, which hides it; the others: 24
GATE_MISTAKES = {barrier: (f"  device::barrier();  // {barrier}\n", "") for barrier in ("the means are there", "the hidden layer is there")}


@pytest.fixture(scope="session")
def mistaken_kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    mistakes = {name: ("gconv3x3.cuh", *change) for name, (change, _) in MISTAKES.items()}
    mistakes |= {name: ("se_gate.cuh", *change) for name, change in GATE_MISTAKES.items()}
    mistakes |= {name: ("gconv3x3_wgmma.cuh", *change[:2]) for name, change in WGMMA_MISTAKES.items()}

    def build(number):
        file, old, new = list(mistakes.values())[number]
        source = (emulated.CUDA / file).read_text()
        assert source.count(old) == 1, f"the kernel no longer has {old!r} exactly once; adapt this test"
        place = folder / str(number)
        place.mkdir()
        (place / file).write_text(source.replace(old, new))
        tiles = WIDTHS.get(list(mistakes)[number], 24) // 8
        (place / "gconv3x3_tiles.h").write_text(  # one group width only: it compiles in no time
            "#pragma once\n#include <type_traits>\nnamespace regnet_kernels {\ntemplate <class Use>\nauto with_tiles(int, Use&& use) "
            f"{{ return use(std::integral_constant<int, {tiles}>{{}}); }}\n}}\n")
        for name in ("emulate.h", "emulate_wgmma.h", "library.cpp"):  # beside the changed files, so that "..." includes find those
            shutil.copy(EMULATION / name, place)
        return emulated.EmulatedKernel(emulated.compile_host(place / "library.cpp", place / "library.so",
                                                             ["-O0", "-fPIC", "-shared"], first=place))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(mistakes, pool.map(build, range(len(mistakes)))))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulator_finds_mistakes(mistaken_kernels, mistake):
    """In every order of the threads: the checks do not need a lucky schedule."""
    for order in emulated.ORDERS:
        x, weight, bias = _tensors(1, 48, WIDTHS.get(mistake, 24), 13, 19, torch.float16)  # primes: no tile fits
        _, _, finding = mistaken_kernels[mistake](x, plain(weight), bias, 1, 1, True, order=order)
        assert re.search(MISTAKES[mistake][1], finding), f"{order}: {finding!r}"


@pytest.mark.parametrize("mistake", WGMMA_MISTAKES)
def test_the_emulator_finds_mistakes_in_the_kernel_for_hopper(mistaken_kernels, mistake):
    for order in emulated.ORDERS:
        x, weight, bias = _tensors(2, 48, 24, 13, 19, torch.float16)
        _, _, finding = mistaken_kernels[mistake].wgmma(x, plain(weight), bias, 1, 1, True, tile=hopper.Tile(8, 16, 1, 1, 2), order=order)
        assert re.search(WGMMA_MISTAKES[mistake][2], finding), f"{order}: {finding!r}"


# ------------------------------------------------------------------------------------------------ the gate


def _gate(kernel, images, tiles, channels, squeeze, dtype=torch.float32, transposed=False, **schedule):
    """transposed: w2 is (squeeze, channels), as a packed network has it."""
    w1, w2 = (torch.randn(squeeze, channels) / channels**0.5).to(dtype), (torch.randn(channels, squeeze) / squeeze**0.5).to(dtype)
    args = (torch.randn(images, tiles, channels), w1, torch.randn(squeeze), w2.t().contiguous() if transposed else w2,
            torch.randn(channels), 7, transposed)
    gate, finding = kernel.se_gate(*args, **schedule)
    assert not finding, finding
    sums, *rest = [tensor.double() for tensor in (*args[:3], w2, args[4])]
    exact = squeeze_excite.gate_reference(sums.sum(1), *rest, 7)
    torch.testing.assert_close(gate.double(), exact, rtol=0, atol=1e-5 + UNIT[dtype])  # a gate is below 1
    return args, gate


@pytest.mark.parametrize("order", emulated.ORDERS)
@pytest.mark.parametrize("eager_copies", [False, True])
@pytest.mark.parametrize("images, tiles, channels, squeeze, multiprocessors", [
    (1, 25, 48, 8, 132), (2, 7, 104, 12, 132), (5, 2, 208, 26, 4), (9, 1, 440, 110, 1), (1, 1, 3712, 348, 132)])
def test_gate_matches_float64_at_real_layers(kernel, images, tiles, channels, squeeze, multiprocessors, order, eager_copies):
    """Stages of Y-400MF and the last one of Y-32GF, as a single call and as a packed network has them."""
    schedule = {"multiprocessors": multiprocessors, "order": order, "eager_copies": eager_copies}
    _gate(kernel, images, tiles, channels, squeeze, **schedule)
    _gate(kernel, images, tiles, channels, squeeze, emulated.DTYPES[1 + eager_copies], transposed=True, **schedule)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.integers(1, 20), tiles=st.integers(1, 9), channels=st.integers(1, 100), squeeze=st.integers(1, 40),
       multiprocessors=st.sampled_from([1, 16, 132]), order=st.sampled_from(emulated.ORDERS), dtype=st.sampled_from(emulated.DTYPES),
       transposed=st.booleans())
def test_gate_matches_float64_at_any_shape(kernel, images, tiles, channels, squeeze, multiprocessors, order, dtype, transposed):
    """And an image's gate has the same bits in a batch and alone, under any schedule."""
    (sums, *rest), gate = _gate(kernel, images, tiles, channels, squeeze, dtype, transposed, multiprocessors=multiprocessors, order=order)
    alone, finding = kernel.se_gate(sums[-1:].clone(), *rest, multiprocessors=multiprocessors)
    assert not finding and torch.equal(alone[0], gate[-1])


@pytest.fixture
def emulated_layers(kernel, monkeypatch):
    """Networks run on CPU tensors: CUDA's layers in the emulator, the others in torch. Yields the shapes of what was emulated."""
    seen = []
    implementation = torch.library.Library("regnet_kernels", "IMPL")

    def gconv3x3(x, weight, bias, stride, activation, pool):
        y, sums, finding = kernel(x, weight, bias, stride, activation, pool, multiprocessors=4)
        assert not finding, finding
        seen.append(("grouped", tuple(sums.shape)))
        return y, sums

    def se_gate(sums, w1, b1, w2, b2, count, transposed):
        gate, finding = kernel.se_gate(sums, w1, b1, w2, b2, count, transposed, multiprocessors=4)
        assert not finding, finding
        seen.append(("gate", tuple(sums.shape)))
        return gate

    implementation.impl("_gconv3x3_cuda", gconv3x3, "CPU")
    implementation.impl("_se_gate_cuda", se_gate, "CPU")
    monkeypatch.setattr(choice, "_why_not_cuda", lambda device: "")
    yield seen
    implementation._destroy()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("grouped, gate", [("cuda", "cuda"), ("cuda", "cudnn"), ("cudnn", "cuda")])
def test_layers_of_a_network(emulated_layers, dtype, grouped, gate):
    """Weights are sections of a packed network's blob; the gate takes the partial sums of whichever grouped convolution ran."""
    torch.manual_seed(0)
    blocks = [make_block(shape, torch.float32)[1] for shape in (
        BlockShape(1, 16, 48, 48, 24, 12, 1, True, 1, 1), BlockShape(1, 48, 104, 104, 8, 12, 2, True, 1, 1),
        BlockShape(1, 104, 80, 104, 80, 26, 1, False, 1, 1))]
    stem = ConvStep(torch.randn(16, 3, 3, 3) / 4, torch.randn(16), 2, 1, 1, "relu")
    packed = pack_plain([stem, *blocks, HeadStep(torch.randn(10, 104) / 8, torch.randn(10))], dtype)
    x = torch.randn(3, 3, 57, 41).to(dtype)
    y = gpu.run(x, packed.weights, packed.params, packed.program, layers=f"cudnn,grouped={grouped},gate={gate}")
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    assert_close_to_oracle(y, exact, network(x, packed, backend="eager"), what="network")
    slots = [cuda.tiles(3, 29, 21, 1), cuda.tiles(3, 29, 21, 2), cuda.tiles(3, 15, 11, 1)] if grouped == "cuda" else [1, 1, 1]
    expected = [(kind, (3, tiles, c)) for tiles, c in zip(slots, (48, 104, 80)) for kind, backend in (("grouped", grouped), ("gate", gate))
                if backend == "cuda"]
    assert emulated_layers == expected and (grouped != "cuda" or slots[0] > 1)


def test_sums_repeat_to_the_bit_under_every_schedule(kernel):
    x, weight, bias = _tensors(3, 48, 24, 9, 13, torch.bfloat16)
    found = [kernel(x, plain(weight), bias, 1, 1, True, order=order) for order in emulated.ORDERS]
    assert all(not finding and torch.equal(y, found[0][0]) and torch.equal(sums, found[0][1]) for y, sums, finding in found)


@pytest.mark.parametrize("barrier", GATE_MISTAKES)
def test_the_emulator_finds_a_missing_barrier_in_the_gate(mistaken_kernels, barrier):
    for order in emulated.ORDERS:
        _, finding = mistaken_kernels[barrier].se_gate(torch.randn(2, 3, 48), torch.randn(40, 48), torch.randn(40), torch.randn(48, 40),
                                                       torch.randn(48), 9, order=order)
        assert re.search(RACE, finding), f"{order}: {finding!r}"


def test_sanitizers_find_nothing(tmp_path):
    flags = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    program = emulated.compile_host(EMULATION / "sanitize.cpp", tmp_path / "sanitize", flags)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


# ------------------------------------------------------------------------------------------------ the build with nvcc


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(library, objects of the kernels): setup.py's own objects, compiled only where they are out of date."""
    nvcc = cuda_build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda): the CUDA build is not tested")
    objects = cuda_build.build_objects(cuda_report.OBJECTS, TORCH)
    link = cuda_build.link_job(nvcc, objects, tmp_path_factory.mktemp("cuda_build") / "_cuda.so", TORCH)
    link.run()
    return link.output, [path for path in objects if path.stem != "torch_cuda"]


def test_machine_code_meets_the_bars(built):
    """No local memory, tensor cores, asynchronous copies, few enough registers: every kernel on every architecture."""
    cuobjdump = cuda_report.find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("no cuobjdump on this machine (PATH, beside nvcc, triton's package): the machine code is not looked at")
    wanted, _ = cuda_build.archs(cuda_build.find_nvcc())
    objects = [path for path in built[1] if not path.stem.endswith("_half")]  # as bfloat16's; the report looks at both
    found = cuda_report.kernels(objects, wanted, cuobjdump)
    # 8 widths, float32, 12 gates; for Hopper 8 widths with ReLU and without, with sums and without
    assert len(found) == len(wanted) * 21 + 32
    assert not [reason for kernel in found for reason in kernel.missed()]


def test_the_library_loads_without_cuda(built, tmp_path):
    """With a libtorch that has no CUDA part (an empty libtorch.so) every strong symbol is still found."""
    if not list(TORCH.glob("lib/libtorch_cpu.so")):
        pytest.fail(f"{TORCH}/lib has no libtorch_cpu.so")
    (tmp_path / "empty.c").write_text("")
    subprocess.run(["g++", "-shared", "-x", "c", str(tmp_path / "empty.c"), "-o", str(tmp_path / "libtorch.so"), "-Wl,-soname,libtorch.so"],
                   check=True)
    script = f"""
import ctypes, os
for name in {[str(tmp_path / 'libtorch.so'), str(built[0])]!r}: ctypes.CDLL(name, os.RTLD_NOW)
assert not any('libtorch_cuda' in line for line in open('/proc/self/maps')), 'libtorch_cuda came along'
"""
    environment = {"LD_LIBRARY_PATH": str(TORCH / "lib"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_library_registers_the_kernels(built):
    script = f"""
import torch
import regnet_kernels.backends.cuda as cuda
torch.ops.load_library({str(built[0])!r})
for op in (cuda.OP, cuda.GATE_OP):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wanted, expected", [
    ("8.0;9.0a+PTX", (["80", "90a"], "90a")), ("9.0 10.0", (["90", "100"], "")), ("7.5", "8.0"), ("Hopper", "expected numbers")])
def test_torch_cuda_arch_list(wanted, expected):
    nvcc = cuda_build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine: TORCH_CUDA_ARCH_LIST is not tested")
    if isinstance(expected, tuple):
        assert cuda_build.archs(nvcc, wanted) == expected
    else:
        with pytest.raises(cuda_build.BuildError, match=expected):
            cuda_build.archs(nvcc, wanted)


# ------------------------------------------------------------------------------------------------ the Python side


@pytest.mark.parametrize("dtype", emulated.DTYPES)
@pytest.mark.parametrize("images, stride", [(0, 1), (2, 2)])
def test_fake_kernel_has_exact_strides(dtype, images, stride):
    x = torch.empty(images, 48, 7, 9, dtype=dtype, device="meta")
    weight = torch.empty(48, 3, 3, 24, dtype=dtype, device="meta")
    pool = dtype != torch.float32
    y, sums = cuda.gconv3x3(x, weight, torch.empty(48, device="meta"), stride, 1, pool)
    assert sums.shape == ((images, min(images, 1), 48) if pool else (0,))
    expected = torch.empty(images, 48, 6 // stride + 1, 8 // stride + 1, dtype=dtype, memory_format=torch.channels_last)
    assert (y.shape, y.stride(), y.dtype) == (expected.shape, expected.stride(), dtype)


@pytest.mark.parametrize("change, reason", [
    ({}, ""), ({"device": torch.device("cpu")}, "tensors are on cpu"), ({"op": "squeeze_excite"}, "no CUDA kernel;"),
    ({"dtype": torch.float64}, "float64"), ({"kernel": (1, 1), "padding": 0}, "must be 3x3"), ({"stride": 3}, "stride=3"),
    ({"c_out": 96}, "48 inputs and 96 outputs"), ({"groups": 4}, "group width is 12"), ({"groups": 48}, "group width is 1"),
    ({"residual": True}, "residual"), ({"gate": True}, "gate"), ({"pool": True}, ""),
    ({"pool": True, "dtype": torch.float32}, "16-bit kernels only"), ({"op": "se_gate"}, "sums is torch.float16"),
    ({"op": "se_gate", "dtype": torch.float32}, ""), ({"op": "se_gate", "dtype": torch.float32, "c_in": 13000}, "13000 channels"),
    ({"op": "network", "layout": "plain"}, "layers='grouped=cuda,gate=cuda'")])
def test_why_not(change, reason):
    problem = Problem("conv_bn_act", torch.device("cuda", 0), torch.float16, None, 48, 48, (3, 3), 1, 1, 2, 1)._replace(**change)
    said = cuda.why_not_anywhere(problem)
    assert (reason in said) if reason else said == ""
    assert cuda.why_not(problem) == said or not said

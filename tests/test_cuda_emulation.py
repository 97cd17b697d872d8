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

from regnet_kernels.backends import cuda
from regnet_kernels.problem import Problem

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


def _tensors(images, channels, group_width, height, width, dtype):
    x = torch.randn(images, channels, height, width).to(dtype)
    weight = (torch.randn(channels, group_width, 3, 3) / (9 * group_width) ** 0.5).to(dtype)
    return x, weight, torch.randn(channels)


def _check(kernel, images, channels, group_width, height, width, stride, dtype, activation=1, **schedule):
    x, weight, bias = _tensors(images, channels, group_width, height, width, dtype)
    y, finding = kernel(x, weight, bias, stride, activation, **schedule)
    assert not finding, finding
    conv = [F.conv2d(a.double(), w.double(), b.double(), stride, 1, 1, channels // group_width)
            for a, w, b in ((x, weight, bias), (x.abs(), weight.abs(), bias.abs()))]
    exact = ACTIVATIONS[activation](conv[0])
    # One rounding of the result, and a float32 rounding for each of the 9 * group_width + 1 terms of the sum (that bound
    # is Higham's; silu's slope is at most 1.1, and its exp and division round a few times more).
    terms = 9 * group_width + 1 + (8 if activation == 2 else 0)
    bound = UNIT[dtype] * exact.abs() + 1.1 * terms * 2.0**-24 * conv[1] * (1 + UNIT[dtype]) + SMALLEST[dtype]
    worst = ((y.double() - exact).abs() - bound).max().item()
    assert worst <= 0, f"off by {worst} more than rounding explains"


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
    _check(kernel, images, channels, group_width, side, side, stride, dtype,
           order=emulated.ORDERS[index % 5], eager_copies=index % 2 == 0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_matches_float64_at_any_shape_under_any_schedule(kernel, data):
    draw = data.draw
    group_width = draw(st.sampled_from([8, 16, 24, 32, 40, 56, 64, 72, 80, 104, 120, 128, 232, 264]))
    groups = draw(st.integers(1, 5 if group_width <= 32 else 2))
    _check(kernel, draw(st.integers(1, 3)), groups * group_width, group_width, draw(st.integers(1, 17)), draw(st.integers(1, 17)),
           draw(st.sampled_from([1, 2])), draw(st.sampled_from(emulated.DTYPES)), draw(st.integers(0, 2)),
           order=draw(st.sampled_from(emulated.ORDERS)), eager_copies=draw(st.booleans()),
           multiprocessors=draw(st.sampled_from([1, 10000])))


@pytest.mark.parametrize("group_width", [8, 24])
def test_a_group_sees_nothing_of_its_neighbours(kernel, group_width):
    """Infinities and NaNs in group 1 leave the others as they were, to the bit, and come through the ReLU."""
    x, weight, bias = _tensors(1, 3 * group_width, group_width, 9, 9, torch.float16)
    clean, _ = kernel(x, weight, bias, 1, 1)
    x[:, group_width, 4, 4], x[:, 2 * group_width - 1, 4, 4] = float("nan"), float("inf")
    y, finding = kernel(x, weight, bias, 1, 1)
    assert not finding, finding
    others = [slice(0, group_width), slice(2 * group_width, None)]
    assert all(torch.equal(y[:, part], clean[:, part]) for part in others)
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
    "stores pixels beyond the map": ((" && row < plan.out_height && column < plan.out_width", ""), "exactly once|outside every tensor"),
    "reads rows beyond the image": (("row < conv.height && column", "column"), "load outside every tensor"),
}


@pytest.fixture(scope="session")
def mistaken_kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    source = (emulated.CUDA / "gconv3x3.cuh").read_text()

    def build(number):
        (old, new), _ = list(MISTAKES.values())[number]
        assert source.count(old) == 1, f"the kernel no longer has {old!r} exactly once; adapt this test"
        place = folder / str(number)
        place.mkdir()
        (place / "gconv3x3.cuh").write_text(source.replace(old, new))
        (place / "gconv3x3_tiles.h").write_text(  # group width 24 only: it compiles in no time
            "#pragma once\n#include <type_traits>\nnamespace regnet_kernels {\ntemplate <class Use>\nauto with_tiles(int, Use&& use) "
            "{ return use(std::integral_constant<int, 3>{}); }\n}\n")
        for name in ("emulate.h", "library.cpp"):  # beside the changed files, so that "..." includes find those
            shutil.copy(EMULATION / name, place)
        return emulated.EmulatedKernel(emulated.compile_host(place / "library.cpp", place / "library.so",
                                                             ["-O0", "-fPIC", "-shared"], first=place))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MISTAKES, pool.map(build, range(len(MISTAKES)))))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulator_finds_mistakes(mistaken_kernels, mistake):
    """In every order of the threads: the checks do not need a lucky schedule."""
    for order in emulated.ORDERS:
        x, weight, bias = _tensors(1, 48, 24, 13, 19, torch.float16)  # primes: no tile fits
        _, finding = mistaken_kernels[mistake](x, weight, bias, 1, 1, order=order)
        assert re.search(MISTAKES[mistake][1], finding), f"{order}: {finding!r}"


def test_sanitizers_find_nothing(tmp_path):
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    program = emulated.compile_host(EMULATION / "sanitize.cpp", tmp_path / "sanitize", flags)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


# ------------------------------------------------------------------------------------------------ the build with nvcc


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(library, what ptxas said, folder of the objects): one build for all tests, as setup.py does it."""
    nvcc = cuda_build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda): the CUDA build is not tested")
    folder = tmp_path_factory.mktemp("cuda_build")
    jobs = cuda_build.jobs(nvcc, folder, TORCH, extra=("-Xptxas", "-v"))

    def compile_one(job):
        done = subprocess.run(job.command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    with ThreadPoolExecutor(2) as pool:
        words = "\n".join(pool.map(compile_one, sorted(jobs, key=lambda job: "16" not in job.output.name)))
    link = cuda_build.link_job(nvcc, [job.output for job in jobs], folder / "_cuda.so", TORCH)
    link.run()
    return link.output, words, folder


def test_kernels_neither_spill_nor_crowd_the_multiprocessor(built):
    """No spills on any architecture, and at least three blocks of 128 threads a multiprocessor by registers (168 each)."""
    entries = re.findall(r"entry function '(\w+)' for '(sm_\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes "
                         r"spill loads.*?Used (\d+) registers", built[1], re.S)
    wanted, _ = cuda_build.archs(cuda_build.find_nvcc())
    assert {arch for _, arch, *_ in entries} == {f"sm_{arch}" for arch in wanted}
    assert len(entries) == len(wanted) * 17  # 8 widths x 2 dtypes, and float32
    for name, arch, stack, stores, loads, registers in entries:
        assert (stack, stores, loads) == ("0", "0", "0"), f"{name} {arch} spills"
        assert int(registers) <= 168, f"{name} {arch} uses {registers} registers"


def _tool(name):
    try:
        from triton.backends import nvidia
        beside_triton = str(Path(nvidia.__file__).parent / "bin")
    except ImportError:
        beside_triton = None
    return shutil.which(name) or (beside_triton and shutil.which(name, path=beside_triton))


def test_tensor_cores_and_asynchronous_copies_are_used(built):
    cuobjdump = _tool("cuobjdump")
    if cuobjdump is None:
        pytest.skip("no cuobjdump on this machine (PATH, triton's package): the machine code is not looked at")
    code = subprocess.run([cuobjdump, "-sass", "-arch", "sm_90", str(built[2] / "gconv3x3_bfloat16.o")], capture_output=True, text=True,
                          check=True).stdout
    functions = re.split(r"\n\s*Function : ", code)[1:]
    assert len(functions) == 8
    for function in functions:
        for instruction in ("HMMA.16816.F32.BF16", "HMMA.1688.F32.BF16", "LDSM", "LDGSTS"):
            assert instruction in function, f"{function.split()[0]}: no {instruction}"
        assert not re.search(r"\b(LDL|STL)\b", function), f"{function.split()[0]} uses local memory"


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


def test_the_library_registers_the_kernel(built):
    script = f"""
import torch
import regnet_kernels.backends.cuda as cuda
torch.ops.load_library({str(built[0])!r})
assert torch._C._dispatch_has_kernel_for_dispatch_key(cuda.OP, "CUDA")
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
    packed = cuda.pack(torch.empty(48, 24, 3, 3, dtype=dtype, device="meta"))
    y = cuda.gconv3x3(x, packed, torch.empty(48, device="meta"), stride, 1)
    expected = torch.empty(images, 48, 6 // stride + 1, 8 // stride + 1, dtype=dtype, memory_format=torch.channels_last)
    assert (y.shape, y.stride(), y.dtype) == (expected.shape, expected.stride(), dtype)


@pytest.mark.parametrize("change, reason", [
    ({}, ""), ({"device": torch.device("cpu")}, "tensors are on cpu"), ({"op": "squeeze_excite"}, "no CUDA kernel yet"),
    ({"dtype": torch.float64}, "float64"), ({"kernel": (1, 1), "padding": 0}, "must be 3x3"), ({"stride": 3}, "stride=3"),
    ({"c_out": 96}, "48 inputs and 96 outputs"), ({"groups": 4}, "group width is 12"), ({"groups": 48}, "group width is 1"),
    ({"residual": True}, "residual"), ({"gate": True}, "gate"), ({"pool": True}, "pool")])
def test_why_not(change, reason):
    problem = Problem("conv_bn_act", torch.device("cuda", 0), torch.float16, None, 48, 48, (3, 3), 1, 1, 2, 1)._replace(**change)
    said = cuda.why_not_anywhere(problem)
    assert (reason in said) if reason else said == ""
    assert cuda.why_not(problem) == said or not said

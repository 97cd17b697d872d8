"""1x1's by pairs (csrc/cpu/pair_kernels.h), forced on and off, against float64 and beside eager PyTorch: how far they are off, and that a pixel's result
depends on nothing but the pixel. Every shape, with bounds on the rounding error: tests/cpu_harness/network_cases.cpp."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from regnet_kernels import BlockStep, network, pack_network
from regnet_kernels._extension import CPU, CPU_INFO
from regnet_kernels.testing import BlockShape, factor_for, make_block, relative_error

pytestmark = [pytest.mark.kernels, pytest.mark.skipif(not CPU.loaded, reason="needs the CPU kernels")]
SEEDS = range(4)
PIXELS = 63  # of a map of 7x9
KEPT = 63  # outputs of a 1x1 that `alone` hands on


def alone(weight: torch.Tensor, bias: torch.Tensor) -> BlockStep:
    """A block that is one 1x1, weight (M, C), bias (M): 63 of its outputs go as they are through a 3x3 and a 1x1 of zeros and ones, which are
    too narrow for Winograd and for pairs, and a projection of zeros."""
    outputs, channels = weight.shape
    same, at = torch.zeros(outputs, 4, 3, 3), torch.arange(outputs)
    same[at, at % 4, 1, 1] = 1
    pick = torch.zeros(KEPT, outputs, 1, 1)
    pick[torch.arange(KEPT), kept(outputs)] = 1
    return BlockStep((weight[:, :, None, None], bias), (same, None), (pick, None), (torch.zeros(KEPT, channels, 1, 1), None), None, 1, 4, "none")


def kept(outputs: int) -> torch.Tensor:
    return torch.arange(KEPT) * outputs // KEPT


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sizes(lowest: int) -> torch.Tensor:
    """(63,): of pixels, from 10^lowest to 10^6, and a pixel of zeros."""
    return torch.cat([10.0 ** torch.linspace(lowest, 6, PIXELS - 1), torch.zeros(1)])


def problems() -> dict[str, tuple[torch.Tensor, BlockStep]]:
    """(x, step) by name: "what/seed"."""
    made = {}
    for seed in SEEDS:
        # runs of 48 alone; a run of 24 and a plain rest; two and three chains of runs; panels in twos, threes and alone
        for channels, outputs in ((192, 168), (220, 128), (344, 80), (850, 176)):
            weight, bias, x = normal(seed, outputs, channels) / channels**0.5, normal(seed + 10, outputs), normal(seed + 20, 2, channels, 7, 9)
            for size in (1e-6, 1.0, 1e6):
                made[f"{channels} to {outputs} times {size:g}/{seed}"] = x * size, alone(weight, bias * size)
        weight, x = normal(seed, 128, 336) / 18, normal(seed + 20, 2, 336, 7, 9)
        made[f"positive/{seed}"] = x.relu(), alone(weight, normal(seed + 10, 128))
        loud = x.clone()
        loud[:, [3, 100, 250]] *= 100
        made[f"loud channels/{seed}"] = loud, alone(weight, normal(seed + 10, 128))
        for name, shape in (("block", BlockShape(1, 144, 168, 144, 24, 0, 1, False, 14, 14)), ("gate", BlockShape(2, 168, 208, 168, 8, 42, 1, False, 7, 9)),
                            ("projection", BlockShape(2, 120, 336, 336, 24, 30, 2, True, 15, 13))):
            made[f"{name}/{seed}"] = x, step = make_block(shape, torch.float32, seed=seed)
        (a, a_bias), (b, b_bias), (c, c_bias) = step.a, step.b, step.c  # the last one's: its inner map 4096 times as small, the projection's as it is
        made[f"projection of another size/{seed}"] = x, replace(step, a=(a / 64, a_bias / 64), b=(b / 64, b_bias / 4096), c=(c * 4096, c_bias), se=None)
    weight = normal(4, 128, 336) / 18 * 10 ** torch.linspace(-3, 0, 128)[:, None]
    made["rows of all sizes"] = normal(5, 1, 336, 7, 9), alone(weight, torch.zeros(128))
    weight, bias = normal(0, 168, 336) / 18, normal(1, 168)
    x = normal(2, 1, 336, PIXELS)
    made["in order"] = (x * sizes(-30)).reshape(1, 336, 7, 9), alone(weight, torch.zeros(168))
    made["backwards"] = (x * sizes(-30)).flip(2).reshape(1, 336, 7, 9), alone(weight, torch.zeros(168))
    broken = normal(3, 3, 336, 7, 9)
    made["whole"] = broken, alone(weight, bias)
    broken = broken.clone()
    broken[1] = 0
    broken[2, 5, 3, 4] = float("nan")
    made["zeros and a NaN"] = broken, alone(weight, bias)
    return made


def solve(path: str) -> None:
    """Saves {name: [y with one thread, y with two]}; run in a process of its own."""
    out = {}
    for name, (x, step) in problems().items():
        packed = pack_network([step])
        out[name] = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out[name].append(network(x, packed, backend="cpu"))
    torch.save(out, path)


def run(code: str, pairs: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "REGNET_KERNELS_PAIRS": pairs}, cwd=Path(__file__).resolve().parent,
                          capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> dict[str, dict[str, list[torch.Tensor]]]:
    found = {}
    for pairs in ("always", "never"):
        path = tmp_path_factory.mktemp("pairs") / f"{pairs}.pt"
        done = run(f"import test_pairs; test_pairs.solve({str(path)!r})", pairs)
        assert done.returncode == 0, done.stderr[-3000:]
        found[pairs] = torch.load(path)
    return found


def errors(y: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Root of the mean square of the error over that of the result, largest error over largest result."""
    return float((y.double() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()), relative_error(y, exact)


def test_errors_are_about_those_of_eager(solved, record_property):
    """Means over seeds of the errors over eager PyTorch's: the root mean square, which varies little, and the largest."""
    ratios: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, (x, step) in problems().items():
        if "/" not in name:
            continue
        packed, what = pack_network([step]), name.split("/")[0]
        exact, eager = network(x.double(), pack_network([step], torch.float64), backend="eager"), network(x, packed, backend="eager")
        base = errors(eager, exact)
        for pairs, results in solved.items():
            found = errors(results[name][0], exact)
            ratios.setdefault(what, {}).setdefault(pairs, []).append((found[0] / base[0], found[1] / base[1], factor_for(packed)))
    for what, by in ratios.items():
        means = {pairs: [math.exp(sum(map(math.log, column)) / len(found)) for column in zip(*found)] for pairs, found in by.items()}
        for pairs, (rms, largest, factor) in means.items():
            line = f"{what}, {pairs}: rms {rms:.2f}, largest {largest:.2f} times eager's"
            record_property(f"errors: {what}, {pairs}", line)
            print(line)
            # EAGER_FACTOR for one convolution, more where the 3x3 goes by Winograd. The largest of few elements is a noisy figure.
            assert rms <= factor, line
            assert largest <= 1.5 * factor, line
        assert means["always"][0] <= 1.7 * means["never"][0], (what, means)


def test_pairs_are_taken_where_they_are_forced_and_the_cpu_has_them(solved):
    by_pairs = any(not torch.equal(solved["always"][name][0], y[0]) for name, y in solved["never"].items())
    assert by_pairs == (CPU_INFO.chosen in ("avx512", "avx512_bf16"))


def test_a_pixel_does_not_depend_on_others_nor_on_threads(solved):
    for results in solved.values():
        one, two = results["in order"]
        assert torch.equal(one, two)
        assert torch.equal(one.flatten(2), results["backwards"][0].flatten(2).flip(2))
        for name, (one, two) in results.items():
            # A gate comes from sums over pixels, whose order depends on the threads. All else has the same bits.
            assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(two)) or "gate" in name or "projection" in name, name


def test_small_pixels_are_not_lost(solved):
    x, step = problems()["in order"]
    exact = network(x.double(), pack_network([step], torch.float64), backend="eager").flatten(2)
    for results in solved.values():
        y = results["in order"][0].flatten(2)
        # Pixels are scaled up by 2^48 at most, so smaller ones have errors of that size, relative to the weights' of 1 / 18.
        allowed = 1e-5 * exact.abs().amax(1) + 2e-5 * 2.0**-48 * step.a[0].abs().max()
        assert ((y - exact).abs().amax(1) <= allowed).all()


def test_small_rows_lose_in_proportion(solved):
    """Pixels are brought to the size of the whole matrix. An output whose weights are smaller has an error of that size: small beside the layer's
    results, not beside its own."""
    x, step = problems()["rows of all sizes"]
    exact = network(x.double(), pack_network([step], torch.float64), backend="eager")
    weight = step.a[0].flatten(1)
    smaller = weight.pow(2).mean().sqrt() / weight[kept(128)].pow(2).mean(1).sqrt()
    for pairs, results in solved.items():
        errors_of_rows = (results["rows of all sizes"][0] - exact).pow(2).mean((0, 2, 3)).sqrt() / exact.pow(2).mean((0, 2, 3)).sqrt()
        assert (errors_of_rows <= 1e-6 * (1 + smaller * (pairs == "always"))).all()


def test_zeros_give_the_bias_and_a_nan_stays_where_it_is(solved):
    x, step = problems()["zeros and a NaN"]
    bias = step.a[1][kept(step.a[1].numel())]
    for results in solved.values():
        y, whole = results["zeros and a NaN"][0], results["whole"][0]
        assert torch.equal(y[0], whole[0]) and torch.equal(y[1], bias[:, None, None].expand(-1, 7, 9))
        # the 3x3 of zeros and ones multiplies the pixels around by 0
        around = torch.zeros(7, 9, dtype=torch.bool)
        around[2:5, 3:6] = True
        assert y[2][:, around].isnan().all() and torch.equal(y[2][:, ~around], whole[2][:, ~around])


def test_other_values_of_the_variable_are_refused():
    code = "import torch, regnet_kernels as k; k.conv_bn_act(torch.randn(1, 8, 4, 4), torch.randn(8, 8, 1, 1), backend='cpu')"
    done = run(code, "sometimes")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "REGNET_KERNELS_PAIRS=sometimes" in last and "always, never" in last, last
    assert run(code, "").returncode == 0  # as if it were not set

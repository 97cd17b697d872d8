"""Tuning with a stub for the clock: the best configuration is found, kept and taken by the next launch."""

import sys
from pathlib import Path

import pytest
import torch
from regnet_kernels import ConvStep, HeadStep, network, pack_plain, testing, tuning
from regnet_kernels.backends.gpu import choice
from regnet_kernels.backends.triton import configs
from regnet_kernels.backends.triton.machine import INTERPRETER, Machine, pretend
from regnet_kernels.backends.triton.shapes import DirectShape, GateShape, GroupedShape, PointwiseShape
from regnet_kernels.tuning import launches as made
from regnet_kernels.tuning import table, tuner

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import gpu_tune  # noqa: E402

SHAPES = [PointwiseShape(2, 5, 4, 24, 40, 1, 1, 0, 16, 2), PointwiseShape(1, 5, 4, 16, 24, 1, 0, 1), GroupedShape(1, 2, 3, 24, 24, 2, 1),
          GroupedShape(1, 3, 3, 16, 8), DirectShape(2, 5, 4, 3, 16, 3, 2), GateShape(3, 20, 40, 10, 1)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REGNET_KERNELS_CACHE_DIR", str(tmp_path / "cache"))
    tuning.forget()
    yield tmp_path / "cache"
    tuning.forget()


def clock(cost, cudnn=1e6):
    """A timer that asks `cost` about the configuration of the launch; another backend's takes `cudnn` ms."""
    def time(call):
        with tuning.watch() as seen:
            call()
        return float(cost(seen[0].config)) if seen else cudnn

    return time


def taken(shape, dtype=torch.float16):
    with tuning.watch() as seen:
        made.make(shape, dtype, CPU)()
    return seen[0].config, seen[0].source


def test_the_best_is_kept_and_the_next_launch_takes_it(folder):
    shape = PointwiseShape(2, 3, 3, 16, 16)
    start = configs.heuristic(INTERPRETER, torch.float16, shape)
    assert taken(shape) == (start, "heuristic") and not folder.exists()  # never unasked
    wanted = start._replace(rows=start.rows * 4)
    found = tuning.tune(shape, torch.float16, CPU, timer=clock(lambda config: 1 + abs(config.rows - wanted.rows) + config.stages))
    assert found.config.rows == wanted.rows and found.ms < found.heuristic_ms and found.measured > 4
    assert taken(shape) == (found.config, "tuned")
    assert taken(shape._replace(images=1))[1] == taken(shape, torch.bfloat16)[1] == "heuristic"
    tuning.forget()  # as a new process
    assert taken(shape) == (found.config, "tuned")
    with tuning.watch() as seen, pretend(Machine("sm_90", 132)):
        made.make(shape, torch.float16, CPU)()
    assert seen[0].source == "heuristic"  # what was measured here says nothing about another card
    assert "(heuristic)" in str(seen[0])
    again = tuning.tune(shape, torch.float16, CPU, timer=None)
    assert again.measured == 0 and again.config == found.config


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kernel)
def test_every_configuration_that_is_tried_computes_the_same(shape, monkeypatch):
    monkeypatch.setattr(tuner, "ROUNDS", 1)
    start = configs.heuristic(INTERPRETER, torch.float16, shape)
    found = tuning.tune(shape, torch.float16, CPU, timer=clock(lambda config: 2 - 0.5 * (config != start)))
    assert found.failed == 0 and found.measured > 4 and found.config != start
    assert taken(shape) == (found.config, "tuned")


def test_a_gain_within_noise_and_a_wrong_result_do_not_count(monkeypatch):
    shape = SHAPES[1]
    start = configs.heuristic(INTERPRETER, torch.float16, shape)
    found = tuning.tune(shape, torch.float16, CPU, timer=clock(lambda config: 1 - 0.01 * (config != start)))
    assert found.config == start and taken(shape) == (start, "tuned")
    plain = made.make

    def wrong(*args):
        def call():
            with tuning.watch() as seen:
                y, = plain(*args)()
            return (y if seen and seen[0].config == start else y.roll(1, 2),)

        return call

    monkeypatch.setattr(made, "make", wrong)
    found = tuning.tune(shape, torch.float16, CPU, timer=clock(lambda config: 2 - (config != start)), again=True)
    assert found.config == start and found.measured == 1 and found.failed > 3


def test_the_backend_that_was_faster_runs_the_layer():
    shape = GroupedShape(1, 3, 3, 16, 8)
    slow, quick = clock(lambda config: 2, cudnn=3.0), clock(lambda config: 2, cudnn=1.0)
    assert choice.choose(shape, torch.float16, CPU)[:2] == ("triton", "heuristic")
    for timer, wanted in ((slow, "triton"), (quick, "cudnn"), (clock(lambda config: 2, cudnn=1.99), "triton")):
        found = tuning.tune(shape, torch.float16, CPU, timer=timer, again=True)
        assert found.failed == 0 and found.others == {"cudnn": timer(lambda: None)}
        chosen = choice.choose(shape, torch.float16, CPU)
        assert chosen[:2] == (wanted, "tuned") and "ms, " in chosen.reasons["cudnn" if wanted == "triton" else "triton"]
    tuning.forget()  # as a new process
    assert choice.choose(shape, torch.float16, CPU).source == "tuned"
    assert choice.choose(shape, torch.float16, CPU, "grouped=triton")[:2] == ("triton", "forced")


def test_what_gpu_tune_plans_is_what_a_network_launches():
    def block(*shape):
        return testing.make_block(testing.BlockShape(1, *shape, 8, 8), torch.float32)[1]

    stem = ConvStep(torch.randn(32, 3, 3, 3), torch.randn(32), 2, 1, 1, "relu")
    packed = pack_plain([stem, block(32, 48, 48, 8, 8, 2, True), block(48, 48, 48, 24, 0, 1, False), HeadStep(torch.randn(10, 48), torch.randn(10))],
                        torch.float16)
    with tuning.watch() as seen:
        network(torch.randn(2, 3, 17, 17).half(), packed, backend="triton")
    assert [(one.shape.kernel, one.shape) for one in seen] == [(shape.kernel, shape) for shape, _ in gpu_tune.launches(packed.specs, 2, 17)]
    assert {one.source for one in seen} == {"heuristic"}


def test_a_broken_cache_costs_a_warning_and_nothing_else(folder):
    folder.mkdir()
    tuning.cache_file(tuning.identity(CPU)).write_text("{")
    with pytest.warns(RuntimeWarning, match="set aside"):
        assert taken(SHAPES[1])[1] == "heuristic"
    assert taken(SHAPES[1])[1] == "heuristic" and table._tables == {-1: {}}

"""The suites over layer shapes: shapes as data, our clock, rows in files, resuming, comparing, the roofline, what is refused."""

import json

import numpy as np
import pytest
import regnet_kernels
import torch

import regnet
from regnet.bench import ops, suite
from regnet.bench.blocks import BLOCK_PEERS, measure_block
from regnet.bench.compare import compare
from regnet.bench.machine import MIB, Bandwidth, measure_bandwidth
from regnet.bench.profile import Phase, profile, seconds_by_op
from regnet.bench.rows import SHAPE_COLUMNS, derive, load_rows, rates_from, rates_text, save_rows
from regnet.bench.shapes import OpShape, StepShape, distinct_steps, network_steps
from regnet.bench.suite import ShapePlan, summary
from regnet.bench.suite_tables import best_peer, row_text
from regnet.cli import main
from regnet.models import model_config

Y_BLOCK = StepShape("block", 2, 8, 16, 24, 24, 8, 2, 4, True)
TINY = ("--models", "regnetx_200mf", "--resolution", "32", "--threads", "1", "--rounds", "1", "--seconds", "0.001",
        "--peers", "channels_last")  # fmt: skip
PEAK, RATES = 100.0, Bandwidth({MIB: 50.0, 64 * MIB: 10.0})


def row(kind="1x1", peer="ours", ms=2.0, spread=0.01, share=0.5, **changes):
    made = {
        "suite": "ops", "kind": kind, "batch": 1, "side": 14, "c_in": 64, "c_mid": 0, "c_out": 64, "group_width": 0, "stride": 1,
        "fused": "", "activation": "relu", "dtype": "float32", "peer": peer, "median_ms": ms, "calls": 10, "gflop": 0.1, "bytes": 4 * MIB,
        "call_ms": None,
        "p20_ms": ms and ms * (1 - spread), "p80_ms": ms and ms * (1 + spread), "best_ms": ms, "note": "", "isa": "avx2", "threads": 2,
    }  # fmt: skip
    return derive(made | changes, PEAK, RATES) | {"floor_share": share}


@pytest.mark.parametrize("name", ["regnetx_200mf", "regnety_1.6gf", "regnety_32gf"])
def test_shapes_hold_every_multiply_add_and_weight_of_the_network(name):
    steps = network_steps(model_config(name), 3, 224)
    config, cost = model_config(name), regnet.complexity(name)
    biases = 1000 + sum(spec.w_inner + spec.se_width for spec in config.blocks() if spec.se_width)
    assert sum(step.macs for step in steps) == 3 * (cost.flops - biases)
    norms = sum(spec.w_out for spec in config.blocks() if spec.has_proj)  # a projection has two folded with c's: one bias
    scales = config.stem_width + sum(2 * spec.w_inner + spec.w_out for spec in config.blocks())
    assert sum(op.weight_elements for step in steps for op in step.ops.values()) == cost.params - scales - 2 * norms
    assert [step.side for step in steps][::len(steps) - 1] == [224, 7]


def test_bytes_are_input_weights_and_output_once():
    conv = OpShape("1x1", 2, 4, 8, 16, shortcut="projection", c_short=6, short_stride=2, gate=True)
    assert conv.macs == 2 * 16 * 16 * (8 + 6) and conv.fused == "projection of 6 stride 2 + gate"
    assert conv.bytes(4) == 4 * (32 * 8 + 16 * (8 + 6 + 1) + 32 * (16 + 6)) + 4 * 2 * 8
    grouped = OpShape("3x3", 1, 5, 16, 16, group_width=8, stride=2)
    assert grouped.side_out == 3 and grouped.macs == 9 * 9 * 16 * 8 and grouped.bytes(2) == 2 * (25 * 16 + 16 * 73 + 9 * 16)


def test_distinct_shapes_come_once_the_heaviest_first_and_their_shares_sum_to_one():
    names = ["regnetx_400mf", "regnety_400mf", "resnet_50"]
    work, uses = distinct_steps(names, [1, 2], 224, lambda shape: shape.macs, per_op=True)
    wanted = [op for ops_ in work.values() for op in ops_.values()]
    assert len(wanted) == len(set(wanted)) and set(wanted) == set(uses)
    assert sum(use.share for use in uses.values()) == pytest.approx(1)
    stem = next(use for shape, use in uses.items() if shape.kind == "stem" and shape.batch == 1)
    assert stem.models == ("regnetx_400mf", "regnety_400mf")  # a ResNet's is left to PyTorch
    blocks, uses = distinct_steps(names, [1], 224, lambda shape: shape.macs, per_op=False)
    shares = [uses[step].share for step in blocks]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("shape", [Y_BLOCK, StepShape("block", 3, 28, 16, 16, 16, 16),
                                   StepShape("block", 1, 112, 32, 48, 48, 48, 2, projection=True),  # in strips, of one group
                                   StepShape("stem", 1, 32, 3, 16, stride=2),
                                   StepShape("head", 2, 4, 16, 10, activation="none")])  # fmt: skip
def test_our_clock_and_the_peers_time_the_same_function(shape):
    step = ops.Step(shape, torch.float32)
    assert ops._our_error(step) < 1e-5
    seconds = seconds_by_op(shape, profile(step.packed, step.x, 3))
    assert list(seconds) == list(shape.ops) and all((found > 0).all() and found.shape == (3,) for found, _ in seconds.values())
    peers = [peer for name, peer in ops.OP_PEERS.items() if name != "compile"]
    rows = ops.measure_step(shape, shape.ops, peers, torch.float32, 1, 0.001)
    assert not [found["note"] for found in rows if found["note"]] and all(found["median_ms"] > 0 for found in rows)
    convolutions = sum(op.kind in ops.CONVOLUTIONS for op in shape.ops.values())
    assert len(rows) == 2 * len(shape.ops) + convolutions


def test_phases_that_do_not_add_up_are_an_error():
    good = [Phase(0, work, Y_BLOCK.ops[name].macs, np.ones(2)) for work, name in ((1, "a"), (2, "b"), (4, "se"), (1, "c"))]
    assert set(seconds_by_op(Y_BLOCK, good)) == {"a", "b", "se", "c"}
    with pytest.raises(RuntimeError, match="multiply-adds in b of"):
        seconds_by_op(Y_BLOCK, [good[0], Phase(0, 2, 1.0, np.ones(2)), *good[2:]])
    with pytest.raises(RuntimeError, match="a phase '9'"):
        seconds_by_op(Y_BLOCK, [*good, Phase(0, 9, 1.0, np.ones(2))])


@pytest.mark.compiles
def test_a_peer_that_fails_or_is_wrong_gets_a_row_with_the_reason():
    def wrong(module, inputs):
        return lambda: torch.zeros_like(module(*inputs))

    def fails(module, inputs):
        raise RuntimeError("made to fail")

    shape = StepShape("block", 1, 6, 8, 8, 8, 8)
    peers = [ops.OP_PEERS["ours"], ops.OP_PEERS["compile"], ops.Peer("wrong", "", "", wrong), ops.Peer("fails", "", "", fails)]
    rows = {found["peer"]: found for found in ops.measure_step(shape, {"a": shape.ops["a"]}, peers, torch.float32, 1, 0.001)}
    assert rows["compile"]["median_ms"] > 0 and rows["compile"]["rel_err"] < 1e-5
    assert rows["wrong"]["median_ms"] is None and rows["wrong"]["note"] == "wrong result: relative error 1.0e+00 against eager"
    assert rows["fails"]["note"] == "failed: RuntimeError: made to fail"


@pytest.mark.peers
def test_a_block_in_every_runtime():
    peers = [peer for name, peer in BLOCK_PEERS.items() if name != "compile" and peer.missing(torch.float32) is None]
    rows = measure_block(Y_BLOCK, peers, torch.float32, 1, 1, 0.001)
    assert not [found["note"] for found in rows if found["note"]]
    assert all(found["rel_err"] < 1e-4 and found["kind"] == "Y" and found["median_ms"] > 0 for found in rows)


def test_figures_of_a_row():
    found = row(ms=4.0)
    assert (found["gflops"], found["share_of_peak"], found["gbytes_s"]) == pytest.approx((25.0, 0.25, 4 * MIB / 4e6))
    assert found["floor_ms"] == 1.0 and found["floor_over_ms"] == 0.25  # 0.1 GF at 100 GFLOP/s; 4 MiB take 0.08 ms
    assert row(bytes=128 * MIB)["floor_ms"] == pytest.approx(128 * MIB / 10e6)  # no cache holds it
    assert RATES.at(10) == 50.0 and RATES.memory == 10.0 and Bandwidth({1: 5.0, 2: 7.0}).at(1) == 7.0
    assert RATES.merged(Bandwidth({MIB: 60.0})).rates == {MIB: 60.0, 64 * MIB: 10.0} and rates_from(rates_text(RATES)) == RATES
    assert all(rate > 0 for rate in measure_bandwidth(1, (MIB,), 0.01).rates.values())


def test_a_file_gives_back_its_rows(tmp_path):
    rows = [row(), row(peer="onednn", ms=None, note='failed: "a, b"')]
    save_rows(tmp_path / "rows.csv", rows, SHAPE_COLUMNS)
    again = load_rows(tmp_path / "rows.csv")
    for before, after in zip(rows, again, strict=True):
        wanted = {name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for name, value in before.items()}
        assert {name: after[name] for name in wanted} == wanted
    assert compare(again[:1], rows[:1]).rows[0]["ratio"] == 1
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no column batch, dtype, median_ms, peer, threads"):
        load_rows(tmp_path / "bad.csv")
    text = (tmp_path / "rows.csv").read_text().splitlines()
    (tmp_path / "torn.csv").write_text("\n".join([*text[:2], text[2].replace("ops,1x1,1", "ops,1x1,one")]))
    with pytest.raises(ValueError, match="torn.csv, line 3: invalid literal"):
        load_rows(tmp_path / "torn.csv")


def test_comparison_of_shapes():
    old = [row(ms=2.0), row(ms=2.0, side=7), row("3x3", ms=1.0), row(peer="onednn", ms=3.0), row(ms=1.0, side=28)]
    new = [row(ms=1.0), row(ms=2.08, side=7), row("3x3", ms=4.0), row(peer="onednn", ms=None), row(ms=1.0, side=56)]
    found = compare(old, [entry | {"isa": "baseline", "threads": 1} for entry in new])
    assert [entry["verdict"] for entry in found.rows] == ["faster", "same", "slower"]
    assert {(kind, peer): mean for kind, peer, _, mean in found.means} == {
        ("1x1", "ours"): pytest.approx((0.5 * 1.04) ** 0.5), ("3x3", "ours"): pytest.approx(4.0),
    }  # fmt: skip
    assert (found.only_old, found.only_new) == (2, 1)
    assert found.differences == ["isa: avx2 then, baseline now", "threads: 2 then, 1 now"]
    with pytest.raises(ValueError, match="nothing in common"):
        compare(old, [entry | {"suite": "blocks"} for entry in new])


def test_summary_weighs_by_floor_time_and_takes_a_call_off():
    rows = [row(ms=2.0, share=0.3), row(peer="onednn", ms=4.0, share=0.3, call_ms=1.0), row("se", ms=1.0, share=0.1),
            row("se", peer="onednn", ms=3.0, share=0.1, call_ms=2.0)]  # fmt: skip
    one, squeeze, everything = summary(rows)
    assert one["peers"]["ours"]["floor_over_time"] == pytest.approx(0.5) and one["floor_share"] == 0.3
    assert one["peers"]["onednn"]["over_ours"] == 2.0 and one["peers"]["onednn"]["over_ours_net"] == 1.5
    assert squeeze["peers"]["onednn"]["over_ours_net"] is None  # most of it is the call
    assert everything["kind"] == "all" and everything["peers"]["ours"]["floor_over_time"] == pytest.approx(0.4 / (0.3 * 2 + 0.1))
    assert best_peer({entry["peer"]: entry for entry in rows[:2]})["peer"] == "onednn" and row_text(rows[0]) == "1x1 14x14, 64 > 64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "layers"}, "suite 'layers'"), ({"batches": ()}, "no batch size"), ({"batches": (0,)}, "batch size 0"),
        ({"dtype": "float16"}, "dtype 'float16'"), ({"peers": ("eager",)}, "unknown peer 'eager'"), ({"minutes": -1.0}, "positive"),
        ({"models": ("regnety_401mf",)}, "regnety_400mf"), ({"resolution": 16}, "resolution 16"), ({"rounds": 0}, "rounds 0"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ShapePlan(**{"suite": "ops", **change})


def test_a_run_that_was_interrupted_goes_on_and_measures_nothing_twice(tmp_path, monkeypatch, capsys):
    measured, measure = [], ops.measure_step

    def watched(shape, *rest):
        measured.append(shape)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(shape, *rest)

    monkeypatch.setattr(suite, "measure_step", watched)
    command = ["bench", "ops", *TINY, "--csv", str(tmp_path / "ops.csv")]
    assert main(command) == 130
    assert "interrupted" in capsys.readouterr().out
    first = load_rows(tmp_path / "ops.csv")
    assert first and len({found["date"] for found in first}) <= 2
    assert main([*command, "--json", str(tmp_path / "ops.json"), "--plot", str(tmp_path / "roof.png")]) == 0
    out = capsys.readouterr().out
    assert len(measured) == len(set(measured)) + 1 and "100.0% of the floor time" in out
    rows = load_rows(tmp_path / "ops.csv")
    assert [found["date"] for found in rows[: len(first)]] == [found["date"] for found in first]
    results = json.loads((tmp_path / "ops.json").read_text())
    assert results["coverage"] == pytest.approx(1) and results["shapes"] == len(rows) / 2 and results["kept_rows"] == len(first)
    assert {found["build"] for found in rows} == {results["provenance"]["build"]} and rows[0]["machine"] and rows[0]["isa"] != "none"
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "ops", "--compare", str(tmp_path / "ops.csv"), str(tmp_path / "ops.json")]) == 0
    assert f"0 faster, 0 slower, {len(rows)} same" in capsys.readouterr().out
    # nothing is added to another machine's rows
    save_rows(tmp_path / "ops.csv", [found | {"isa": "sve"} for found in rows], SHAPE_COLUMNS)
    assert main(command) == 1
    assert "holds results with isa sve" in capsys.readouterr().err


def test_the_budget_ends_a_run_between_steps(tmp_path, capsys):
    command = ["bench", "blocks", *TINY, "--csv", str(tmp_path / "blocks.csv")]
    assert main([*command, "--minutes", "0.0001"]) == 0
    assert "were left for want of time" in capsys.readouterr().out and not (tmp_path / "blocks.csv").exists()


def test_another_instruction_set_runs_in_a_process_that_has_it(tmp_path):
    command = ["bench", "ops", *TINY, "--isa", "baseline", "--csv", str(tmp_path / "base.csv")]
    assert main(command) == 0
    rows = load_rows(tmp_path / "base.csv")
    assert rows and {found["isa"] for found in rows} == {"baseline"}


def test_instruction_sets_that_cannot_run_and_options_before_the_suite_are_refused(capsys):
    missing = {"avx512", "avx512_bf16"} - set(regnet_kernels.environment()["isa"]["supported"])
    for isa in missing:
        assert main(["bench", "ops", *TINY, "--isa", isa]) == 1
        assert f"--isa {isa} cannot run on this machine: use one of baseline" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "--threads", "1", "ops"])
    assert "give --threads after 'ops'" in capsys.readouterr().err
    for name in ("ops", "blocks", "models"):
        with pytest.raises(SystemExit):
            main(["bench", name, "--help"])
        assert "regnet bench" in capsys.readouterr().out.split("examples:")[1]

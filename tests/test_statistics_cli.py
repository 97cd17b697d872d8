"""`regnet edf`, `fit` and `bootstrap` as a user runs them, on made-up results of which the answer is known."""

import json

import numpy as np
import pytest

from regnet.cli import main
from regnet.models import AnyNetConfig, RegNetConfig
from regnet.records import config_to_json, write_records

RNG = np.random.Generator(np.random.PCG64(0))


def network(depth, w_m=2.5):
    """A RegNet of four stages, made wider with depth so that flops differ."""
    return RegNetConfig(int(depth), 48, 40.0, round(float(w_m), 3), 8)


def results(n, space, worst):
    """Models whose error is least at depth 20 and at w_m 2.5."""
    depths, w_ms = RNG.integers(14, 27, n), RNG.uniform(2.2, 2.8, n)
    errors = 38 + worst * RNG.random(n) + 0.02 * (depths - 20) ** 2 + 3 * np.abs(w_ms - 2.5)
    return [
        {"config": network(d, w), "space": space, "error": round(float(e), 2), "flops": int(20_000_000 * d)}
        | {"runtime_ms": float(0.126 * d + 20 * (0.02 * d) ** 0.5)}
        for d, w, e in zip(depths, w_ms, errors, strict=True)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_records("good.jsonl", [*results(120, "good", 1), {"config": network(20), "error": None, "space": "good"}])
    write_records("bad.jsonl", results(100, "bad", 8))
    write_records("both.jsonl", [*results(120, "good", 1), *results(100, "bad", 8)])
    write_records("untrained.jsonl", [{"config": network(20)}])
    (tmp_path / "torn.jsonl").write_text('{"schema": 1, "error": 1}\n{"schema": 1, "error": }\n{"schema": 1, "error": 1}\n')
    return tmp_path


def as_json(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["edf", "fit", "bootstrap", "compare"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and f"regnet {command}" in capsys.readouterr().out.split("example")[1]


def test_edf_of_two_files(capsys, folder):
    assert main(["edf", "good.jsonl", "bad.jsonl", "--out", "edf.svg", "--efficiency", "best.png", "--tolerance", "0.02"]) == 0
    text = capsys.readouterr().out
    for words in ("P(A better)", "best of 32", "A dominates", "left out, as they have no error: 1 records"):
        assert words in text
    assert (folder / "edf.svg").stat().st_size > 10_000 and (folder / "best.png").read_bytes().startswith(b"\x89PNG")
    found = as_json(capsys, "edf", "good.jsonl", "bad.jsonl", "--names", "G,B")
    assert [(space["name"], space["n"]) for space in found["spaces"]] == [("G", 120), ("B", 100)] and found["without_error"] == 1
    (pair,) = found["pairs"]
    assert pair["p_better"] > 0.8 and pair["ks"]["pvalue"] < 1e-6 and pair["a_dominates"] > 0.5 > pair["b_dominates"]
    by_space = as_json(capsys, "edf", "both.jsonl", "--by", "space", "--band", "none")
    assert [(space["name"], space["n"]) for space in by_space["spaces"]] == [("good", 120), ("bad", 100)]


def test_bootstrap_finds_what_was_built_in(capsys, folder):
    assert main(["bootstrap", "good.jsonl", "--param", "depth,w_m", "--out", "best.svg"]) == 0
    assert "left out" in capsys.readouterr().out and (folder / "best.svg").stat().st_size > 10_000
    found = as_json(capsys, "bootstrap", "good.jsonl", "--param", "depth,w_m")
    depth, w_m = found["parameters"]
    assert depth["low"] <= 20 <= depth["high"] and abs(w_m["median"] - 2.5) < 0.15 and depth["n"] == found["models"] == 120
    regimes = as_json(capsys, "bootstrap", "good.jsonl", "--param", "d", "--regimes", "3", "--out", "trend.png")
    assert len(regimes["parameters"]) == 3 and regimes["parameters"][0]["flops"] < regimes["parameters"][2]["flops"]


def test_fit_of_names_and_configurations(capsys, folder):
    rng_widths = AnyNetConfig((1, 1, 1, 1), (64, 32, 128, 16), group_widths=8)
    (folder / "config.json").write_text(json.dumps(config_to_json(rng_widths)))
    found = as_json(
        capsys, "fit", "regnetx_400mf", "regnety_[13]*gf", "config.json", json.dumps(config_to_json(network(20))), "--out", "w.svg"
    )
    names = ["regnetx_400mf", "regnety_1.6gf", "regnety_3.2gf", "regnety_12gf", "regnety_16gf", "regnety_32gf", "config", "config"]
    assert [fit["name"] for fit in found] == names
    assert (
        all(fit["e_fit"] < 1e-6 for fit in found if fit["name"] != "config") and found[-2]["e_fit"] > 0.1 and found[-1]["e_fit"] < 1e-6
    )
    assert (folder / "w.svg").stat().st_size > 10_000
    assert main(["fit", "regnetx_400mf"]) == 0
    assert "e_fit" in capsys.readouterr().out


def test_fit_of_a_file(capsys, folder):
    write_records("some.jsonl", results(20, "x", 1))
    write_records("plain.jsonl", [{"config": network(d), "name": f"net[{d}]"} for d in range(10, 28)])
    found = as_json(capsys, "fit", "some.jsonl", "--out", "errors.png")
    assert len(found) == 20 and found[0]["name"] == "some:1" and 38 < found[0]["error"] < 45
    assert main(["fit", "plain.jsonl", "--out", "population.png"]) == 0
    assert "net[10]" in capsys.readouterr().out and (folder / "population.png").exists() and (folder / "errors.png").exists()


def test_trends(capsys, folder):
    found = as_json(capsys, "fit", "--trend", "acts", "regnetx*", "--out", "acts.svg")
    (group,) = found["groups"]
    assert found["form"] == "sqrt" and group["models"] == 12 and 5 < group["coefficients"][0]["value"] < 6.5
    found = as_json(capsys, "fit", "--trend", "runtime", "good.jsonl")
    assert found["groups"][0]["formula"] == "6.3 F + 20 sqrt(F)" and found["groups"][0]["r2"] > 0.999
    assert main(["fit", "--trend", "params", "untrained.jsonl", "good.jsonl", "bad.jsonl"]) == 1
    assert "untrained: x has 1 values: at least 3 are needed" in capsys.readouterr().err


def test_runtime_trend_of_a_benchmark(capsys, folder):
    """The file of `regnet bench --json` and of `regnet compare --out`."""
    latency = [
        {"peer": peer, "batch": batch, "multiply_adds": int(1e9 * f), "median_ms": slower * batch * (6.3 * f + 20 * f**0.5)}
        for peer, slower in (("ours", 1), ("eager", 3)) for batch in (1, 16) for f in (0.2, 0.4, 1.6, 3.2)
    ]  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"schema": "regnet-bench/1", "latency": latency}))
    found = as_json(capsys, "fit", "--trend", "runtime", "run.json", "--out", "runtime.svg")
    assert [(group["name"], group["formula"]) for group in found["groups"]] == [
        ("ours, batch 1", "6.3 F + 20 sqrt(F)"), ("ours, batch 16", "101 F + 320 sqrt(F)"),
    ]  # fmt: skip
    assert len(as_json(capsys, "fit", "--trend", "runtime", "run.json", "--peers", "ours,eager")["groups"]) == 4
    assert main(["compare", "--no-measure", "--models", "regnetx", "--out", "compare.json"]) == 0
    capsys.readouterr()
    assert as_json(capsys, "fit", "--trend", "acts", "compare.json")["groups"][0]["models"] == 12
    assert main(["fit", "--trend", "runtime", "compare.json"]) == 1
    assert "compare.json holds no model with flops and runtime" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edf", "nowhere.jsonl"), "no file of records at nowhere.jsonl"),
        (("edf", "torn.jsonl"), "torn.jsonl, line 2: not JSON"),
        (("edf", "untrained.jsonl"), "holds 1 records and none has an error"),
        (("edf", "good.jsonl", "bad.jsonl", "--names", "A"), "1 names for 2 files"),
        (("edf", "good.jsonl", "good.jsonl"), "two curves would have one name"),
        (("edf", "torn.jsonl", "--out", "edf.doc"), "unknown suffix '.doc'"),
        (("bootstrap", "good.jsonl", "--param", "w_x"), "no record has the number 'w_x'; there are "),
        (("bootstrap", "good.jsonl", "--param", ","), "--param names no parameter"),
        (("bootstrap", "good.jsonl", "--param", "w_m", "--regimes", "90"), "90 regimes of 120 models: each needs 8; use at most 15"),
        (("fit", "regnetz*"), "no model matches 'regnetz*'"),
        (("fit", "nowhere.json"), "no configuration at nowhere.json"),
        (("fit", '{"type": "vit"}'), "config of type 'vit'"),
        (("fit", "torn.jsonl"), "torn.jsonl, line 2: not JSON"),
        (("fit", "regnetx_400mf", "--form", "sqrt"), "give --trend"),
        (("fit", "--trend", "runtime", "regnetx*"), "measure with `regnet bench --json run.json`"),
        (("fit", "--trend", "runtime", "nowhere.json"), "no results file at nowhere.json"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_1(arguments, message, capsys):
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"regnet {arguments[0]}: error: ") and message in captured.err

"""The `regnet` command as a user runs it: in a process of its own where that matters, through `main` where it does not."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from regnet.cli import main

COMMANDS = ("list", "info", "parity", "bench", "tune", "convert", "env")
TINY = ("--resolution", "64", "--rounds", "1", "--block-seconds", "0.005", "--threads", "1")


def regnet(*arguments, folder):
    return subprocess.run([sys.executable, "-m", "regnet.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"regnet {command}" in capsys.readouterr().out.split("example")[1]


def test_list_and_info_as_json(capsys):
    assert main(["list", "regnety*", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 12 and listed[0].keys() == {"name", "flops", "params", "acts"}
    assert main(["info", "regnet_y_400mf", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["name"] == "regnety_400mf" and info["config"]["widths"] == [48, 104, 208, 440] and "regnety_004" in info["aliases"]
    assert info["flops"] == next(entry["flops"] for entry in listed if entry["name"] == "regnety_400mf")
    assert main(["info", "RegNetY-400MF"]) == 0
    assert "48  104  208  440" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "resnest*"), "no model matches 'resnest*'"),
        (("info", "regnety_401mf"), "did you mean regnety_400mf"),
        (("parity", "regnety_9gf"), "unknown model 'regnety_9gf'"),
        (("parity", "regnety_400mf", "--resolution", "8"), "resolution 8 is too small"),
        (("parity", "regnety_400mf", "--images", "nowhere.jpg"), "no image file or folder at nowhere.jpg"),
        (("parity", "regnety_400mf", "--checkpoint", "nowhere.pt"), "no checkpoint at nowhere.pt"),
        (("parity", "regnetx_200mf", "--source", "torchvision"), "torchvision has no model 'regnet_x_200mf'"),
        (("bench", "--models", "resnest_50"), "unknown model 'resnest_50'"),
        (("bench", "--peers", "tensorrt"), "unknown peer 'tensorrt'"),
        (("bench", "--compare", "nowhere.json"), "no results file at nowhere.json"),
        (("bench", "--plot", "bars.doc"), "unknown suffix '.doc'"),
        (("bench", "ops", "--models", "resnest_50"), "unknown model 'resnest_50'"),
        (("bench", "ops", "--peers", "openvino"), "unknown peer 'openvino'"),
        (("bench", "blocks", "--plot", "roof.doc"), "unknown suffix '.doc'"),
        (("bench", "ops", "--compare", "nowhere.csv"), "no results file at nowhere.csv"),
        (("convert", "nowhere.pt", "out.pt", "--to", "timm"), "no checkpoint at nowhere.pt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_1(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"regnet {arguments[0]}: error: ") and message in captured.err


def test_a_process_of_its_own_fails_without_a_traceback(tmp_path):
    done = regnet("info", "regnety_401mf", folder=tmp_path)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1


def test_wrong_usage_is_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--rounds", "0"])
    assert stop.value.code == 2 and "0 is not a positive number" in capsys.readouterr().err


@pytest.mark.peers
def test_bench_from_photographs_to_files(capsys, tmp_path):
    run = ("bench", "--models", "regnety_004", "--batch", "1,2", "--peers", "eager,onnxruntime", "--sources", "timm,torchvision", *TINY)
    done = regnet(*run, "--json", "run.json", "--csv", "run.csv", "--plot", "bars.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("Parity", "regnety_400mf", "torchvision", "Runtime", "floor", "speed-up", "astronaut.png", "random weights"):
        assert words in done.stdout
    results = json.loads((tmp_path / "run.json").read_text())
    assert results["schema"] == "regnet-bench/1" and results["machine"]["peak"]["gflops"] > 0 and results["machine"]["cpu"]
    assert results["versions"]["torch"] == torch.__version__.split("+")[0] or results["versions"]["torch"] == torch.__version__
    assert len(results["images"]) == 5 and not any("/" in name for name in results["images"])
    assert {(row["source"], row["batch"]) for row in results["speedups"]} == {(s, b) for s in ("timm", "torchvision") for b in (1, 2)}
    assert all(row["passed"] and row["top1_agreement"] == 1.0 for row in results["parity"])
    rows = list(csv.DictReader((tmp_path / "run.csv").open()))
    assert len(rows) == len(results["latency"]) == 2 * 2 * 3 and float(rows[0]["median_ms"]) > 0
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "--compare", str(tmp_path / "run.json"), str(tmp_path / "run.json")]) == 0
    assert "0 faster, 0 slower, 12 same" in capsys.readouterr().out


@pytest.mark.peers
def test_bench_json_on_standard_output_is_nothing_but_json(tmp_path):
    done = regnet("bench", "--models", "regnetx_400mf", "--sources", "timm", "--batch", "1", "--peers", "eager", *TINY, "--json", "-", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"][0]["configurations"] == 1


@pytest.mark.peers
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_parity_of_a_foreign_model(source, capsys):
    arguments = ["parity", "regnety_400mf", "--source", source, "--resolution", "64", "--batch", "2"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["images"] == 2 and 0 < found["max_rel_err"] < 1e-4
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 16  # a line for each of the 16 blocks


def test_parity_in_bfloat16_on_an_image_of_the_user(capsys, tmp_path):
    from PIL import Image

    Image.effect_noise((90, 70), 60).convert("RGB").save(tmp_path / "noise.png")
    arguments = ["parity", "regnety_400mf", "--source", "regnet", "--resolution", "64", "--dtype", "bfloat16", "--images", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_convert_there_and_back_is_exact_and_overwrites_only_when_told(capsys, monkeypatch, tmp_path):
    from regnet import create_model

    monkeypatch.chdir(tmp_path)
    state = create_model("regnety_400mf").state_dict()
    torch.save(state, "a.pt")
    assert main(["convert", "a.pt", "b.pt", "--to", "pycls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"input": "a.pt", "from": "regnet", "output": "b.pt", "to": "pycls", "tensors": len(state)}
    assert main(["convert", "b.pt", "c.pt", "--to", "regnet"]) == 0
    back = torch.load("c.pt", weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    capsys.readouterr()
    assert main(["convert", "a.pt", "c.pt", "--to", "timm"]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["convert", "a.pt", "c.pt", "--to", "timm", "--force"]) == 0


def test_env_names_versions_and_extensions(capsys):
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text and torch.__version__.split("+")[0] in text
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__ and found["python"] == sys.version.split()[0] and found["extensions"].keys() == {"cpu", "cuda"}

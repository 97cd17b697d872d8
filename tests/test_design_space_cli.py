"""`regnet spaces` and `regnet sample` as a user runs them."""

import json

import pytest

import regnet
from regnet.cli import main
from regnet.cli import sample as sample_command
from regnet.design_space import SPACES, RegNetX
from regnet.records import config_from_json, read_records

WINDOW = ("--flops", "360M:400M")


def test_spaces(capsys):
    assert main(["spaces", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(SPACES)
    assert next(entry for entry in listed if entry["name"] == "AnyNetXE")["exact_size"] == 817_446_539_520
    assert main(["spaces"]) == 0
    assert "1.382e+13" in capsys.readouterr().out
    assert main(["spaces", "anynet_xd"]) == 0
    assert "widths non-decreasing" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["spaces", "sample"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"regnet {command}" in capsys.readouterr().out.split("example")[1]


def test_sample_to_a_file_and_to_standard_output(tmp_path, capsys):
    out = tmp_path / "configs.jsonl"
    assert main(["sample", "RegNetX", "-n", "30", "--seed", "4", *WINDOW, "--out", str(out)]) == 0
    expected = RegNetX.sample(30, 4, flops=(360e6, 400e6))
    records = read_records(out)
    assert [config_from_json(record["config"]) for record in records] == list(expected)
    assert [record["flops"] for record in records] == expected.draws.flops.tolist()
    assert records[3]["raw"] == expected.draws.settings.row(3) and records[3]["space"] == "RegNetX"
    assert list(tmp_path.iterdir()) == [out]
    capsys.readouterr()
    assert main(["sample", "RegNetX", "-n", "30", "--seed", "4", *WINDOW, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [config_from_json(record["config"]) for record in printed] == list(expected)
    assert main(["sample", "AnyNetXA", "-n", "25"]) == 0
    assert "and 5 more networks" in capsys.readouterr().out


def test_an_interrupted_sample_goes_on_to_the_same_file(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    arguments = ["sample", "AnyNetXE", "-n", "60", *WINDOW]
    monkeypatch.setattr(sample_command, "WRITTEN_AT_ONCE", 7)
    assert main([*arguments, "--out", str(whole)]) == 0
    records, calls = regnet.records.append_records, []

    def stops(path, lines):
        calls.append(len(lines))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return records(path, lines)

    with monkeypatch.context() as patch:
        patch.setattr(regnet.records, "append_records", stops)
        assert main([*arguments, "--out", str(broken)]) == 130
    assert not broken.exists()
    (partial,) = tmp_path.glob(".broken.jsonl.*.part")
    with partial.open("ab") as file:  # a line that was cut off
        file.write(b'{"schema": 1, "conf')
    assert main([*arguments, "--out", str(broken)]) == 0
    assert broken.read_bytes() == whole.read_bytes() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["sample", "AnyNetXF"], 1, "did you mean AnyNetX"),
    (["sample", "RegNetX", "--flops", "1:2"], 1, "use a wider window"),
    (["sample", "RegNetX", "--out", "nowhere/x.jsonl"], 1, "no folder nowhere"),
    (["sample", "RegNetX", "--flops", "400M:360M"], 2, "the low end must be"),
    (["sample", "RegNetX", "--flops", "360Q:400M"], 2, "one of the units"),
    (["sample", "RegNetX", "--flops", "360M"], 2, "use LOW:HIGH"),
])  # fmt: skip
def test_bad_input(arguments, status, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(arguments) == status == 1
    except SystemExit as stop:
        assert stop.code == status == 2
    assert message in capsys.readouterr().err


def test_an_existing_file_is_kept(tmp_path, capsys):
    out = tmp_path / "configs.jsonl"
    out.write_text("mine")
    assert main(["sample", "RegNetX", "--out", str(out)]) == 1 and out.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["sample", "RegNetX", "--out", str(out), "--force"]) == 0 and len(read_records(out)) == 10

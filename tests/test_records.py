"""Records: round trips, bad lines by number, atomic writing, several processes appending, writers that were killed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regnet.models import AnyNetConfig, RegNetConfig
from regnet.models.named import NAMED_MODELS
from regnet.records import (
    RecordError,
    append_records,
    columns,
    config_from_json,
    config_to_json,
    iter_records,
    read_configs,
    read_records,
    write_records,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize("model", NAMED_MODELS, ids=lambda model: model.name)
def test_named_configurations_come_back_the_same(model):
    for config in {model.config, model.config.to_anynet() if isinstance(model.config, RegNetConfig) else model.config}:
        written = json.loads(json.dumps(config_to_json(config)))
        assert config_from_json(written | {"of_a_later_version": 1}) == config


def test_configurations_in_and_out_of_a_file(file):
    configs = [RegNetConfig(13, 24, 36.44, 2.49, 8), AnyNetConfig((1, 2), (16, 32), group_widths=8)]
    assert write_records(file, ({"config": config, "space": "made up"} for config in configs)) == 2
    assert read_configs(file) == configs
    append_records(file, [{"error": 1.0}])
    with pytest.raises(RecordError, match=r"results.jsonl, line 3: the record has no config"):
        read_configs(file)
    write_records(file, [{"config": config_to_json(configs[1]) | {"widths": [16, 33]}}])
    with pytest.raises(RecordError, match=r"line 1: group_width 8 does not divide the bottleneck width 33"):
        read_configs(file)


@pytest.mark.parametrize(
    ("config", "reason"),
    [(None, "of type None"), ({"type": "vit"}, "'anynet' or 'regnet'"), ({"type": "regnet", "depth": 3}, "missing 4 required")],
)  # fmt: skip
def test_what_is_no_configuration(config, reason):
    with pytest.raises(RecordError, match=reason):
        config_from_json(config)


@given(st.lists(st.dictionaries(st.text().filter(lambda key: key != "schema"), JSON, max_size=4), max_size=4), st.integers(0, 4))
def test_any_fields_survive(tmp_path_factory, records, cut):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    known = ("flops", "params", "acts", "error", "epochs", "seed", "runtime_ms", "config")
    records = [{key: value for key, value in record.items() if key not in known} for record in records]
    write_records(path, records[:cut])
    append_records(path, records[cut:])
    assert read_records(path) == [{"schema": 1} | record for record in records]


def test_numpy_values_are_numbers(file):
    write_records(file, [{"error": np.float32(2.5), "flops": np.int64(3), "widths": np.arange(3)}])
    assert read_records(file) == [{"schema": 1, "error": 2.5, "flops": 3, "widths": [0, 1, 2]}]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"error": float("nan")}, "write None for a value that is not known"),
        ({"error": "12"}, "error is '12': expected a number or null"),
        ({"config": [1]}, "config is a list"),
        ({"what": object()}, "type object has no JSON form"),
        ({"schema": 2}, "newer than 1"),
        ("text", "a record is a dict"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(file, record, reason):
    write_records(file, [{"error": 1.0}])
    for write in (write_records, append_records):
        with pytest.raises(RecordError, match=reason):
            write(file, [{"error": 2.0}, record])
    assert read_records(file) == [{"schema": 1, "error": 1.0}]
    assert [path.name for path in file.parent.iterdir()] == ["results.jsonl"]  # no temporary file is left


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "a record is an object, not list"),
        ('{"error": 1}', "no schema version"),
        ('{"schema": "1"}', "schema '1': expected 1"),
        ('{"schema": 7}', "schema 7 is newer than 1, the newest known here: update"),
        ('{"schema": 1, "error": NaN}', "NaN is no JSON number"),
        ('{"schema": 1, "flops": true}', "flops is True"),
        ("\udcff", "not JSON"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(file, line, reason):
    file.write_bytes(b'{"schema": 1}\n\n' + line.encode(errors="surrogateescape") + b'\n{"schema": 1}\n')
    with pytest.raises(RecordError, match=rf"results.jsonl, line 3: .*{reason}"):
        read_records(file)
    assert next(iter_records(file)) == {"schema": 1}


def test_a_torn_last_line_is_skipped_and_then_removed(file):
    append_records(file, [{"error": 1.0}, {"error": 2.0}])
    whole = file.read_bytes()
    torn = b'{"schema": 1, "note": "' + b"x" * 200_000
    for cut in (1, 20, len(torn)):
        file.write_bytes(whole + torn[:cut])
        with pytest.warns(RuntimeWarning, match="line 3: skipped"):
            assert len(read_records(file)) == 2
        append_records(file, [{"error": 3.0}])
        assert [record["error"] for record in read_records(file)] == [1.0, 2.0, 3.0]
    file.write_bytes(whole[:-1])  # a line that lacks nothing but its end is kept
    append_records(file, [{"error": 3.0}])
    assert len(read_records(file)) == 3
    file.write_text("a letter\nto somebody")
    with pytest.raises(RecordError, match="no file of records"):
        append_records(file, [{"error": 3.0}])
    assert file.read_text().endswith("somebody")


WRITER = """
import sys
sys.modules["torch"] = None  # writing results needs no torch
from regnet.records import append_records, write_records
path, writer, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for i in range(lines):
    append_records(path, [{"seed": writer, "epochs": i, "note": "x" * (50 + 300 * (i % 40)), "half": half} for half in (0, 1)])
    print(i, flush=True)
"""


def start(file, writer, lines):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(writer), str(lines)], stdout=subprocess.PIPE, text=True)


def test_several_processes_append_whole_batches_in_their_own_order(file):
    writers = [start(file, writer, 60) for writer in range(4)]
    assert all(writer.communicate()[1] is None and writer.returncode == 0 for writer in writers)
    records = read_records(file)
    assert len(records) == 4 * 60 * 2
    assert all(a["seed"] == b["seed"] and (a["half"], b["half"]) == (0, 1) for a, b in zip(records[::2], records[1::2], strict=True))
    for writer in range(4):
        assert [record["epochs"] for record in records if record["seed"] == writer and record["half"] == 0] == list(range(60))


def test_a_killed_writer_loses_nothing_that_it_had_written(file):
    writers = [start(file, 0, 100_000), start(file, 1, 40)]
    for _ in range(30):
        told = int(writers[0].stdout.readline())
    writers[0].kill()
    for writer in writers:
        writer.communicate()
    append_records(file, [{"seed": 2}])
    records = read_records(file)
    assert [record["epochs"] for record in records if record["seed"] == 1 and record["half"] == 0] == list(range(40))
    survived = [record["epochs"] for record in records if record["seed"] == 0 and record["half"] == 0]
    assert survived == list(range(len(survived))) and len(survived) > told


def test_replacing_a_file_is_all_or_nothing(file):
    write_records(file, [{"error": 1.0}])
    file.chmod(0o640)

    def interrupted():
        yield {"error": 2.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(file, interrupted())
    assert read_records(file) == [{"schema": 1, "error": 1.0}]
    write_records(file, [])
    assert read_records(file) == [] and file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileNotFoundError, match="no file of records at"):
        read_records(file.with_name("nowhere.jsonl"))


def test_columns_are_numbers_of_records_and_configurations():
    regnet = {"schema": 1, "error": 40.0, "config": config_to_json(RegNetConfig(13, 24, 36.44, 2.49, 8))}
    anynet = {"schema": 1, "error": 41.0, "config": config_to_json(AnyNetConfig((1, 2), (16, 32), group_widths=8))}
    untrained = {"schema": 1, "error": None, "config": regnet["config"]}
    found, left_out = columns([regnet, anynet, untrained], ["error", "d", "g", "bottleneck_ratio"])
    assert left_out == 1 and {name: list(values) for name, values in found.items()} == {
        "error": [40.0, 41.0], "d": [13.0, 3.0], "g": [8.0, 8.0], "bottleneck_ratio": [1.0, 1.0],
    }  # fmt: skip
    found, left_out = columns([regnet, anynet], ["widths[1]"])
    assert left_out == 1 and list(found["widths[1]"]) == [32.0]
    with pytest.raises(RecordError, match="no record has the number 'w_x'; there are .*depth, error, group_width"):
        columns([regnet], ["w_x"])

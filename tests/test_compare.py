"""The published results, their comparison, and `regnet compare` as a user runs it."""

import importlib.util
import json
import sys

import pytest

from regnet.cli import main
from regnet.published import equal_cost_pairs, find_published, measure, published_models, tables
from regnet.published.run import Plan, run

TINY = ("--resolution", "32", "--rounds", "1", "--block-seconds", "0.005", "--threads", "1")


def family(name):
    return [model for model in published_models() if model.family == name]


def test_the_published_table_is_whole():
    models = published_models()
    assert [(name, len(family(name))) for name in ("RegNetX", "RegNetY", "ResNet", "ResNeXt", "EfficientNet", "mobile")] == [
        ("RegNetX", 12), ("RegNetY", 12), ("ResNet", 3), ("ResNeXt", 3), ("EfficientNet", 6), ("mobile", 4),
    ]  # fmt: skip
    assert len({model.name for model in models}) == len(models)
    assert all(model.v100_ms and model.v100_ms_paper for model in models if model.family != "mobile")
    by_name = {model.name: model for model in models}
    assert (by_name["RegNetX-8.0GF"].v100_ms_paper, by_name["EfficientNet-B5"].v100_ms_paper) == (94, 504)
    assert (by_name["RegNetX-600MF"].error, by_name["RegNetY-600MF"].error) == (25.9, 24.5)


@pytest.mark.peers
@pytest.mark.parametrize("model", [model for model in published_models() if not measure.why_not(model)], ids=lambda model: model.name)
def test_complexity_counted_here_is_the_published_one(model):
    """MobileNetV2's was not published by these authors."""
    found = measure.cost(model)
    if model.family == "mobile":
        assert 540e6 < found["flops"] < 660e6
    else:
        assert found == {"flops": model.flops, "params": model.params, "acts": model.acts}


def test_pairs_are_those_of_the_papers_tables():
    resnets, regnetx = family("ResNet") + family("ResNeXt"), family("RegNetX")
    size = lambda pair: pair.regnet.name.removeprefix("RegNetX-")  # noqa: E731
    assert [size(pair) for pair in equal_cost_pairs(resnets, regnetx)] == ["4.0GF", "8.0GF", "12GF"] * 2
    assert [size(pair) for pair in equal_cost_pairs(resnets, regnetx, "acts")] == ["3.2GF", "6.4GF", "12GF", "8.0GF", "12GF", "16GF"]
    assert [size(pair) for pair in equal_cost_pairs(family("EfficientNet"), regnetx)] == [
        "400MF",
        "600MF",
        "800MF",
        "1.6GF",
        "4.0GF",
        "8.0GF",
    ]
    assert equal_cost_pairs(resnets, regnetx[:4]) == []


def test_find_published():
    assert find_published() == published_models()
    assert [model.name for model in find_published(["resnext", "EFFICIENTNET_B5"])] == [
        "ResNeXt-50",
        "ResNeXt-101",
        "ResNeXt-152",
        "EfficientNet-B5",
    ]


def test_compare_without_measuring(capsys, tmp_path):
    assert (
        main(["compare", "--no-measure", "--models", "regnetx,efficientnet-b5,mobile,resnet-50", "--plot", str(tmp_path / "v100.svg")])
        == 0
    )
    text = capsys.readouterr().out
    for words in (
        "Mobile regime",
        "ResNe(X)t at equal flops",
        "ResNe(X)t at equal activations",
        "EfficientNet at equal flops",
        "DARTS",
        "5.36x",
    ):
        assert words in text
    assert "here" not in text.split("omitted")[0] and "omitted: DARTS: no implementation here" in text
    assert (tmp_path / "v100.svg").stat().st_size > 10_000
    assert main(["compare", "--no-measure", "--json", "--models", "regnetx-8*,efficientnet-b5"]) == 0
    found = json.loads(capsys.readouterr().out)
    (group,) = found["tables"]["efficientnet_flops"]
    assert [row["name"] for row in group] == ["EfficientNet-B5", "RegNetX-8.0GF"] and group[1]["faster_v100"] == 504 / 94
    assert found["models"]["EfficientNet-B5"]["computed"]["acts"] == 98857400


@pytest.mark.peers
def test_compare_measured_interrupted_and_continued(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    models = ("--models", "regnetx-200mf,regnetx-400mf,efficientnet-b0", "--out", "run.json")
    measured, real = [], measure.latency

    def third_is_interrupted(model, *rest, **settings):
        measured.append(model.name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(model, *rest, **settings)

    monkeypatch.setattr(measure, "latency", third_is_interrupted)
    assert main(["compare", *models, *TINY]) == 130
    kept = json.loads((tmp_path / "run.json").read_text())["models"]
    assert list(kept) == ["RegNetX-200MF", "RegNetX-400MF"] and all(row["latency"]["ours"]["median_ms"] > 0 for row in kept.values())
    assert main(["compare", *models, *TINY, "--plot", "run.png", "--runtime-plot", "runtime.svg"]) == 0
    assert measured == ["RegNetX-200MF", "RegNetX-400MF", "EfficientNet-B0", "EfficientNet-B0"]
    text = capsys.readouterr().out
    assert "faster\n" not in text and "EfficientNet at equal flops" in text and "eager" in text
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["models"]["RegNetX-200MF"] == kept["RegNetX-200MF"] and list(found["models"]["EfficientNet-B0"]["latency"]) == [
        "eager"
    ]
    rows = tables.comparison_tables(found, published_models())[-1].groups[0]
    assert rows[1].faster_here == rows[0].here_ms / rows[1].here_ms and rows[1].faster_eager == rows[0].eager_ms / rows[1].eager_ms
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "runtime.svg").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "run.png", "runtime.svg"}
    capsys.readouterr()
    assert main(["compare", *models, *TINY, "--batch", "2"]) == 1
    assert (
        capsys.readouterr().err
        == "regnet compare: error: run.json was measured with batch 1, not 2: name another file, or delete it\n"
    )


def test_a_model_that_does_not_fit_is_left_out_with_its_reason(monkeypatch):
    def no_memory(*rest, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(measure, "latency", no_memory)
    found = run(Plan(tuple(find_published(["regnetx-200mf", "darts"]))))
    assert found["models"]["RegNetX-200MF"]["omitted"] == "out of memory" and found["models"]["RegNetX-200MF"]["computed"]
    assert "only its published error is known" in found["models"]["DARTS"]["omitted"]


def test_without_timm_the_reason_names_the_extra(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else real(name, *rest))
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["compare", "--no-measure", "--models", "efficientnet-b0"]) == 0
    assert "omitted: EfficientNet-B0: needs timm: pip install 'regnet-kernels[bench]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "vit"), "no published model matches 'vit'"),
        (("--models", ""), "--models names no model"),
        (("--plot", "plot.doc"), "unknown suffix '.doc'"),
        (("--out", "README.json"), "README.json is no file of `regnet compare --out`"),
        (("--out", "broken.json"), "broken.json is not JSON"),
        (("--resolution", "8"), "resolution 8 is too small"),
        (("--no-measure", "--runtime-plot", "a.svg"), "leave --no-measure out"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_1(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    assert main(["compare", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err

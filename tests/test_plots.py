"""Plots: every kind in every format, the same file for the same figure, nothing left behind, and errors before any work."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from regnet import plots
from regnet.models.named import NAMED_MODELS
from regnet.plots.trend import TrendPoints
from regnet.plots.widths import WidthProfile, block_widths
from regnet.published import published_models
from regnet.statistics import edf, empirical_bootstrap, fit_trend, parameter_trend, search_efficiency

RNG = np.random.Generator(np.random.PCG64(0))
ERRORS = {"AnyNetX_A": 40 + RNG.gamma(2, 3, 300), "RegNetX": 38 + RNG.gamma(2, 1, 200)}
FLOPS = np.exp(RNG.uniform(19, 23, 300))
WIDTHS = [block_widths(model.config) for model in NAMED_MODELS]


def runtime():
    models = [model for model in published_models() if model.v100_ms]
    return {
        family: {name: [getattr(m, name) for m in models if m.family == family] for name in ("flops", "params", "acts")}
        | {"runtime": [m.v100_ms for m in models if m.family == family]}
        for family in ("RegNetX", "EfficientNet")
    }


def trends():
    group = runtime()["RegNetX"]
    flops = np.array(group["flops"]) / 1e9
    return {"RegNetX": TrendPoints(flops, group["runtime"], fit_trend(flops, group["runtime"], resamples=200))}


FIGURES = {
    "edf": lambda: plots.plot_edf({name: edf(errors) for name, errors in ERRORS.items()}, title="made up"),
    "edf of one model": lambda: plots.plot_edf({"one": edf([40.0])}, bands=False),
    "edf of a constant": lambda: plots.plot_edf({"one": edf([40.0] * 5, band="pointwise")}),
    "efficiency": lambda: plots.plot_search_efficiency({name: search_efficiency(e, resamples=50) for name, e in ERRORS.items()}),
    "efficiency of one": lambda: plots.plot_search_efficiency({"one": search_efficiency([40.0, 41.0], resamples=50)}),
    "profiles": lambda: plots.plot_width_profiles(
        [WidthProfile(m.name, w, w[0], 30.0, w, 0.01) for m, w in zip(NAMED_MODELS[:5], WIDTHS[:5], strict=True)], title="widths"
    ),
    "profile without a fit": lambda: plots.plot_width_profiles([WidthProfile("resnet_50", WIDTHS[-1])]),
    "population": lambda: plots.plot_width_population(WIDTHS, np.arange(len(WIDTHS))),
    "fit errors": lambda: plots.plot_fit_errors({name: (RNG.random(len(e)), e) for name, e in ERRORS.items()}),
    "fit errors of one model": lambda: plots.plot_fit_errors({"one": ([0.1], [40.0])}),
    "bootstrap": lambda: plots.plot_bootstrap(
        {name: (FLOPS, empirical_bootstrap(FLOPS, ERRORS["AnyNetX_A"], resamples=100)) for name in "abcde"}, ERRORS["AnyNetX_A"]
    ),
    "parameter trends": lambda: plots.plot_parameter_trends(
        {name: parameter_trend(FLOPS, RNG.random(300), ERRORS["AnyNetX_A"], resamples=100) for name in "abcd"}, title="made up"
    ),
    "trend": lambda: plots.plot_trends(trends(), ylabel="ms"),
    "trend, linear axes": lambda: plots.plot_trends(trends(), ylabel="ms", logarithmic=False),
    "runtime": lambda: plots.plot_runtime(runtime()),
    "latency": lambda: plots.plot_error_latency(
        {name: [(m.name, m.v100_ms, m.error) for m in published_models() if m.family == name] for name in ("RegNetX", "ResNet")}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_plot_in_every_format(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    for suffix in (".png", ".svg", ".pdf"):
        plots.save_figure(figure, tmp_path / f"plot{suffix}")
    with Image.open(tmp_path / "plot.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 300 and 0.002 < (pixels < 250).mean() < 0.7
    paths = [node for node in ElementTree.parse(tmp_path / "plot.svg").iter() if node.tag.endswith("}path")]
    assert len(paths) > 20
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in tmp_path.iterdir()} == {"plot.png", "plot.svg", "plot.pdf"}
    assert dict(matplotlib.rcParams) == before  # the user's own plots stay as they were


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.save_figure(FIGURES["edf"](), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_edf_of_the_picture_is_the_edf(tmp_path):
    curve = edf(ERRORS["RegNetX"])
    figure = plots.plot_edf({"RegNetX": curve})
    line = figure.axes[0].lines[0]
    e, drawn = line.get_xdata()[1:-1], line.get_ydata()[1:-1]
    assert np.allclose(drawn, curve(np.nextafter(e, np.inf)))
    assert curve.legend in figure.axes[0].get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda folder: plots.check_figure_path(folder / "plot.doc"), "unknown suffix '.doc'; expected .svg, .png, .pdf"),
        (lambda folder: plots.plot_edf({}), "no design space to plot"),
        (lambda folder: plots.plot_width_profiles([WidthProfile("a", [8])] * 17), "17 networks: width profiles take 1 to 16"),
        (lambda folder: plots.plot_error_latency({"RegNetX": []}), "no model with both an error and a latency"),
    ],
)  # fmt: skip
def test_what_cannot_be_plotted(call, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        call(tmp_path)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'regnet-kernels\[bench\]'"):
        plots.plot_edf({"a": edf([1.0])})

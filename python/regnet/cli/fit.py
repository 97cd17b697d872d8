"""`regnet fit`: the linear structure of networks, and trends over flops."""

from __future__ import annotations

import argparse
from pathlib import Path

from regnet.cli.output import comma_list, console, plain, plot_options, print_json
from regnet.cli.results import share

DESCRIPTION = """Fit a quantized linear function to the block widths of networks: their w_0, w_a, w_m and the error e_fit of the
best fit (mean |log(fitted / real width)| over the blocks). --out plots the widths of up to 16 networks, block by block; of more,
e_fit against error where the records have errors, and all widths in one panel where they have not.

With --trend, fit a curve over flops F (in GF) instead: acts = a sqrt(F), params = a + b F (both in millions), runtime = a F + b
sqrt(F) (ms), with intervals from a bootstrap over the models."""

EXAMPLES = """examples:
  regnet fit regnetx_3.2gf resnet_50 --out widths.svg
  regnet fit anynetx_e.jsonl --out fits.svg
  regnet fit --trend acts 'regnetx*' 'regnety*' --out acts.svg
  regnet bench --json run.json && regnet fit --trend runtime run.json --peers ours,eager --out runtime.svg
  regnet compare --out compare.json && regnet fit --trend runtime compare.json"""


def add(subparsers):
    parser = subparsers.add_parser(
        "fit", help="linear structure of networks, trends over flops", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.add_argument(
        "what", nargs="+", metavar="WHAT", help="model name or pattern, .jsonl file of records, .json file with a configuration (or "
        "one on the line), or, for a trend, results of `regnet bench --json` or `regnet compare --out`",
    )  # fmt: skip
    parser.add_argument("--trend", choices=("acts", "params", "runtime"), help="fit this over flops")
    parser.add_argument(
        "--form", choices=("sqrt", "proportional", "linear", "linear_sqrt"), help="of the trend (default: the paper's)"
    )
    parser.add_argument(
        "--peers", type=comma_list, default=("ours",), metavar="A,B", help="whose times of a benchmark (default: ours)"
    )
    parser.add_argument("--confidence", type=share, default=0.95, help="of the trend's intervals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    plot_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    from regnet.plots import check_figure_path

    if options.out:
        check_figure_path(options.out)
    if options.trend:
        _trend(options)
    elif options.form:
        raise ValueError("--form is the form of a trend: give --trend acts, params or runtime with it")
    else:
        _linear(options)


def _trend(options: argparse.Namespace) -> None:
    from regnet.cli.trend_points import UNITS, trend_points
    from regnet.plots import plot_trends, save_figure
    from regnet.plots.trend import TrendPoints
    from regnet.statistics import FORM_OF, fit_trend

    form = options.form or FORM_OF[options.trend]
    groups = {}
    for name, (x, y) in trend_points(options.trend, options.what, options.peers).items():
        try:
            groups[name] = TrendPoints(x, y, fit_trend(x, y, form, confidence=options.confidence, seed=options.seed))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    label = UNITS[options.trend][1]
    if options.out:
        save_figure(plot_trends(groups, ylabel=label, title=options.title), options.out)
    if options.json:
        print_json(
            {
                "trend": options.trend,
                "form": form,
                "unit": label,
                "groups": [_trend_json(name, points) for name, points in groups.items()],
            }
        )
        return
    for name, (x, _, trend) in groups.items():
        intervals = ", ".join(f"{low:.3g} .. {high:.3g}" for low, high in zip(trend.low, trend.high, strict=True))
        quality = f"{len(x)} models, off by {trend.relative_residual:.1%}"
        plain(console(), f"{name}: {label} = {trend}   ({trend.confidence:.0%}: {intervals}; {quality})")


def _trend_json(name, points) -> dict:
    trend = points.trend
    coefficients = [
        {"term": term, "value": float(value), "low": float(low), "high": float(high)}
        for term, value, low, high in zip(trend.form.terms, trend.coefficients, trend.low, trend.high, strict=True)
    ]
    return {"name": name, "models": trend.n, "formula": str(trend), "coefficients": coefficients, "confidence": trend.confidence} | {
        "r2": trend.r2, "relative_residual": trend.relative_residual,
    }  # fmt: skip


def _linear(options: argparse.Namespace) -> None:
    from regnet.cli.networks import networks
    from regnet.design_space import fit_linear

    found = [network for what in options.what for network in networks(what)]
    if not found:
        raise ValueError(f"no network in {' '.join(options.what)}")
    fits = [fit_linear(network.config) for network in _progress(found)]
    if options.out:
        _plot(options, found, fits)
    if options.json:
        print_json([_fit_json(network, fit) for network, fit in zip(found, fits, strict=True)])
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network")
    errors = any(network.record.get("error") is not None for network in found)
    for column in ("blocks", "w_0", "w_a", "w_m", "e_fit", *(("error, %",) if errors else ())):
        table.add_column(column, justify="right")
    for network, fit in zip(found, fits, strict=True):
        error = network.record.get("error")
        end = ("-" if error is None else f"{error:.2f}",) if errors else ()
        table.add_row(Text(network.name), str(fit.depth), str(fit.w_0), f"{fit.w_a:.4g}", f"{fit.w_m:.4g}", f"{fit.e_fit:.4f}", *end)
    console().print(table, highlight=False)


def _progress(found: list):
    from rich.console import Console
    from rich.progress import track

    return track(found, "fitting", console=Console(stderr=True), transient=True)


def _fit_json(network, fit) -> dict:
    error = {} if network.record.get("error") is None else {"error": network.record["error"]}
    return {"name": network.name, "depth": fit.depth, "w_0": fit.w_0, "w_a": fit.w_a, "w_m": fit.w_m, "e_fit": fit.e_fit} | error


def _plot(options: argparse.Namespace, found: list, fits: list) -> None:
    from regnet.plots import plot_fit_errors, plot_width_population, plot_width_profiles, save_figure
    from regnet.plots.widths import MOST_PANELS, WidthProfile, block_widths

    trained = [
        (fit.e_fit, network.record["error"])
        for network, fit in zip(found, fits, strict=True)
        if network.record.get("error") is not None
    ]
    if len(found) <= MOST_PANELS:
        profiles = [
            WidthProfile(network.name, block_widths(network.config), fit.w_0, fit.w_a, fit.widths, fit.e_fit)
            for network, fit in zip(found, fits, strict=True)
        ]
        figure = plot_width_profiles(profiles, title=options.title)
    elif trained:
        figure = plot_fit_errors({Path(options.what[0]).stem: tuple(zip(*trained, strict=True))}, title=options.title)
    else:
        figure = plot_width_population([block_widths(network.config) for network in found], title=options.title)
    save_figure(figure, options.out)

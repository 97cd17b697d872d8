"""`regnet bootstrap`: which value of a parameter is best?"""

from __future__ import annotations

import argparse
from pathlib import Path

from regnet.cli.output import comma_list, console, plain, plot_options, positive, print_json
from regnet.cli.results import share

DESCRIPTION = """Show the likely best value of parameters and the range of good ones, by the paper's empirical bootstrap: draw a
quarter of the (parameter, error) pairs with replacement, keep the parameter of the lowest error, 10,000 times; the median, and
the central 95 %.

The file is JSON Lines, a model a line, with "error" and "config" (or the parameter as a field). Parameters: depth, w_0, w_a, w_m,
group_width, bottleneck_ratio of RegNets; of AnyNets also widths[0], depths[3], ...; flops, params, acts. With --regimes the same
in each of several parts of the models by flops."""

EXAMPLES = """examples:
  regnet bootstrap regnetx.jsonl --param w_m --out w_m.svg
  regnet bootstrap sweep.jsonl --param depth,w_0,w_a,w_m,group_width --regimes 6 --out trends.svg"""


def add(subparsers):
    parser = subparsers.add_parser(
        "bootstrap", help="the best value of a parameter, with its range", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="results")
    parser.add_argument("--param", type=comma_list, required=True, metavar="A,B", help="parameters")
    parser.add_argument("--regimes", type=positive, metavar="N", help="N parts of equally many models, by flops")
    parser.add_argument("--share", type=share, default=0.25, help="of the pairs that a resample draws (default: %(default)s)")
    parser.add_argument("--resamples", type=positive, default=10_000, help="default: %(default)s")
    parser.add_argument("--confidence", type=share, default=0.95, help="of the range (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    plot_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    from regnet.plots import check_figure_path, plot_bootstrap, plot_parameter_trends, save_figure
    from regnet.records import columns, read_records
    from regnet.statistics import empirical_bootstrap, parameter_trend

    if not options.param:
        raise ValueError("--param names no parameter; give e.g. --param w_m")
    if options.out:
        check_figure_path(options.out)
    names = list(dict.fromkeys((*options.param, "error", *(("flops",) if options.regimes else ()))))
    table, left_out = columns(read_records(options.file), names)
    if not len(table["error"]):
        raise ValueError(f"{options.file}: no record has all of {', '.join(names)}")
    settings = {"share": options.share, "resamples": options.resamples, "confidence": options.confidence, "seed": options.seed}
    if options.regimes:
        trends = {
            name: parameter_trend(table["flops"], table[name], table["error"], regimes=options.regimes, **settings)
            for name in options.param
        }
        rows = [(name, flops, best) for name, trend in trends.items() for flops, best in zip(trend.flops, trend.best, strict=True)]
    else:
        found = {name: empirical_bootstrap(table[name], table["error"], **settings) for name in options.param}
        rows = [(name, None, best) for name, best in found.items()]
    if options.out and options.regimes:
        save_figure(plot_parameter_trends(trends, title=options.title), options.out)
    elif options.out:
        save_figure(
            plot_bootstrap({name: (table[name], best) for name, best in found.items()}, table["error"], title=options.title),
            options.out,
        )
    if options.json:
        print_json({"parameters": [_as_json(*row) for row in rows], "models": len(table["error"]), "left_out": left_out})
    else:
        _print(rows, left_out)


def _as_json(name, flops, best) -> dict:
    where = {} if flops is None else {"flops": float(flops)}
    values = {field: getattr(best, field) for field in ("median", "low", "high", "n", "drawn", "resamples", "confidence")}
    return {"parameter": name} | where | values


def _print(rows, left_out: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameter")
    with_flops = rows[0][1] is not None
    for column in (*(("flops, GF",) if with_flops else ()), "models", "best (median)", f"{rows[0][2].confidence:.0%} range"):
        table.add_column(column, justify="right")
    for name, flops, best in rows:
        where = (f"{flops / 1e9:.3g}",) if with_flops else ()
        table.add_row(Text(name), *where, str(best.n), f"{best.median:.4g}", f"{best.low:.4g} .. {best.high:.4g}")
    console().print(table, highlight=False)
    if left_out:
        plain(console(), f"left out, as they lack an error or a parameter: {left_out} records")

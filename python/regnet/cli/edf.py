"""`regnet edf`: the error distributions of design spaces, compared."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from regnet.cli.output import comma_list, console, plain, print_json
from regnet.cli.results import labelled_files, share

DESCRIPTION = """Show the error distribution (EDF) of each file of results, and compare the files with each other.

A file is JSON Lines, a model a line, with the field "error" (per cent) and, with --by space, "space"; lines without an error are
left out. Between each two: Kolmogorov-Smirnov test, the probability that a random model of the first has the lower error, and the
share of bootstrap resamples in which the first's distribution lies nowhere below the second's (dominance)."""

EXAMPLES = """examples:
  regnet edf anynetx_a.jsonl regnetx.jsonl --out edf.svg
  regnet edf sweep.jsonl --by space --band pointwise --json
  regnet edf regnetx.jsonl --efficiency search.svg        expected best error of m models"""


def add(subparsers):
    parser = subparsers.add_parser("edf", help="error distributions of design spaces", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl", help="results")
    parser.add_argument("--by", choices=("file", "space"), default="file", help="what makes a curve (default: %(default)s)")
    parser.add_argument("--names", type=comma_list, metavar="A,B", help="names of the files' curves (default: the files')")
    parser.add_argument("--band", choices=("dkw", "pointwise", "none"), default="dkw",
                        help="dkw holds the whole curve, pointwise each point of it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--confidence", type=share, default=0.95, help="of bands and intervals (default: %(default)s)")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, metavar="SHARE", help="how far a dominating EDF may lie below (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--title", default="", help="of the plots")
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="plot of the EDFs (.svg, .png or .pdf)")
    parser.add_argument("--efficiency", type=Path, metavar="FILE.svg", help="plot of the expected best error of m models")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options: argparse.Namespace) -> None:
    from regnet.plots import check_figure_path, plot_edf, plot_search_efficiency, save_figure
    from regnet.statistics import compare_errors, edf, search_efficiency

    for path in filter(None, (options.out, options.efficiency)):
        check_figure_path(path)
    samples, left_out = labelled_files(options.files, options.by, options.names)
    band = "dkw" if options.band == "none" else options.band
    curves = {name: edf(errors, confidence=options.confidence, band=band) for name, errors in samples.items()}
    efficiency = {
        name: search_efficiency(errors, confidence=options.confidence, seed=options.seed) for name, errors in samples.items()
    }
    pairs = {
        (a, b): compare_errors(samples[a], samples[b], confidence=options.confidence, tolerance=options.tolerance, seed=options.seed)
        for a, b in combinations(samples, 2)
    }
    if options.out:
        save_figure(plot_edf(curves, title=options.title, bands=options.band != "none"), options.out)
    if options.efficiency:
        save_figure(plot_search_efficiency(efficiency, title=options.title), options.efficiency)
    if options.json:
        print_json(_as_json(curves, efficiency, pairs, left_out))
    else:
        _print(curves, efficiency, pairs, left_out)


def _as_json(curves, efficiency, pairs, left_out) -> dict:
    spaces = [
        {"name": name, "n": curve.n, "min": curve.min, "mean": curve.mean, "median": curve.median}
        | {"expected_best": {str(m): float(e) for m, e in zip(efficiency[name].m, efficiency[name].expected, strict=True)}}
        for name, curve in curves.items()
    ]
    compared = []
    for (a, b), found in pairs.items():
        values = asdict(found)
        values["ks"], values["mann_whitney"] = found.ks._asdict(), found.mann_whitney._asdict()
        compared.append({"a": a, "b": b} | values)
    return {"spaces": spaces, "pairs": compared, "without_error": left_out}


def _print(curves, efficiency, pairs, left_out) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("space")
    for column in ("n", "min", "mean", "median", "best of 8", "best of 32"):
        table.add_column(column, justify="right")
    for name, curve in curves.items():
        expected = dict(zip(efficiency[name].m.tolist(), efficiency[name].expected, strict=True))
        best = (f"{expected[m]:.2f}" if m in expected else "-" for m in (8, 32))
        table.add_row(Text(name), str(curve.n), f"{curve.min:.2f}", f"{curve.mean:.2f}", f"{curve.median:.2f}", *best)
    screen.print(table, highlight=False)
    if pairs:
        confidence = next(iter(pairs.values())).confidence
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("A")
        table.add_column("B")
        for column in (
            "P(A better)",
            f"{confidence:.0%} interval",
            "mean A - B",
            f"{confidence:.0%} interval",
            "KS",
            "p",
            "A dominates",
            "B dominates",
        ):
            table.add_column(column, justify="right")
        for (a, b), found in pairs.items():
            (low, high), (less, more) = found.p_better_interval, found.mean_difference_interval
            intervals = f"{low:.3f} .. {high:.3f}", f"{less:+.2f} .. {more:+.2f}"
            test = f"{found.ks.statistic:.3f}", f"{found.ks.pvalue:.2g}"
            dominance = f"{found.a_dominates:.2f}", f"{found.b_dominates:.2f}"
            better, difference = f"{found.p_better:.3f}", f"{found.mean_difference:+.2f}"
            table.add_row(Text(a), Text(b), better, intervals[0], difference, intervals[1], *test, *dominance)
        screen.print(table, highlight=False)
    if left_out:
        plain(screen, f"left out, as they have no error: {left_out} records")

"""--compare of the suites of `regnet bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def compare_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to compare")
    group.add_argument("--compare", type=Path, nargs="+", metavar="FILE", help="OLD (--csv or --json of a run): compare this run with it; "
                       "OLD NEW: compare the two, without running")  # fmt: skip
    group.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help="change from which a row counts as slower or faster "
                       "(default: %(default)g)")  # fmt: skip


def load_old(options: argparse.Namespace) -> list[list[dict]]:
    """The rows of the files named: read before a long run, so that a wrong path is found at once. Raises ValueError for three and more."""
    from regnet.bench.compare import load

    paths = options.compare or ()
    if len(paths) > 2:
        raise ValueError(f"--compare takes one file (compare this run with it) or two (old, new), got {len(paths)}")
    if options.threshold < 0:
        raise ValueError(f"--threshold {options.threshold:g}: expected 0 or more per cent")
    return [load(path) for path in paths]


def print_compared(old: list[dict], new: list[dict], options: argparse.Namespace, screen: Console) -> int:
    from regnet.bench.compare import compare
    from regnet.bench.suite_tables import print_comparison

    print_comparison(compare(old, new, options.threshold / 100), screen, getattr(options, "show", 50))
    return 0

"""What the commands share: where they print, and options that several of them take."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console


def console() -> Console:
    """Standard output; at least 150 columns wide where nobody looks at a terminal, so that tables stay whole in a file."""
    made = Console()
    return made if made.is_terminal else Console(width=max(150, made.width))


def plain(screen: Console, text: str, style: str | None = None) -> None:
    """A line as it is: brackets in names and reasons are no markup, numbers get no colours."""
    screen.print(text, highlight=False, markup=False, style=style)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def plot_options(parser: argparse.ArgumentParser) -> None:
    """--title, --out and --json of a command that plots."""
    parser.add_argument("--title", default="", help="of the plot")
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="plot (.svg, .png or .pdf)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """argparse type: an integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def comma_list(text: str) -> tuple[str, ...]:
    """argparse type: `a,b` -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def comma_numbers(text: str) -> tuple[int, ...]:
    """argparse type: `1,16` -> (1, 16)."""
    return tuple(positive(part) for part in comma_list(text))


def check_outputs(options: argparse.Namespace) -> None:
    """--json, --csv and --plot of a long run: what cannot be written is an error before it. Raises PlotError, IsADirectoryError."""
    if options.plot:
        from regnet.plots import check_figure_path

        check_figure_path(options.plot)
    for path in (options.json if options.json != "-" else None, options.csv):
        if path and Path(path).is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a file")

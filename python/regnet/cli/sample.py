"""`regnet sample`: networks of a design space, in a window of complexity, as JSON Lines."""

from __future__ import annotations

import argparse
import hashlib
import os
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from regnet.cli.output import console, positive, print_json

UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
WRITTEN_AT_ONCE = 1000  # records; what an interruption can lose
SHOWN = 20


def add(subparsers):
    parser = subparsers.add_parser(
        "sample", help="draw networks from a design space",
        description="Draw networks of a design space (`regnet spaces` lists them), by its distribution, in a window of complexity. "
        "The same arguments give the same networks on every machine. With --out the records are written as they are drawn, to a file "
        "beside it that takes its place at the end; after an interruption the same command goes on where it stopped.",
        epilog="example: regnet sample RegNetX -n 100 --seed 0 --flops 360M:400M --out configs.jsonl",
    )  # fmt: skip
    parser.add_argument("space", help="name of the space, such as RegNetX or AnyNetXE")
    parser.add_argument("-n", type=positive, default=10, metavar="N", help="networks to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    for name, what in (("flops", "multiply-adds"), ("params", "parameters"), ("acts", "activations")):
        parser.add_argument(
            f"--{name}", type=value_range, metavar="LOW:HIGH", help=f"range of {what}, such as 360M:400M; either side may be empty"
        )
    parser.add_argument("--resolution", type=positive, default=224, help="image side (default: %(default)s)")
    parser.add_argument(
        "--rejection", action="store_true", help="draw by plain rejection: the same distribution, slower, other networks"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write JSON Lines")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--json", action="store_true", help="print the records as a JSON list")
    return parser


def run(options) -> None:
    from regnet.design_space import find_space

    space = find_space(options.space)
    window = {"flops": options.flops, "params": options.params, "acts": options.acts, "resolution": options.resolution}
    parts = space.iter_arrays(options.n, options.seed, **window, method="rejection" if options.rejection else "cells")
    if options.out is not None:
        _write(space, parts, options, window)
        return
    records = [record for part in parts for record in _records(space, part, options.seed)]
    if options.json:
        from regnet.records import config_to_json

        print_json([record | {"config": config_to_json(record["config"])} for record in records])
    else:
        _show(space, records)


def value_range(text: str) -> tuple[float, float]:
    """argparse type: "360M:400M" -> (360e6, 400e6); units k, M, G, T; "360M:" and ":400M" leave a side open."""
    low, colon, high = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; use LOW:HIGH, such as 360M:400M")
    found = (_number(low) if low.strip() else 0.0, _number(high) if high.strip() else 1e18)
    if not 0 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no range: the low end must be 0 or more and not above the high end")
    return found


def _number(text: str) -> float:
    text = text.strip()
    factor = UNITS.get(text[-1].lower(), 0.0)
    try:
        return float(text[:-1]) * factor if factor else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; use digits and one of the units k, M, G, T, such as 360M") from error


def _records(space, draws, seed: int) -> list[dict]:
    costs = zip(draws.flops.tolist(), draws.params.tolist(), draws.acts.tolist(), strict=True)
    return [
        {
            "config": config,
            "space": space.name,
            "flops": flops,
            "params": params,
            "acts": acts,
            "sample_seed": seed,
            "raw": draws.settings.row(k),
        }
        for k, (config, (flops, params, acts)) in enumerate(zip(space.configs(draws), costs, strict=True))
    ]


def _write(space, parts, options, window) -> None:
    from regnet.records import append_records

    if options.out.exists() and not options.force:
        raise FileExistsError(f"{options.out} exists; use --force to overwrite it")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"no folder {options.out.parent} to write {options.out.name} into")
    partial = _partial(options, space.name, window)
    done = written = _lines(partial)
    with _progress() as progress:
        task = progress.add_task(space.name, total=options.n, completed=min(done, options.n))
        for part in parts:
            if done >= len(part):
                done -= len(part)
                continue
            part, done = part[done:], 0
            for start in range(0, len(part), WRITTEN_AT_ONCE):
                rows = part[start : start + WRITTEN_AT_ONCE]
                written += append_records(partial, _records(space, rows, options.seed))
                progress.update(task, completed=written)
    os.replace(partial, options.out)
    print(f"{written} networks of {space.name} in {options.out}")


def _partial(options, name: str, window: dict) -> Path:
    """The file beside --out that holds what is drawn so far; its name tells the arguments, so that only the same command goes on."""
    arguments = repr((name, options.n, options.seed, sorted(window.items()), options.rejection))
    return options.out.with_name(f".{options.out.name}.{hashlib.sha256(arguments.encode()).hexdigest()[:12]}.part")


def _lines(path: Path) -> int:
    """Whole lines of a file; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _progress() -> Progress:
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _show(space, records) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("depths", "widths", "group widths", "bottleneck", "flops (M)", "params (M)", "acts (M)"):
        table.add_column(column, justify="right")
    for record in islice(records, SHOWN):
        config = record["config"]
        network = config.to_anynet() if hasattr(config, "to_anynet") else config
        ratios = sorted(set(network.bottleneck_ratios))
        table.add_row(
            *(" ".join(map(str, values)) for values in (network.depths, network.widths, network.group_widths)),
            " ".join(f"{ratio:g}" for ratio in (network.bottleneck_ratios if len(ratios) > 1 else ratios)),
            *(f"{record[name] / 1e6:,.2f}" for name in ("flops", "params", "acts")),
        )
    console().print(table, highlight=False)
    if len(records) > SHOWN:
        print(f"... and {len(records) - SHOWN} more networks of {space.name}; --out FILE or --json gives all")

"""`regnet spaces`: the design spaces, as the paper's summary table, and one in detail."""

from __future__ import annotations

from rich.table import Table

from regnet.cli.output import console, print_json


def add(subparsers):
    parser = subparsers.add_parser(
        "spaces", help="design spaces and their sizes",
        description="List the design spaces with free parameters and sizes, the paper's figure beside the exact number of settings, "
        "or describe one.",
        epilog="example: regnet spaces AnyNetXE",
    )  # fmt: skip
    parser.add_argument("space", nargs="?", help="describe this one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options) -> None:
    from regnet.design_space import SPACES, find_space

    spaces = [find_space(options.space)] if options.space else list(SPACES.values())
    if options.json:
        facts = [_facts(space) for space in spaces]
        print_json(facts[0] if options.space else facts)
    elif options.space:
        (space,) = spaces
        size = space.size()
        print(space.describe())
        print(f"  size: {_exact(size)} {size.counts}" + (f"; the paper's figure: {size.paper:.3g}" if size.paper else ""))
    else:
        console().print(_table(spaces))


def _table(spaces) -> Table:
    table = Table(box=None, header_style="bold")
    for column, justify in (
        ("space", "left"),
        ("stages", "right"),
        ("block", "left"),
        ("dims", "right"),
        ("paper", "right"),
        ("exact", "right"),
        ("beyond the choices", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")
    for space in spaces:
        size = space.size()
        rules = "; ".join(map(str, space.constraints)) or "-"
        paper = f"{size.paper:.3g}" if size.paper else "-"
        table.add_row(space.name, str(space.stages), space.block, str(space.dimensions), paper, _exact(size), rules)
    return table


def _exact(size) -> str:
    if size.exact is None:
        return "-"
    return f"{size.exact:,}" if size.exact < 1e7 else f"{float(size.exact):.4g}"


def _facts(space) -> dict:
    size = space.size()
    return {
        "name": space.name,
        "stages": space.stages,
        "block": space.block,
        "dimensions": space.dimensions,
        "parameters": {name: str(choices) for name, choices in space.choices.items()},
        "constraints": list(map(str, space.constraints)),
        "paper_size": size.paper,
        "exact_size": size.exact,
        "counts": size.counts,
    }

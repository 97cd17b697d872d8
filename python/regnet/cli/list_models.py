"""`regnet list`: the named models."""

from __future__ import annotations

from rich.table import Table

from regnet.cli.output import console, print_json


def add(subparsers):
    parser = subparsers.add_parser(
        "list", help="named models", description="List the named models with flops (multiply-adds), params and acts at 224x224.",
        epilog="example: regnet list 'regnety*'",
    )  # fmt: skip
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'regnety*'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options) -> None:
    import regnet

    names = regnet.list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}; `regnet list` shows all {len(regnet.list_models())}")
    costs = {name: regnet.complexity(name) for name in names}
    if options.json:
        print_json([{"name": n, "flops": c.flops, "params": c.params, "acts": c.acts} for n, c in costs.items()])
        return
    table = Table(box=None, header_style="bold")
    table.add_column("model")
    for column in ("flops (M)", "params (M)", "acts (M)"):
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost.flops / 1e6:,.0f}", f"{cost.params / 1e6:.1f}", f"{cost.acts / 1e6:.1f}")
    console().print(table)

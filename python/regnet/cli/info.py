"""`regnet info`: one model's configuration and complexity."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from regnet.cli.output import console, positive, print_json


def add(subparsers):
    parser = subparsers.add_parser(
        "info", help="configuration and complexity of a model",
        description="Show a model's configuration, and its flops (multiply-adds), params and acts, without building it.",
        epilog="example: regnet info regnety_1.6gf --resolution 288",
    )  # fmt: skip
    parser.add_argument("name", help="the paper's, timm's or torchvision's name")
    parser.add_argument("--resolution", type=positive, default=224, help="image side (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options) -> None:
    import regnet
    from regnet.models import find_model, model_config

    named, rounding = find_model(options.name)
    config = model_config(options.name)
    cost = regnet.complexity(config, options.resolution)
    if options.json:
        print_json(
            {"name": named.name, "widths_rounding": rounding, "aliases": [*named.aliases, *named.torchvision_aliases]}
            | {"config": asdict(config), "parameters": asdict(named.config), "resolution": options.resolution}
            | {"flops": cost.flops, "params": cost.params, "acts": cost.acts}
        )
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("model", named.name)
    table.add_row("other names", ", ".join([*named.aliases, *named.torchvision_aliases]))
    table.add_row("widths", f"{_stages(config.widths)}  ({rounding} rounding)")
    for field in ("depths", "group_widths", "bottleneck_ratios", "strides"):
        table.add_row(field.replace("_", " "), _stages(getattr(config, field)))
    for field in ("block_type", "se_ratio", "stem_type", "stem_width", "activation"):
        table.add_row(field.replace("_", " "), str(getattr(config, field)))
    table.add_row("flops", f"{cost.flops:,} multiply-adds at {options.resolution}x{options.resolution}")
    table.add_row("params", f"{cost.params:,}")
    table.add_row("acts", f"{cost.acts:,}")
    console().print(table, highlight=False)


def _stages(values) -> str:
    return "  ".join(f"{value:g}" for value in values)

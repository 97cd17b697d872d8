"""`regnet env`: what is built, loaded and chosen here."""

from __future__ import annotations

from regnet.cli.output import print_json


def add(subparsers):
    parser = subparsers.add_parser(
        "env", help="versions, instruction sets, loaded extensions",
        description="Say what is built, loaded and chosen on this machine, and why anything is not.",
        epilog="example: regnet env --json",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options) -> None:
    import regnet_kernels

    if options.json:
        print_json(regnet_kernels.environment())
    else:
        print(regnet_kernels.env_report())

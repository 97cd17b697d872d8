"""`regnet convert`: a checkpoint from one naming to another."""

from __future__ import annotations

from pathlib import Path

from regnet.cli.output import print_json

FORMATS = ("regnet", "pycls", "timm", "torchvision", "resnet")


def add(subparsers):
    parser = subparsers.add_parser(
        "convert", help="convert a checkpoint between pycls, timm, torchvision and regnet",
        description="Rename a checkpoint's tensors, exact to the bit; wrappers, prefixes and BGR stems are understood.",
        epilog="example: regnet convert RegNetY-400MF_dds_8gpu.pyth regnety_400mf.pt --to timm",
    )  # fmt: skip
    parser.add_argument("input", type=Path, help="checkpoint of any of the formats")
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format of the output")
    parser.add_argument("--ema", action="store_true", help="take the averaged copy of the weights")
    parser.add_argument("--force", action="store_true", help="overwrite the output if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options) -> None:
    from regnet.checkpoints import convert_checkpoint, detect_format, read_checkpoint

    if options.output.exists() and not options.force:
        raise FileExistsError(f"{options.output} exists already: choose another name, or --force to overwrite it")
    found = detect_format(read_checkpoint(options.input, ema=options.ema))
    state = convert_checkpoint(options.input, options.output, options.to, ema=options.ema)
    if options.json:
        print_json({"input": str(options.input), "from": found, "output": str(options.output), "to": options.to, "tensors": len(state)})
    else:
        print(f"{options.output}: {len(state)} tensors, {found} -> {options.to}")

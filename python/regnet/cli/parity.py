"""`regnet parity`: ours against eager PyTorch and float64, block by block."""

from __future__ import annotations

import argparse
from pathlib import Path

from regnet.cli.output import positive, print_json


def add(subparsers):
    from regnet.bench.plan import DTYPES
    from regnet.bench.sources import SOURCES

    parser = subparsers.add_parser(
        "parity", help="compare ours with eager PyTorch, block by block",
        description="Optimize a model and compare every block and the logits with eager PyTorch; errors are relative to float64.",
        epilog="example: regnet parity regnety_400mf --source timm",
    )  # fmt: skip
    parser.add_argument("model", help="the paper's, timm's or torchvision's name")
    parser.add_argument("--source", choices=SOURCES, default="timm", help="library that builds the model (default: %(default)s)")
    parser.add_argument("--batch", type=positive, help="batch size (default: every image once)")
    parser.add_argument("--resolution", type=positive, default=224, help="image side (default: %(default)s)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")
    parser.add_argument("--images", type=Path, metavar="PATH", help="image file or folder of your own (default: 5 packaged photographs)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in any known format (default: random, statistics of the photographs)")
    parser.add_argument("--pretrained", action="store_true", help="the source's published weights (needs internet)")
    parser.add_argument("--backend", help="force a backend of regnet_kernels")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    import torch

    import regnet
    from regnet.bench.images import batch_of, find_images, load_images
    from regnet.bench.plan import DTYPES
    from regnet.bench.sources import build_model

    images = load_images(find_images(options.images), options.resolution)
    model = build_model(
        options.model, options.source, seed=options.seed, calibration=images, checkpoint=options.checkpoint, pretrained=options.pretrained
    )
    dtype = None if options.dtype == "float32" else DTYPES[options.dtype]
    optimized = regnet.optimize(model, dtype=dtype, backend=options.backend)
    x = torch.from_numpy(batch_of(images, options.batch or len(images)))
    report = regnet.check_parity(model, optimized, x)
    if options.json:
        print_json({"model": options.model, "source": options.source, "resolution": options.resolution, "images": len(x)} | report.to_dict())
    else:
        print(report)
    return 0 if report.passed else 1

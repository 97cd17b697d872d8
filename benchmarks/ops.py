"""Each distinct operation of a model, ours beside PyTorch's own, in GFLOP/s and in per cent of the measured peak.

    python benchmarks/ops.py --model regnety_1.6gf --batch 1 --json ops.json

Shapes come from the model itself. One row is one distinct operation, `count` says how often the model has it.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table

import regnet_kernels
from regnet.bench.machine import describe, measure_peak, versions
from regnet.bench.timing import interleave
from regnet.models import create_model


def conv_shapes(name: str, resolution: int) -> dict[tuple, int]:
    """{(c_in, c_out, kernel, stride, groups, input side): count} of a model's convolutions on maps (not of the squeezes)."""
    model, counts = create_model(name, device="meta").eval(), {}

    def note(conv, inputs, output):
        side = inputs[0].shape[-1]
        if side > 1:
            key = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups, side)
            counts[key] = counts.get(key, 0) + 1

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    model(torch.empty(1, 3, resolution, resolution, device="meta"))
    return counts


def measure(shape: tuple, batch: int, rounds: int, block_seconds: float) -> dict:
    """Timings of one convolution with bias and ReLU: ours, and PyTorch's channels_last convolution followed by a ReLU in place."""
    c_in, c_out, kernel, stride, groups, side = shape
    x = torch.randn(batch, c_in, side, side).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(c_out, c_in // groups, kernel, kernel) * (c_in // groups * kernel**2) ** -0.5
    bias = torch.randn(c_out)
    last = weight.contiguous(memory_format=torch.channels_last)
    padding = kernel // 2
    calls = {
        "ours": lambda: regnet_kernels.conv_bn_act(x, weight, bias, stride=stride, groups=groups, activation="relu"),
        "torch": lambda: F.conv2d(x, last, bias, stride, padding, 1, groups).relu_(),
    }
    torch.testing.assert_close(calls["ours"](), calls["torch"](), rtol=1e-4, atol=1e-4)
    timings = interleave(calls, rounds=rounds, block_seconds=block_seconds)
    out_side = (side - 1) // stride + 1
    flops = 2 * batch * kernel**2 * (c_in // groups) * c_out * out_side**2
    names = ("c_in", "c_out", "kernel", "stride", "groups", "side")
    row = dict(zip(names, shape, strict=True)) | {"batch": batch, "group_width": c_in // groups}
    return row | {f"{who}_{what}": value for who, t in timings.items() for what, value in (("ms", t.median_ms), ("gflops", flops / t.median_ms / 1e6))}


def table(rows: list[dict], peak: float) -> Table:
    made = Table(title=f"convolution + bias + ReLU; peak {peak:.0f} GFLOP/s", title_justify="left")
    for column in ("kernel", "c_in -> c_out", "group width", "map", "stride", "count", "ours ms", "torch ms", "ours % of peak", "torch % of peak", "speed-up"):
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(
            f"{row['kernel']}x{row['kernel']}", f"{row['c_in']} -> {row['c_out']}", str(row["group_width"]), f"{row['side']}", str(row["stride"]),
            str(row["count"]), f"{row['ours_ms']:.3f}", f"{row['torch_ms']:.3f}", f"{row['ours_gflops'] / peak:.0%}",
            f"{row['torch_gflops'] / peak:.0%}", f"{row['torch_ms'] / row['ours_ms']:.2f}x",
        )  # fmt: skip
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="regnety_1.6gf")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peak = measure_peak(options.threads)
    shapes = conv_shapes(options.model, options.resolution)
    rows = []
    with torch.inference_mode():
        for shape, count in track(shapes.items(), "convolutions", console=Console(stderr=True), transient=True):
            rows.append(measure(shape, options.batch, options.rounds, options.block_seconds) | {"count": count})
    screen = Console()
    screen = screen if screen.is_terminal else Console(width=max(150, screen.width))
    screen.print(table(rows, peak.gflops))
    print(f"peak measured with: {peak.method}; {options.threads} threads; {regnet_kernels.explain('conv_bn_act', torch.randn(1, 8, 8, 8), torch.randn(8, 8, 1, 1))}")
    if options.json:
        result = {"model": options.model, "threads": options.threads, "peak_gflops": peak.gflops, "peak_method": peak.method}
        options.json.write_text(json.dumps(result | {"machine": describe(), "versions": versions(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Each distinct convolution or block of a model, ours beside PyTorch's own, in per cent of the measured peak.

    python benchmarks/ops.py --model regnety_1.6gf --batch 1 --json convolutions.json
    python benchmarks/ops.py --model regnety_1.6gf --batch 1 --what block

Shapes come from the model itself; one row is one distinct shape, `count` says how often the model has it. A convolution
(with bias and ReLU) is a call of `conv_bn_act` on plain weights, which packs them each time; a block is packed once, as in
a model that `regnet.optimize` made, and its peer is the block in eager PyTorch, channels_last.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import regnet
import regnet_kernels
from regnet.atomic import write_json
from regnet.bench.machine import describe, measure_peak, versions
from regnet.bench.timing import interleave
from regnet.models import XBlock, YBlock, create_model


def distinct(name: str, resolution: int, kinds: tuple[type, ...]) -> list[tuple[nn.Module, int, int, int]]:
    """(module, input side, how often, multiply-adds an image) of each distinct module of these kinds, squeezes left out."""
    model, sides = create_model(name).eval(), {}

    def note(module, inputs):
        sides[module] = inputs[0].shape[-1]

    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, resolution, resolution))
    found: dict[tuple, list] = {}
    for module, side in sides.items():
        module._forward_pre_hooks.clear()
        if side > 1:
            shapes = tuple((key, tuple(value.shape)) for key, value in module.state_dict().items())
            strides = tuple(m.stride for m in module.modules() if isinstance(m, nn.Conv2d))
            found.setdefault((shapes, strides, side), [module, side, 0])[2] += 1
    return [(module, side, count, _multiply_adds(module, side)) for module, side, count in found.values()]


def _multiply_adds(module: nn.Module, side: int) -> int:
    channels = next(m for m in module.modules() if isinstance(m, nn.Conv2d)).in_channels
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(module).to("meta")(torch.empty(1, channels, side, side, device="meta"))
    return counter.get_total_flops() // 2


def conv_calls(conv: nn.Conv2d, x: torch.Tensor) -> dict:
    weight, bias = conv.weight.detach(), torch.randn(conv.out_channels)
    last = weight.contiguous(memory_format=torch.channels_last)
    stride, padding, groups = conv.stride[0], conv.padding[0], conv.groups
    return {
        "ours": lambda: regnet_kernels.conv_bn_act(x, weight, bias, stride=stride, padding=padding, groups=groups, activation="relu"),
        "torch": lambda: F.conv2d(x, last, bias, stride, padding, 1, groups).relu_(),
    }


def block_calls(block: nn.Module, x: torch.Tensor) -> dict:
    ours = regnet.optimize(nn.Sequential(copy.deepcopy(block)).eval())
    theirs = copy.deepcopy(block).to(memory_format=torch.channels_last)
    return {"ours": lambda: ours(x), "torch": lambda: theirs(x)}


def describe_shape(module: nn.Module, side: int) -> dict:
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    main = max(convs, key=lambda m: m.kernel_size[0])
    what = f"{main.kernel_size[0]}x{main.kernel_size[0]}" if module is main else type(module).__name__
    stride = max(m.stride[0] for m in convs)
    group_width = main.in_channels // main.groups
    return {"what": what, "c_in": convs[0].in_channels, "c_out": main.out_channels, "group_width": group_width, "side": side, "stride": stride}


def measure(what: str, found: tuple, batch: int, rounds: int, block_seconds: float) -> dict:
    module, side, count, multiply_adds = found
    row = describe_shape(module, side) | {"count": count, "batch": batch, "multiply_adds": multiply_adds}
    x = torch.randn(batch, row["c_in"], side, side).contiguous(memory_format=torch.channels_last)
    calls = (conv_calls if what == "conv" else block_calls)(module, x)
    torch.testing.assert_close(calls["ours"](), calls["torch"](), rtol=1e-4, atol=1e-4)
    for who, timing in interleave(calls, rounds=rounds, block_seconds=block_seconds).items():
        row |= {f"{who}_ms": timing.median_ms, f"{who}_gflops": 2 * multiply_adds * batch / timing.median_ms / 1e6}
    return row


def table(rows: list[dict], peak: float) -> Table:
    made = Table(title=f"peak {peak:.0f} GFLOP/s", title_justify="left", box=box.SIMPLE_HEAD)
    columns = ("what", "c_in -> c_out", "group width", "map", "stride", "count", "ours ms", "torch ms", "ours, of peak", "torch, of peak", "speed-up")
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(
            row["what"], f"{row['c_in']} -> {row['c_out']}", str(row["group_width"]), str(row["side"]), str(row["stride"]), str(row["count"]),
            f"{row['ours_ms']:.3f}", f"{row['torch_ms']:.3f}", f"{row['ours_gflops'] / peak:.0%}", f"{row['torch_gflops'] / peak:.0%}",
            f"{row['torch_ms'] / row['ours_ms']:.2f}x",
        )  # fmt: skip
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="regnety_1.6gf")
    parser.add_argument("--what", choices=("conv", "block"), default="conv")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peak = measure_peak(options.threads)
    found = distinct(options.model, options.resolution, (nn.Conv2d,) if options.what == "conv" else (XBlock, YBlock))
    with torch.inference_mode():
        steps = track(found, f"{options.what}s", console=Console(stderr=True), transient=True)
        rows = [measure(options.what, step, options.batch, options.rounds, options.block_seconds) for step in steps]
    screen = Console()
    screen = screen if screen.is_terminal else Console(width=max(150, screen.width))
    screen.print(table(rows, peak.gflops))
    print(f"peak measured with: {peak.method}; {options.threads} threads")
    if options.json:
        result = {"model": options.model, "what": options.what, "threads": options.threads, "peak_gflops": peak.gflops, "peak_method": peak.method}
        write_json(options.json, result | {"machine": describe(), "versions": versions(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())

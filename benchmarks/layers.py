"""Where the time of one network goes: each of its layers on the CPU kernels, beside its floor.

    python benchmarks/layers.py --model regnetx_1.6gf --batch 1 --threads 2 --json layers.json

The whole network runs as one call, `--repeats` times, and the kernels note the time between the barriers of each phase
(`torch.ops.regnet_kernels._profile_network`). Layers of one shape are added up; a layer's time is the 10 % quantile over the
repetitions, since the noise of a shared machine only ever adds. The floor is the nominal multiply-adds over the measured peak:
Winograd layers may pass 100 %.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from regnet_kernels.packing import BLOCK
from rich import box
from rich.table import Table

import regnet
from regnet.atomic import write_json
from regnet.bench.machine import describe, measure_peak, versions
from regnet.bench.profile import WORK, convolutions, profile, require_kernels
from regnet.cli.output import console


def layers(name: str, batch: int, resolution: int, repeats: int, dtype: torch.dtype = torch.float32) -> list[dict]:
    """One row a distinct layer: work, channels, stride, group_width, count, ms (all of them together), macs."""
    packed = regnet.optimize(regnet.create_model(name).eval(), dtype=dtype).packed
    x = torch.randn(batch, 3, resolution, resolution, dtype=dtype).contiguous(memory_format=torch.channels_last)
    profile(packed, x, 3)
    steps: dict[tuple, list[float]] = {}
    phases = profile(packed, x, repeats)
    for phase, convolution in zip(phases, convolutions(phases)):  # of one layer: one for each group of images and strip
        entry = steps.setdefault((phase.step, phase.work, convolution), [0.0, 0.0])
        entry[0] += float(np.quantile(phase.seconds, 0.1)) * 1e3
        entry[1] += phase.macs
    rows: dict[tuple, dict] = {}
    for (step, work, _), (ms, macs) in steps.items():
        spec = packed.specs[step]
        channels = (spec.c_in, spec.c_mid, spec.c_out) if spec.kind == BLOCK else (spec.c_in, spec.c_out)
        key = (work, channels, spec.stride, macs)
        row = rows.setdefault(key, {"work": WORK[work], "channels": channels, "stride": spec.stride, "group_width": spec.group_width,
                                    "count": 0, "ms": 0.0, "macs": 0.0})
        row["count"] += 1
        row["ms"] += ms
        row["macs"] += macs
    return list(rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="regnetx_1.6gf")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine here")
    options = parser.parse_args()
    try:
        require_kernels()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    peak = measure_peak(options.threads, dtype).gflops
    rows = layers(options.model, options.batch, options.resolution, options.repeats, dtype)
    for row in rows:
        row["share_of_peak"] = 2 * row["macs"] / (row["ms"] * 1e6 * peak)
    table = Table(box=box.SIMPLE, title=f"{options.model}, batch {options.batch}, {options.dtype}, {options.threads} threads, peak {peak:.0f} GFLOP/s")
    for heading in ("layer", "channels", "stride", "g", "x", "ms", "GFLOP/s", "peak"):
        table.add_column(heading, justify="left" if heading in ("layer", "channels") else "right", no_wrap=True)
    for row in rows:
        cells = (row["work"], ">".join(map(str, row["channels"])), str(row["stride"]), str(row["group_width"] or ""), str(row["count"]))
        rate = (f"{2 * row['macs'] / row['ms'] / 1e6:.1f}", f"{row['share_of_peak']:.0%}") if row["macs"] else ("", "")
        table.add_row(*cells, f"{row['ms']:.3f}", *rate)
    total, macs = (sum(row[key] for row in rows) for key in ("ms", "macs"))
    table.add_section()
    table.add_row("all", "", "", "", "", f"{total:.2f}", f"{2 * macs / total / 1e6:.1f}", f"{2 * macs / total / 1e6 / peak:.0%}")
    console().print(table)
    if options.json:
        report = {"model": options.model, "batch": options.batch, "dtype": options.dtype, "threads": options.threads, "peak_gflops": peak,
                  "machine": describe(), "versions": versions(), "layers": rows}
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast design spaces are sampled, counted and fitted, on one core.

    python -m benchmarks.design_space
    python -m benchmarks.design_space --seconds 5 --json rates.json

Each rate is the median of several rounds. "plain" is vectorised rejection; "model a draw" builds each draw as an nn.Module on the
meta device and counts its complexity from the configuration, as a loop over single networks does, and keeps it if it lies in the
window; its rate of valid networks is that of the draws times the share that plain rejection accepts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import regnet
from regnet.atomic import write_json
from regnet.bench.machine import describe, versions
from regnet.cli.output import console
from regnet.design_space import (
    AnyNetXA,
    AnyNetXB,
    AnyNetXC,
    AnyNetXD,
    AnyNetXE,
    AnyNetXE5Stages,
    RegNetX,
    RegNetY,
    complexity_arrays,
    fit_linear,
    make_networks,
)
from regnet.design_space import anynet_cells, regnet_cells
from regnet.design_space.draws import Uniforms
from regnet.design_space.windows import Window
from regnet.models import AnyNet

SPACES = (AnyNetXA, AnyNetXB, AnyNetXC, AnyNetXD, AnyNetXE, AnyNetXE5Stages, RegNetX, RegNetY)
ROUNDS = 5


def rate(step: Callable[[], int], seconds: float) -> float:
    """Median over the rounds of (what `step` counts) a second; one step before the clock starts."""
    step()
    found = []
    for _ in range(ROUNDS):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / ROUNDS:
            done += step()
        found.append(done / (time.perf_counter() - start))
    return statistics.median(found)


def sampling(space, window: Window, seconds: float) -> dict:
    """Rates of valid networks by the three samplers, and the shares of proposals that were valid."""
    anynet_cells.cover.cache_clear()
    regnet_cells.cover.cache_clear()
    start = time.perf_counter()
    space.source(window)
    row = {"space": space.name, "setup_s": time.perf_counter() - start}
    for method in ("cells", "rejection"):
        source, uniforms, valid = space.source(window, method), Uniforms(0), [0]

        def step(source=source, uniforms=uniforms, valid=valid) -> int:
            found = len(space.keep(*source.propose(uniforms), window))
            valid[0] += found
            return found

        row[f"{method}_per_s"] = rate(step, seconds)
        row[f"{method}_accepted"] = valid[0] / source.tried
    draws = rate(model_a_draw(space, window), seconds)
    row["model_draws_per_s"] = draws
    # Draws of a RegNet with other numbers of stages or out of order are dropped before a model is built.
    tried = row["rejection_accepted"] / _share_built(space)
    row["model_per_s"] = draws * tried
    return row


def model_a_draw(space, window: Window) -> Callable[[], int]:
    """Builds and counts one draw a call, whether or not it lies in the window."""
    configs = _unfiltered(space)

    def step() -> int:
        config = next(configs)
        with torch.device("meta"):
            model = AnyNet(config.to_anynet() if isinstance(config, regnet.RegNetConfig) else config)
        cost = regnet.complexity(model.config)
        window.holds({"flops": cost.flops, "params": cost.params, "acts": cost.acts})
        return 1

    return step


def _unfiltered(space) -> Iterator:
    for part in space.iter_arrays(None, 1):
        yield from space.configs(part[:256])


def _share_built(space) -> float:
    """Share of plain draws that are networks of the space, whatever their complexity."""
    source, uniforms, valid = space.source(Window(), "rejection"), Uniforms(0), 0
    while source.tried < 2_000_000:
        valid += len(space.keep(*source.propose(uniforms), Window()))
    return valid / source.tried


def counting(seconds: float) -> dict:
    """Networks a second: complexity, configuration objects made of arrays, widths made compatible with the groups."""
    found = {}
    for space in (AnyNetXA, RegNetY):
        draws = space.sample_arrays(100_000, 0)
        found[f"complexity of {space.name}"] = rate(
            lambda d=draws, s=space: len(complexity_arrays(d.networks, s.template)["flops"]), seconds
        )
        found[f"configurations of {space.name}"] = rate(lambda d=draws[:256], s=space: len(s.configs(d)), seconds)
    raw = AnyNetXA.sample_arrays(100_000, 0).settings
    found["group compatibility of AnyNetXA"] = rate(
        lambda: len(make_networks(raw.depths, raw.widths, raw.bottleneck_ratios, raw.group_widths)), seconds
    )
    return found


def fitting(window: Window, seconds: float) -> dict:
    """fit_linear: networks a second, and the mean error of the fit of 400 networks."""
    found = {}
    for space in (AnyNetXC, AnyNetXD, AnyNetXE, RegNetX):
        sample = space.sample(400, 0, flops=window.flops)
        configs = itertools.cycle(sample)
        found[f"fit_linear of {space.name}"] = rate(lambda configs=configs: bool(fit_linear(next(configs))), seconds)
        found[f"mean e_fit of {space.name}"] = statistics.fmean(fit_linear(config).e_fit for config in sample)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    window = Window(flops=(360e6, 400e6))
    progress = Console(stderr=True)
    rows = [sampling(space, window, options.seconds) for space in track(SPACES, "sampling", console=progress, transient=True)]
    others = counting(options.seconds) | fitting(window, options.seconds)
    console().print(_table(rows))
    for name, value in others.items():
        print(f"{name}: {value:.2f}" if name.startswith("mean") else f"{name}: {value:,.0f} a second")
    machine, found = describe(), versions()
    print(
        f"{machine['cpu']}, one core; " + ", ".join(f"{name} {found[name]}" for name in ("python", "numpy", "torch", "regnet-kernels"))
    )
    if options.json:
        result = {"window": window.ranges, "machine": machine, "versions": found, "sampling": rows, "others": others}
        write_json(options.json, result)
    return 0


def _table(rows: list[dict]) -> Table:
    made = Table(title="valid networks a second, 360-400 MF", title_justify="left", box=box.SIMPLE_HEAD)
    for column in (
        "space",
        "cells",
        "proposals accepted",
        "set up, s",
        "plain",
        "draws accepted",
        "model a draw",
        "models built a second",
    ):
        made.add_column(column, justify="left" if column == "space" else "right")
    for row in rows:
        made.add_row(
            row["space"],
            f"{row['cells_per_s']:,.0f}",
            f"{row['cells_accepted']:.1%}",
            f"{row['setup_s']:.2f}",
            f"{row['rejection_per_s']:,.0f}",
            f"{row['rejection_accepted']:.3%}",
            f"{row['model_per_s']:.3g}",
            f"{row['model_draws_per_s']:,.0f}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())

"""What `make gpu-check` measures, in which order, and the floor of each time.

In front what the goals need, so that an early end costs the least: ours and eager PyTorch as CUDA graphs over a choice of models, the
grouped convolutions, the share of the squeeze-excite, EfficientNet-B5. Then the other models, torch.compile, which compiles for
minutes a model, bfloat16, batch 32, and everything without a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch
from regnet_kernels.packing import BLOCK
from regnet_kernels.plain import PlainSpec

from regnet.models.registry import model_config
from regnet.traffic import Card, Pass, Traffic, block_traffic, plain_network, traffic

SIZES = ("400mf", "1.6gf", "3.2gf", "8.0gf", "16gf")  # first; the rest of the range fills in
OTHERS = ("600mf", "800mf", "4.0gf", "6.4gf", "12gf")
MODELS = tuple(f"regnet{kind}_{size}" for sizes in (SIZES, OTHERS) for size in sizes for kind in "yx")
EFFICIENTNET = "efficientnet_b5"
EFFICIENTNET_SIDE = 456  # the resolution that it was made for
SIDE = 224
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
GRAPHS, PLAIN = ("ours graph", "eager graph"), ("ours", "eager")
COMPILED = ("compile graph", "compile")
WAYS = (*GRAPHS, *PLAIN, *COMPILED)
PATHS = {"ours": "ours", "eager": "eager", "compile": "inductor"}  # of regnet.traffic
OPS = ("grouped 3x3", "grouped 3x3 stride 2", "1x1")
BLOCKS = ("block", "block without SE")


class Job(NamedTuple):
    """One time to take. what: "card", "model", or a part of a stage's last block (its first for "stride 2"): one of BLOCKS and OPS;
    name: of the model; stage: 0 to 3, -1 for the whole; way: one of WAYS."""

    what: str
    name: str
    stage: int
    batch: int
    dtype: str
    way: str

    def __str__(self) -> str:
        stage = f" stage {self.stage}" if self.stage >= 0 else ""
        batch = f"batch {self.batch}" if self.batch else ""
        return " ".join(part for part in (self.what, f"{self.name}{stage}", batch, self.dtype, self.way) if part)


CARD_JOBS = [Job("card", "copy", -1, 0, "float16", ""), *[Job("card", "matmul", -1, 0, dtype, "") for dtype in DTYPES]]


def jobs(models: Iterable[str] = MODELS) -> tuple[list[Job], list[Job]]:
    """(what the goals need first, the rest), each in order. RegNetX-8GF is among the first whatever `models` are."""
    models = list(models)
    first = [name for name in models if name.partition("_")[2] in SIZES] or models
    if "regnetx_8.0gf" not in first:
        first.append("regnetx_8.0gf")
    later = [name for name in models if name not in first]
    of_y = [name for name in first if name.startswith("regnety")][:4]

    def whole(names, batches, dtype, ways):
        return [Job("model", name, -1, batch, dtype, way) for batch in batches for name in names for way in ways]

    def parts(names, whats, batches, dtype, ways):
        return [Job(what, name, stage, batch, dtype, way) for batch in batches for what in whats for name in names for stage in range(4)
                for way in ways]

    core = [*CARD_JOBS, *whole(first, (256, 1), "float16", GRAPHS)]
    core += parts(first[:8], OPS[:1], (256,), "float16", ("ours graph",))
    core += parts(of_y, BLOCKS, (256,), "float16", ("ours graph",))
    core += whole([EFFICIENTNET], (256,), "float16", ("eager graph", "eager"))
    rest = whole(later, (256, 1), "float16", GRAPHS)
    rest += whole(first[:1], (256,), "float16", COMPILED) + whole([EFFICIENTNET], (256,), "float16", COMPILED)
    rest += whole(first, (256, 1), "bfloat16", GRAPHS)
    rest += whole(first[:1], (1,), "float16", COMPILED)
    rest += parts(first[:8], OPS[1:], (256,), "float16", ("ours graph",)) + parts(first[:8], OPS, (256,), "float16", ("eager graph",))
    rest += parts(first[:4], BLOCKS[:1], (256,), "float16", GRAPHS)
    rest += whole(first, (32,), "float16", GRAPHS)
    rest += whole(first, (1, 256, 32), "float16", PLAIN)
    rest += whole(first[1:], (256, 1), "float16", COMPILED)
    rest += parts(first[:4], ("grouped 3x3", "block"), (256,), "float16", COMPILED[:1])
    rest += parts(first[:4], (*OPS, "block"), (32, 1), "float16", GRAPHS) + parts(first[:4], (*OPS, "block"), (256,), "bfloat16", GRAPHS)
    rest += whole(later, (256, 1), "bfloat16", GRAPHS) + whole(first + later, (32,), "bfloat16", GRAPHS)
    rest += whole(later, (32, 1, 256), "float16", (*GRAPHS, *PLAIN)) + whole(first + later, (256, 1, 32), "bfloat16", PLAIN)
    rest += whole(later, (256, 1), "float16", COMPILED) + whole(first + later, (32,), "float16", COMPILED)
    rest += whole(first + later, (256, 1, 32), "bfloat16", COMPILED)
    core = list(dict.fromkeys(core))
    return core, [job for job in dict.fromkeys(rest) if job not in set(core)]


def floor(job: Job, card: Card) -> tuple[float, str] | None:
    """(ms below which its way of computing can't go, "memory" or "arithmetic" by what decides most of it); None where nobody knows."""
    moved = traffic_of(job)
    if moved is None:
        return None
    at_the_bandwidth = 1e3 * moved.bytes / (card.bandwidth * 1e9)
    at_the_peak = 1e3 * moved.flops / (card.peak * 1e12)
    return moved.floor_ms(card), "memory" if at_the_bandwidth >= at_the_peak else "arithmetic"


def traffic_of(job: Job) -> Traffic | None:
    """What a job's way of computing moves and multiplies."""
    if job.what == "card" or job.name == EFFICIENTNET:
        return None
    path, dtype = PATHS[job.way.partition(" ")[0]], DTYPES[job.dtype]
    if job.what == "model":
        return traffic(job.name, job.batch, path, dtype=dtype)
    spec, side = block_of(job.name, job.stage, first=job.what.endswith("stride 2"))
    if job.what in BLOCKS:
        spec = spec._replace(se_width=0) if job.what == "block without SE" else spec
        return block_traffic(spec, job.batch, side, path, dtype=dtype)
    before, out = job.batch * side * side, (side - 1) // spec.stride + 1
    after = job.batch * out * out
    if job.what == "1x1":
        one = Pass(before * spec.c_in + spec.c_in * spec.c_mid, before * spec.c_mid, before * spec.c_in * spec.c_mid)
    else:
        taps = 9 * spec.group_width
        one = Pass(before * spec.c_mid + taps * spec.c_mid, after * spec.c_mid, after * taps * spec.c_mid)
    return Traffic((one,), dtype.itemsize)


@cache
def block_of(name: str, stage: int, first: bool = False) -> tuple[PlainSpec, int]:
    """(a stage's last block, or its first; the side of its input) at 224 x 224."""
    blocks = [spec for spec in plain_network(name).specs if spec.kind == BLOCK]
    depths = model_config(name).depths
    index = sum(depths[:stage]) + (0 if first else depths[stage] - 1)
    return blocks[index], SIDE // 2 >> stage if first or depths[stage] == 1 else SIDE // 4 >> stage

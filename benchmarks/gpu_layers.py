"""Where a network's time goes on the card: each layer's kernels inside a CUDA graph's replay, beside the floor of its traffic.

    python -m benchmarks.gpu_layers --models regnety_3.2gf regnetx_3.2gf --batches 256 1 --output layers.json

A pass under torch.profiler tells which kernels belong to which layer, replays of the graph how long each took and how long the card
waited before it. Floors (regnet.traffic) are of the card's copy bandwidth and the higher of its rate of products and its datasheet's
peak; --bandwidth and --peak give them, otherwise they are measured first. Writes after each network; one that fails is listed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *([] if importlib.util.find_spec("regnet") else [str(ROOT / "python")])]  # also where it is not installed

import torch  # noqa: E402

from regnet.atomic import write_json  # noqa: E402
from regnet.traffic import Card, Pass, Traffic  # noqa: E402
from regnet_kernels.backends.gpu import choice, network  # noqa: E402
from regnet_kernels.backends.gpu.layers import Layer, MeanShape, layers  # noqa: E402
from regnet_kernels.backends.triton.shapes import DirectShape, GateShape, GroupedShape, PointwiseShape  # noqa: E402

from benchmarks.gpu_goals import measured_card, table  # noqa: E402
from benchmarks.gpu_plan import CARD_JOBS, DTYPES, SIDE  # noqa: E402
from benchmarks.gpu_worker import Bench  # noqa: E402

REPLAYS = 5
LABEL = "layer "


def main() -> int:
    args = parse()
    if not torch.cuda.is_available():
        print("gpu-layers: torch finds no GPU, so nothing was measured", file=sys.stderr)
        return 1
    torch.backends.cudnn.benchmark = True
    bench, record = Bench(), {"card": torch.cuda.get_device_name(), "networks": []}
    if args.bandwidth and args.peak:
        card = Card(record["card"], args.bandwidth, args.peak, "given")
    else:
        card = measured_card([{**job._asdict(), **bench.measure(job)} for job in CARD_JOBS], record["card"])
    record |= {"gb_per_s": card.bandwidth, "tflop_per_s": card.peak}
    for name, batch in itertools.product(args.models, args.batches):
        try:
            with torch.inference_mode():
                found = measure(bench, name, batch, args.dtype, args.layers)
            found["rows"] = [with_floor(row, card, DTYPES[args.dtype]) for row in found["rows"]]
            print("\n".join(report(found)), flush=True)
        except Exception as error:
            found = {"name": name, "batch": batch, "error": f"{type(error).__name__}: {error}"}
            print(f"{name} batch {batch}: {found['error']}", flush=True)
        record["networks"].append(found)
        write_json(args.output, record)
    return 0


def parse(given: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["regnety_3.2gf", "regnetx_3.2gf"])
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 1])
    parser.add_argument("--dtype", default="float16", choices=list(DTYPES))
    parser.add_argument("--layers", default="", help="forced backends, as for regnet_kernels.network")
    parser.add_argument("--bandwidth", type=float, help="GB/s, read and written together")
    parser.add_argument("--peak", type=float, help="TFLOP/s")
    parser.add_argument("--output", type=Path, default=Path("gpu_layers.json"))
    return parser.parse_args(given)


def measure(bench: Bench, name: str, batch: int, dtype: str, forced: str = "") -> dict:
    """{"name", "batch", "graph_ms", "rows": [{"layer", "backend", "kernels", "us", "gap_us", ...}]} of a network as a CUDA graph."""
    import regnet
    import regnet_kernels

    fused = regnet.optimize(bench.model(name), dtype=DTYPES[dtype])
    image = bench.map(batch, 3, SIDE, DTYPES[dtype])

    def call():
        return regnet_kernels.network(image, fused.packed, layers=forced)

    replay = bench.graph([call])
    ms = milliseconds(replay)
    with labelled():
        once = profiled(call, 1)
    labels, names = [label for label, *_ in once], [kernel for _, kernel, *_ in once]
    kernels = [(label, kernel, duration, 0.0) for label, kernel, _, duration in once]
    source = "a plain pass"
    again = profiled(replay, REPLAYS)
    if len(again) == REPLAYS * len(once) and [kernel for _, kernel, *_ in again] == names * REPLAYS:
        passes = [again[start:start + len(once)] for start in range(0, len(again), len(once))]
        kernels, source = [], "a graph's replay"
        for at, label in enumerate(labels):
            spent = sorted(one[at][3] for one in passes)[REPLAYS // 2]
            waited = sorted(one[at][2] - (one[at - 1][2] + one[at - 1][3]) for one in passes)[REPLAYS // 2] if at else 0.0
            kernels.append((label, names[at], spent, waited))
    rows = []
    for index, layer in enumerate(layers(fused.packed.specs, batch, SIDE, SIDE)):
        mine = [one for one in kernels if one[0] == f"{LABEL}{index}"]
        backend = choice.choose(layer.shape, DTYPES[dtype], image.device, choice.named(forced)).backend
        rows.append({"layer": layer, "backend": backend, "kernels": [kernel for _, kernel, *_ in mine],
                     "us": sum(one[2] for one in mine), "gap_us": sum(one[3] for one in mine)})
    others = [{"kernel": kernel, "us": spent} for label, kernel, spent, _ in kernels if not (label or "").startswith(LABEL)]
    return {"name": name, "batch": batch, "dtype": dtype, "layers": forced, "graph_ms": ms, "times_of": source, "rows": rows,
            "unlabelled": others}


def milliseconds(replay: Callable[[], object]) -> float:
    from benchmarks.gpu_worker import milliseconds as median

    return median(replay, torch.device("cuda"))


@contextlib.contextmanager
def labelled() -> Iterator[None]:
    """Inside, what each layer of a network launches stands under its number, counted through the whole network: for one pass."""
    plain, count = network.kernel, itertools.count()

    def kernel(backend: str, name: str):
        run, label = plain(backend, name), f"{LABEL}{next(count)}"

        def under_its_number(*args, **kwargs):
            with torch.profiler.record_function(label):
                return run(*args, **kwargs)

        return under_its_number

    network.kernel = kernel
    try:
        yield
    finally:
        network.kernel = plain


def profiled(call: Callable[[], object], times: int) -> list[tuple[str | None, str, float, float]]:
    """(label, kernel, start, duration) of what ran on the card, in us, in order. label: of the record_function it was launched in."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(times):
            call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        seen.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    return in_order(events)


def in_order(events: list[dict]) -> list[tuple[str | None, str, float, float]]:
    """The same from the events of a trace of torch.profiler."""
    spans = [(one["ts"], one["ts"] + one["dur"], one["name"]) for one in events
             if one.get("cat") == "user_annotation" and one.get("name", "").startswith(LABEL)]
    launched = {one["args"]["correlation"]: one["ts"] for one in events
                if one.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in one.get("args", {})}
    found = []
    for one in events:
        if one.get("cat") not in ("kernel", "gpu_memset", "gpu_memcpy"):
            continue
        at = launched.get(one.get("args", {}).get("correlation"))
        label = None if at is None else next((name for start, end, name in spans if start <= at <= end), None)
        found.append((label, one["name"], float(one["ts"]), float(one["dur"])))
    return sorted(found, key=lambda one: one[2])


def traffic_of(shape) -> Pass:
    """What a layer reads, writes and multiplies at least."""
    if isinstance(shape, MeanShape):
        return Pass(shape.images * shape.pixels * shape.channels, shape.images * shape.channels)
    if isinstance(shape, GateShape):
        n, _, c, squeeze, _ = shape
        return Pass(2 * squeeze * c + n * c, n * c, 2 * n * squeeze * c)
    rows = shape.rows
    if isinstance(shape, DirectShape):
        depth = shape.side**2 * shape.channels
        return Pass(rows * shape.stride**2 * shape.channels + depth * shape.o, rows * shape.o, rows * depth * shape.o)
    if isinstance(shape, GroupedShape):
        taps = 9 * shape.group_width
        return Pass(rows * shape.stride**2 * shape.channels + taps * shape.channels, rows * shape.channels, rows * taps * shape.channels)
    assert isinstance(shape, PointwiseShape)
    read = rows * shape.k + shape.k * shape.o + rows * shape.o * shape.residual + rows * shape.k2 + shape.k2 * shape.o
    return Pass(read, rows * shape.o, rows * (shape.k + shape.k2) * shape.o)


def with_floor(row: dict, card: Card, dtype: torch.dtype) -> dict:
    """A row with "floor_us", and "bound": what decides it."""
    one = Traffic((traffic_of(row["layer"].shape),), dtype.itemsize)
    memory, work = 1e6 * one.bytes / (card.bandwidth * 1e9), 1e6 * one.flops / (card.peak * 1e12)
    layer: Layer = row["layer"]
    text = f"{layer.step} {layer.part} {layer.shape.kernel} {' '.join(map(str, layer.shape))}"
    return {**row, "layer": text, "floor_us": max(memory, work), "bound": "memory" if memory >= work else "arithmetic"}


def report(found: dict) -> list[str]:
    """The layers that lie furthest above their floors, equal ones together, and the sums."""
    groups: dict[tuple, list[dict]] = {}
    for row in found["rows"]:
        groups.setdefault((row["layer"].partition(" ")[2], row["backend"], row["bound"]), []).append(row)
    lines = [f"{found['name']} batch {found['batch']}: graph {1e3 * found['graph_ms']:.0f} us; kernels "
             f"{sum(row['us'] for row in found['rows']) + sum(one['us'] for one in found['unlabelled']):.0f}, gaps "
             f"{sum(row['gap_us'] for row in found['rows']):.0f}, floor {sum(row['floor_us'] for row in found['rows']):.0f} (times of "
             f"{found['times_of']})"]
    body = []
    for (layer, backend, bound), rows in groups.items():
        spent, least = (sum(row[key] for row in rows) for key in ("us", "floor_us"))
        body.append((spent - least, (layer, str(len(rows)), backend, f"{spent:.1f}", f"{least:.1f}", bound,
                                     f"{least / spent:.0%}" if spent else "")))
    body.sort(reverse=True)
    lines += table(("layer", "times", "backend", "us", "floor", "bound", "share"), [cells for _, cells in body])
    return lines + [f"unlabelled: {one['kernel'][:60]} {one['us']:.1f} us" for one in found["unlabelled"]]


if __name__ == "__main__":
    sys.exit(main())

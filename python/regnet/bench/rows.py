"""Results as rows of a CSV file: the columns of all suites, the figures that follow from a time, reading, writing, resuming."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from regnet.atomic import write_text
from regnet.bench.machine import MIB, Bandwidth

# What a row measures, whoever ran it where: rows that agree in these are compared. A file has those of its suite.
IDENTITY = (
    "suite", "kind", "model", "source", "batch", "resolution", "side", "c_in", "c_mid", "c_out", "group_width", "stride", "se_width",
    "fused", "activation", "dtype", "peer",
)  # fmt: skip
SHAPE = tuple(name for name in IDENTITY if name not in ("model", "source", "resolution", "peer"))
TIMES = ("median_ms", "p20_ms", "p80_ms", "best_ms", "calls")
PROVENANCE = (
    "machine", "cores", "isa", "threads", "python", "torch", "regnet_kernels", "onnxruntime", "openvino", "commit", "build",
)  # fmt: skip
# What must not change between the rows of one file. (A commit that builds the same library may.)
SAME_RUN = ("suite", "dtype", *(name for name in PROVENANCE if name != "commit"))
SHAPE_COLUMNS = (
    *SHAPE, "peer", "algorithm", *TIMES, "call_ms", "gflop", "bytes", "gflops", "gbytes_s", "intensity", "share_of_peak", "floor_ms",
    "floor_over_ms", "floor_share", "models", "rel_err", "note", "peak_gflops", "copy_gbytes_s", *PROVENANCE, "date",
)  # fmt: skip
MODEL_COLUMNS = (
    "suite", "kind", "model", "source", "batch", "resolution", "dtype", "peer", *TIMES, "rel_err", "multiply_adds", "floor_ms",
    "peak_gflops", *PROVENANCE, "date",
)  # fmt: skip
WHOLE = {
    "batch", "resolution", "side", "c_in", "c_mid", "c_out", "group_width", "stride", "se_width", "calls", "cores", "threads", "bytes",
    "multiply_adds",
}  # fmt: skip
REAL = {
    "median_ms", "p20_ms", "p80_ms", "best_ms", "call_ms", "gflop", "gflops", "gbytes_s", "intensity", "share_of_peak", "floor_ms",
    "floor_over_ms", "floor_share", "rel_err", "peak_gflops",
}  # fmt: skip


def identity(row: dict, *, peer: bool = True) -> tuple:
    """What a row measures; without `peer` also for whom."""
    found = (row.get(name) for name in IDENTITY if peer or name != "peer")
    return tuple("" if value is None else value for value in found)


def model_rows(results: dict) -> list[dict]:
    """Rows of the results of whole models (results.py), old files without a provenance too."""
    about, found = results["machine"], results["versions"]
    provenance = results.get("provenance") or {
        "machine": f"{about.get('cpu')} (family {about.get('cpu_family')}, model {about.get('cpu_model')})", "cores": about.get("cores"),
        "isa": (about.get("kernels") or {}).get("chosen"), "python": found.get("python"), "torch": found.get("torch"),
        "regnet_kernels": found.get("regnet-kernels"), "onnxruntime": found.get("onnxruntime"), "openvino": found.get("openvino"),
    }  # fmt: skip
    common = {"suite": "models", "kind": "model", "date": results["date"], "peak_gflops": about["peak"]["gflops"]}
    return [common | provenance | record for record in results["latency"]]


def derive(row: dict, peak_gflops: float, bandwidth: Bandwidth) -> dict:
    """The row with every figure that follows from its median_ms, gflop and bytes: see docs/benchmarks.md."""
    floor = floor_ms(row["gflop"], row["bytes"], peak_gflops, bandwidth)
    made = row | {
        "intensity": row["gflop"] * 1e9 / row["bytes"], "floor_ms": floor, "peak_gflops": peak_gflops,
        "copy_gbytes_s": rates_text(bandwidth),
    }  # fmt: skip
    if row["median_ms"] is None:
        return made
    gflops = row["gflop"] / row["median_ms"] * 1e3
    return made | {
        "gflops": gflops, "gbytes_s": row["bytes"] / row["median_ms"] / 1e6, "share_of_peak": gflops / peak_gflops,
        "floor_over_ms": floor / row["median_ms"],
    }  # fmt: skip


def floor_ms(gflop: float, size: float, peak_gflops: float, bandwidth: Bandwidth) -> float:
    """The longer of 1e9 operations at the peak and `size` bytes at the bandwidth of a working set of that size."""
    return max(1e3 * gflop / peak_gflops, 1e-6 * size / bandwidth.at(size))


def rates_text(bandwidth: Bandwidth) -> str:
    """ "1:61.2 256:17.3": MiB and GB/s."""
    return " ".join(f"{size / MIB:g}:{rate:.1f}" for size, rate in bandwidth.rates.items())


def rates_from(text: str) -> Bandwidth:
    return Bandwidth({int(float(size) * MIB): float(rate) for size, rate in (pair.split(":") for pair in text.split())})


def save_rows(path: Path, rows: Iterable[dict], columns: tuple[str, ...]) -> None:
    """Replace the file as a whole: one line a row, None as nothing."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows({name: _written(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def _written(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def load_rows(path: Path) -> list[dict]:
    """A CSV file of any suite, numbers as numbers and nothing as None. Raises FileNotFoundError, or ValueError for other content."""
    if not path.is_file():
        raise FileNotFoundError(f"no results file at {path}")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV: {error}") from error
    if missing := {"peer", "median_ms", "batch", "dtype", "threads"} - columns:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: expected a file of `regnet bench --csv`")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            row = {name: _read(name, text) for name, text in line.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        rows.append({"suite": "models", "kind": "model"} | row)  # older files are of models and do not say so
    return rows


def _read(name: str, text: str) -> object:
    if name in WHOLE:
        return int(text) if text else None
    if name in REAL:
        return float(text) if text else None
    return text.strip()


def check_same_run(path: Path, rows: list[dict], now: dict) -> None:
    """Raises ValueError where the rows of a file were measured otherwise than a run that would add to them."""
    for name in SAME_RUN:
        for row in rows:
            if str(row.get(name, "")) != str(now[name]):
                then, here = (f"{value or 'nothing'}" for value in (row.get(name), now[name]))
                raise ValueError(
                    f"{path} holds results with {name} {then}, this run has {here}: name another file, or give --fresh to replace it"
                )

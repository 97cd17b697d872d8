"""What must hold beside speed: memory, the time of `optimize`, the first call, the overhead of a call, the second thread.

    python -m benchmarks.limits --what memory --models regnety_400mf,regnety_3.2gf --json benchmarks/results/epyc-avx2-limits.json

memory      peak of a process that gets one model ready and runs it, and its steady state, for each peer; the import of torch or of
            the peer's runtime is in it, and shown apart. Ours is `optimize(create_model(name), inplace=True)`, "ours-copy" the
            default, after which the original is deleted. Goal: below every peer
optimize    seconds of the first `optimize` of a process. Goal: 1 s up to 3.2 GF
first-call  first call after `optimize` beside the second, batch 1. Goal: at most 20 % more
overhead    a forward pass of a network with the steps of the model, 8 channels wide, on a 1x1 image, less the time in its kernels.
            Goal: 50 us
threads     batch 16 on one thread and on two. Goal: 1.85 times faster, from 800 MF up

Every figure is the median of `--repeats` processes of its own (threads: of calls by turns in one process). With --json the rows
are written as they come; rows of the same kind, model and peer that the file holds are replaced, --missing measures only those
that it lacks. Exit status 0 whether the goals are met or not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich import box
from rich.progress import track
from rich.table import Table

from regnet.atomic import write_json
from regnet.bench.machine import describe, versions
from regnet.cli.output import comma_list, console, positive
from regnet.models import model_config

CHILD = Path(__file__).with_name("limits_child.py")
MEMORY_PEERS = ("ours", "ours-copy", "eager", "channels_last", "compile", "onnxruntime", "openvino")
MODES = ("inference", "no_grad")
SMALLEST = "regnetx_800mf"  # from here on two threads must pay

SCHEMA = "regnet-limits/1"


@dataclass(frozen=True)
class Job:
    """One row: what is measured, of which model and variant, and the arguments of each child process."""

    what: str
    model: str
    variant: str
    repeats: int
    arguments: dict

    @property
    def key(self) -> tuple[str, str, str]:
        return self.what, self.model, self.variant


def jobs(what: str, models: tuple[str, ...], peers: tuple[str, ...], threads: int, repeats: int, folder: Path) -> list[Job]:
    if what == "memory":
        return [Job(what, model, peer, repeats, {"peer": peer, "model": model, "threads": threads, "batch": 1, "onnx": str(folder / f"{model}.onnx")})
                for model in models for peer in peers]  # fmt: skip
    if what == "optimize":
        return [Job(what, model, "inplace" if inplace else "copy", repeats, {"model": model, "threads": threads, "inplace": inplace})
                for model in models for inplace in (False, True)]  # fmt: skip
    if what == "first-call":
        return [Job(what, model, "batch 1", repeats, {"model": model, "threads": threads, "batch": 1}) for model in models]
    if what == "overhead":
        return [Job(what, model, f"{mode}, {count} thread{'s' if count > 1 else ''}", repeats, {"model": model, "threads": count, "grad_mode": mode})
                for model in models for mode in MODES for count in sorted({1, threads})]  # fmt: skip
    return [Job(what, model, "batch 16", 1, {"model": model, "batch": 16, "rounds": 3}) for model in models]


def child(arguments: dict, timeout: float = 600) -> dict:
    """The answer of one measurement in a process of its own. Raises RuntimeError with what it had to say if it fails."""
    command = [sys.executable, str(CHILD), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(job: Job) -> dict:
    """The row of a job: each number the median over its processes."""
    if "onnx" in job.arguments and job.variant in ("onnxruntime", "openvino") and not Path(job.arguments["onnx"]).exists():
        child({"what": "export", "model": job.model, "onnx": job.arguments["onnx"]})
    found = [child({"what": job.what, **job.arguments}) for _ in range(job.repeats)]
    row = {"what": job.what, "model": job.model, "variant": job.variant, "repeats": job.repeats}
    for name, value in found[0].items():
        row[name] = median(one[name] for one in found) if isinstance(value, (int, float)) else [one[name] for one in found]
    if job.what == "first-call":  # the ratio of each process, and then their median
        row["ratio"] = median(one["first_ms"] / one["second_ms"] for one in found)
    return row


def verdict(row: dict, rows: list[dict]) -> str:
    """ "met", "missed (why)", or "" where the row has no goal."""
    what = row["what"]
    if what == "memory":
        if row["variant"] != "ours":
            return ""
        others = [other for other in rows if (other["what"], other["model"]) == (what, row["model"]) and not other["variant"].startswith("ours")]
        below = [other["variant"] for other in others if other["peak_mib"] <= row["peak_mib"]]
        return f"missed ({', '.join(below)})" if below else "met" if others else ""
    if what == "optimize":
        return _compare(row["seconds"] <= 1) if size(row["model"]) <= 3.2 else ""
    if what == "first-call":
        return _compare(row["ratio"] <= 1.2)
    if what == "overhead":
        return _compare(row["overhead_us"] <= 50)
    return _compare(row["speedup"] >= 1.85) if size(row["model"]) >= 0.8 else ""


def _compare(holds: bool) -> str:
    return "met" if holds else "missed"


def size(model: str) -> float:
    """The GF in a model's name."""
    text = model.partition("_")[2]
    return float(text[:-2]) / (1000 if text.endswith("mf") else 1)


COLUMNS = {  # heading: how a row shows it
    "memory": {"peak MiB": "{peak_mib:.0f}", "steady MiB": "{steady_mib:.0f}", "import": "{import_mib:.0f}",
               "peak - import": "{over_import:.0f}"},
    "optimize": {"seconds": "{seconds:.2f}", "MiB on top": "{extra_mib:.0f}"},
    "first-call": {"first ms": "{first_ms:.2f}", "second ms": "{second_ms:.2f}", "ratio": "{ratio:.2f}"},
    "overhead": {"steps": "{steps:.0f}", "forward us": "{forward_us:.1f}", "op us": "{op_us:.1f}", "kernels us": "{kernels_us:.1f}",
                 "overhead us": "{overhead_us:.1f}"},
    "threads": {"1 thread ms": "{one_ms:.1f}", "2 threads ms": "{two_ms:.1f}", "speed-up": "{speedup:.2f}", "of the best": "{best_speedup:.2f}"},
}  # fmt: skip


def table(what: str, rows: list[dict]) -> Table:
    made = Table(box=box.SIMPLE, title=what, title_justify="left")
    made.add_column("model")
    made.add_column("")
    for heading in COLUMNS[what]:
        made.add_column(heading, justify="right")
    made.add_column("goal")
    for row in rows:
        if row["what"] == what:
            shown = row | {"over_import": row["peak_mib"] - row["import_mib"]} if what == "memory" else row
            made.add_row(row["model"], row["variant"], *(form.format(**shown) for form in COLUMNS[what].values()), verdict(row, rows))
    return made


def load(path: Path | None) -> list[dict]:
    """The rows that a file holds; none for a file that is not there. Raises ValueError for another kind of file."""
    if path is None or not path.exists():
        return []
    held = json.loads(path.read_text())
    if held.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {held.get('schema')!r}, expected {SCHEMA!r}: give another --json")
    return held["rows"]


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, cwd=CHILD.parent)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", type=comma_list, default=tuple(COLUMNS), metavar="A,B", help=f"some of {','.join(COLUMNS)} (default: all)")
    parser.add_argument("--models", type=comma_list, default=("regnety_400mf", "regnetx_1.6gf", "regnety_3.2gf"), metavar="A,B")
    parser.add_argument("--peers", type=comma_list, default=MEMORY_PEERS, metavar="A,B", help="of the memory (default: all)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, the machine, versions and the commit here")
    parser.add_argument("--missing", action="store_true", help="measure only what FILE lacks")
    options = parser.parse_args()
    for what, known in ((options.what, COLUMNS), (options.peers, MEMORY_PEERS)):
        if unknown := [name for name in what if name not in known]:
            parser.error(f"{unknown[0]!r} is unknown; expected some of {', '.join(known)}")
    for model in options.models:
        model_config(model)
    rows = {(row["what"], row["model"], row["variant"]): row for row in load(options.json)}
    mine = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = [job for what in options.what for job in jobs(what, options.models, options.peers, options.threads, options.repeats, Path(folder))]
        wanted = [job for job in wanted if not (options.missing and job.key in rows)]
        for job in track(wanted, "measuring", console=console(), transient=True):
            rows[job.key] = measure(job) | {"threads": options.threads, "commit": commit()}
            mine.append(rows[job.key])
            if options.json:
                write_json(options.json, {"schema": SCHEMA, "machine": describe(), "versions": versions(), "rows": list(rows.values())})
    shown = list(rows.values()) if options.missing else mine
    for what in options.what:
        console().print(table(what, shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())

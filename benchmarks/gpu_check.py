"""All that a card can tell, in one command and at most eight minutes: `make gpu-check`, or python -m benchmarks.gpu_check.

In this order, so that an early end costs the least: what csrc needs built; the GPU tests against float64, in several processes where
pytest-xdist is installed, while others compile Triton's kernels of the models that come first; the times that the goals need; compute-sanitizer's memcheck over every kernel and racecheck over those in CUDA C++; the other times. See gpu_plan.py for what
is timed, gpu_goals.py for the goals. Into benchmarks/results/<card>/, after each step: gpu_check.json (all of it), gpu_check.md (the
tables), gpu_check.log (what the compilers said).

The same command goes on where the time ran out or Ctrl-C stopped it, as long as the card, the versions, the sources and the tuned
configurations are the same; --fresh starts anew. Needs a card, no network. Without a card: one line and exit status 1. What fails is
written down with its error, and the others go on. Exit status 1 also where the build, a test or the sanitizer failed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *([] if importlib.util.find_spec("regnet") else [str(ROOT / "python")])]  # also where it is not installed

import torch  # noqa: E402

from regnet.atomic import write_json, write_text  # noqa: E402

from benchmarks.gpu_goals import report  # noqa: E402
from benchmarks.gpu_plan import MODELS, Job, jobs  # noqa: E402

MINUTES = 8.0
BUILD, TESTS, COMPILE, SANITIZER = 120, 150, 60, 60  # seconds at most, each
JOB, COMPILING = 45, 150  # seconds at most for one time
MARGIN = 10  # seconds for imports before the clock runs, and for the tables after
LOST = 5  # jobs in a row that end their process: then something is wrong with all of them
SOURCES = ("regnet_kernels/**/*.py", "csrc/**/*.*", "python/regnet/models/*.py", "python/regnet/swap/*.py", "benchmarks/gpu_*.py",
           "tests/test_gpu.py", "tests/test_gpu_network.py")
SANITIZED = {"memcheck": ["triton", "cuda"], "racecheck": ["cuda"]}  # compute-sanitizer's tools: the backends that each looks at
Clock = Callable[[], float]


def main() -> int:
    args = parse()
    if reason := no_gpu():
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 1
    check = Check(args, time.monotonic)
    try:
        check.run()
    except KeyboardInterrupt:
        print("gpu-check: stopped; what was measured is kept, the same command goes on", file=sys.stderr)
        return 130
    finally:
        check.finish()
    return 1 if check.failed() else 0


def parse(given: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop before this long")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names (default: RegNet X and Y, 400MF to 16GF)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results/<card>)")
    parser.add_argument("--fresh", action="store_true", help="measure all again")
    args = parser.parse_args(given)
    if args.minutes <= 0:
        parser.error("--minutes must be positive")
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"--models: {', '.join(unknown)}; the goals are about {', '.join(MODELS)}")
    return args


def no_gpu() -> str:
    """Why torch cannot run on a card here, "" if it can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU, so nothing was checked; run it on a machine with a card (see nvidia-smi, CUDA_VISIBLE_DEVICES)"
    return ""


def no_card() -> str:
    """Why nothing can be measured here, "" if it can."""
    from regnet_kernels.backends import triton

    return no_gpu() or triton.why_not_here(torch.device("cuda", torch.cuda.current_device()))


class Check:
    """The phases of a run, and their record."""

    def __init__(self, args, clock: Clock):
        self.args, self.clock = args, clock
        self.start = clock()
        self.deadline = self.start + 60 * args.minutes - MARGIN
        self.core, self.rest = jobs(args.models)
        self.folder = args.output or ROOT / "benchmarks/results" / slug(torch.cuda.get_device_name())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record: dict = {}
        self.worker: Worker | None = None

    def run(self) -> None:
        with (self.folder / "gpu_check.log").open("ab") as log:
            built = self.built()
            if reason := no_card():
                raise SystemExit(f"gpu-check: {reason}")
            self.record = kept(self.folder / "gpu_check.json", identity(), self.args.fresh)
            self.record["build"] = built
            compiling = self.compiling(log)
            try:
                self.phase("tests", TESTS, test_command())
                compiling.wait(max(1.0, min(COMPILE, self.left())))
            except subprocess.TimeoutExpired:
                pass  # what is left is compiled when it is launched
            finally:
                end(compiling)
            self.worker = Worker([sys.executable, "-m", "benchmarks.gpu_worker"], log, self.clock)
            reserve = sum(SANITIZER for tool in SANITIZED if sanitizer() and not self.record.get(tool, {}).get("passed"))
            self.times(self.core, self.deadline - min(reserve, 0.3 * self.left()))
            for tool, backends in SANITIZED.items():  # without torch's cache each tensor is an allocation, beyond which nothing may read
                self.phase(tool, SANITIZER, sanitizer_command(tool, backends), PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            self.times([*self.core, *self.rest], self.deadline)

    def left(self) -> float:
        return self.deadline - self.clock()

    def built(self) -> dict:
        """Builds what changed of the CUDA library, before it is loaded; for this card alone unless TORCH_CUDA_ARCH_LIST says otherwise."""
        major, minor = torch.cuda.get_device_capability()
        chosen = {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "REGNET_KERNELS_BUILD_CPU": "0"}
        self.say("build")
        args = [sys.executable, "setup.py", "-q", "build_native", "--inplace"]
        return command(args, min(BUILD, self.left()), **{name: os.environ.get(name, value) for name, value in chosen.items()})

    def compiling(self, log) -> subprocess.Popen:
        """A process that fills Triton's cache with what the first models launch; it needs no card."""
        facts = torch.cuda.get_device_properties(torch.cuda.current_device())
        names = list(dict.fromkeys(job.name for job in self.core if job.what == "model" and job.name in MODELS))
        args = [sys.executable, "-m", "benchmarks.gpu_sweep", "--compile", str(max(1, (os.cpu_count() or 2) // 2)), "--networks-only",
                "--batches", "256", "1", "--arch", f"sm_{facts.major}{facts.minor}", "--multiprocessors", str(facts.multi_processor_count),
                "--models", *names]
        return subprocess.Popen(args, stdout=log, stderr=log, cwd=ROOT, env=environment(), start_new_session=True)

    def phase(self, name: str, seconds: float, args: list[str] | str, **environment: str) -> None:
        """Run a command, unless it passed before; args: why there is none, where it is a text."""
        if self.record.get(name, {}).get("passed"):
            return
        if isinstance(args, str):
            self.record[name] = {"passed": None, "why": args}
        elif self.left() < 10:
            self.record[name] = {"passed": None, "why": "no time was left; the same command goes on"}
        else:
            self.say(name)
            self.record[name] = command(args, min(seconds, self.left()), **environment)
        self.save()

    def times(self, plan: list[Job], deadline: float) -> None:
        take(plan, self.worker.ask, deadline, self.record["times"], self.save, self.clock, self.say)

    def say(self, text: str) -> None:
        spent = int(self.clock() - self.start)
        print(f"[{spent // 60}:{spent % 60:02}] {text}", flush=True)

    def save(self) -> None:
        known = {job_of(row) for row in self.record["times"] if "ms" in row}
        self.record["left"] = sum(job not in known for job in [*self.core, *self.rest])
        write_json(self.folder / "gpu_check.json", self.record)

    def finish(self) -> None:
        """End the worker, write and print the tables."""
        if self.worker is not None:
            self.worker.stop()
        if self.record:
            self.save()
            text = report(self.record, self.args.models)
            write_text(self.folder / "gpu_check.md", text)
            print(f"\n{text}\n{self.folder / 'gpu_check.json'} and gpu_check.md written")

    def failed(self) -> bool:
        return any(self.record.get(name, {}).get("passed") is False for name in ("build", "tests", "memcheck", "racecheck"))


def take(plan: Sequence[Job], ask: Callable[[Job, float], dict], deadline: float, rows: list[dict], save: Callable[[], None],
         clock: Clock = time.monotonic, say: Callable[[str], None] = print) -> None:
    """Have the jobs measured until `deadline`, saving after each: those never tried in order, then those that failed before.

    ask(job, seconds): the result, {"ms": ...} or {"error": ...}; "lost" among it where the process ended. rows: grows by a row a job.
    """
    failed = {job_of(row): "error" in row for row in rows}
    todo = [job for job in plan if job not in failed] + [job for job in plan if failed.get(job)]
    lost = 0
    for job in todo:
        if clock() >= deadline:
            return
        result = ask(job, min(COMPILING if job.way.startswith("compile") else JOB, deadline - clock()))
        lost = lost + 1 if result.pop("lost", False) else 0
        rows[:] = [row for row in rows if job_of(row) != job] + [{**job._asdict(), **result}]
        save()
        say(f"{job}: {shown(result)}")
        if lost == LOST:
            say(f"{LOST} jobs in a row ended their process; no more times are taken, see gpu_check.log")
            return


def job_of(row: dict) -> Job:
    return Job(*(row[name] for name in Job._fields))


def shown(result: dict) -> str:
    if "error" in result:
        return result["error"]
    units = {"gb_per_s": "GB/s", "tflop_per_s": "TFLOP/s", "images": "images"}
    return ", ".join([f"{result['ms']:.3f} ms", *(f"{result[key]:.0f} {unit}" for key, unit in units.items() if key in result)])


class Worker:
    """A process that measures, started when it is needed and again after it ended; `ask` never raises for what happens in there."""

    def __init__(self, args: list[str], log, clock: Clock = time.monotonic):
        self.args, self.log, self.clock = args, log, clock
        self.process: subprocess.Popen | None = None

    def ask(self, job: Job, seconds: float) -> dict:
        """The worker's answer to a job, or {"error": ...} where it gave none in time or ended."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = subprocess.Popen(self.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT,
                                            env=environment(), start_new_session=True)
        try:
            self.process.stdin.write(json.dumps(job._asdict()).encode() + b"\n")
            self.process.stdin.flush()
            line = self.line(seconds)
        except OSError:  # it ended before it read the job
            line = b""
        if line is None:
            self.stop()
            return {"error": f"not done in {seconds:.0f} s"}
        if not line:
            status = self.process.wait()
            self.stop()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            return {"error": f"the process ended, {how}; see gpu_check.log", "lost": True}
        answer = json.loads(line)
        if "lost" in answer:
            self.stop()
        return answer

    def line(self, seconds: float) -> bytes | None:
        """A line of the worker's, b"" at its end, None when the time is over."""
        end, found, pipe = self.clock() + seconds, b"", self.process.stdout.fileno()
        while not found.endswith(b"\n"):
            if not select.select([pipe], [], [], max(0.0, end - self.clock()))[0]:
                return None
            part = os.read(pipe, 1 << 16)
            if not part:
                return b""
            found += part
        return found

    def stop(self) -> None:
        """End the worker and what it started, such as torch.compile's own workers."""
        if self.process is None:
            return
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # what was written last was never read
                pass
        self.process = None


def kept(path: Path, of: dict, fresh: bool = False) -> dict:
    """The record of an earlier run of the same things, else a new one. What else is in its place is set aside as *.old.json."""
    try:
        record = json.loads(path.read_text())
        if record.get("identity") == of and not fresh:
            return record
    except FileNotFoundError:
        return {"card": of["card"], "identity": of, "times": []}
    except (ValueError, AttributeError):
        pass
    os.replace(path, path.with_suffix(".old.json"))
    return {"card": of["card"], "identity": of, "times": []}


def identity() -> dict:
    """What times are valid for: card, driver, versions, the sources here, and the configurations tuned for the card."""
    from regnet_kernels import tuning

    device = torch.device("cuda", torch.cuda.current_device())
    known = tuning.identity(device)
    tuned = tuning.cache_file(known)
    return {**known._asdict(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "python": sys.version.split()[0],
            "sources": hash_of([path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]),
            "tuned": hash_of([tuned]) if tuned.exists() else "nothing"}


def hash_of(paths: list[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def test_command() -> list[str]:
    """The GPU tests, or what can be tested of them without pytest."""
    if importlib.util.find_spec("pytest") is None:
        print("gpu-check: pytest is not installed; the checks of regnet_kernels.testing.gpu run alone")
        return [sys.executable, "-m", "regnet_kernels.testing.gpu"]
    files = [str(ROOT / "tests" / name) for name in ("test_gpu.py", "test_gpu_network.py")]
    parallel = ["-n", str(min(8, os.cpu_count() // 2))] if importlib.util.find_spec("xdist") and (os.cpu_count() or 1) > 3 else []
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, *files, "-k", "not sanitizer"]


def sanitizer() -> str | None:
    """Where compute-sanitizer is: on PATH or beside the CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [None, *(f"{home}/bin" for home in homes if home)]
    return next((found for place in places if (found := shutil.which("compute-sanitizer", path=place))), None)


def sanitizer_command(tool: str, backends: list[str]) -> list[str] | str:
    found = sanitizer()
    if found is None:
        return "compute-sanitizer is not installed"
    return [found, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "benchmarks.gpu_worker", "--one-pass", *backends]


def command(args: list[str], seconds: float, **more: str) -> dict:
    """{"passed": bool, "seconds": how long it took, "why": in a few words if it failed, "output": its last lines}."""
    start = time.monotonic()
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=environment() | more,
                               start_new_session=True)
    try:
        output = process.communicate(timeout=max(seconds, 1))[0].decode(errors="replace")
        passed = process.returncode == 0
        why = "" if passed else f"status {process.returncode}: {(output.strip().splitlines() or ['no output'])[-1]}"
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0].decode(errors="replace")
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        passed, why = False, f"not done in {seconds:.0f} s"
    return {"passed": passed, "seconds": round(time.monotonic() - start, 1), "why": why, "output": output[-4000:]}


def end(process: subprocess.Popen) -> None:
    """A process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def environment() -> dict[str, str]:
    """For the processes that are started here: the packages of this checkout, installed or not."""
    paths = [str(ROOT), str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def slug(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())

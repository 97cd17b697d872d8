"""`make gpu-check` without a card: its refusal, plan, clock and records with stand-ins for the card; the goals' arithmetic; the paths of
the times on CPU tensors; and the traffic model."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import regnet
import torch
from regnet.traffic import CARDS, Card, block_traffic, plain_network, traffic
from regnet_kernels.backends.gpu.layers import layers
from regnet_kernels.backends.triton import configs
from regnet_kernels.backends.triton.machine import Machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_check, gpu_goals, gpu_layers, gpu_sweep, gpu_worker  # noqa: E402
from benchmarks.gpu_plan import BLOCKS, CARD_JOBS, EFFICIENTNET, MODELS, OPS, WAYS, Job, block_of, floor, jobs  # noqa: E402

CORE, REST = jobs()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu_check", "gpu_tune"])
def test_without_a_card_it_says_so_in_one_line(name):
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    said = f"{name.replace('_', '-')}: torch finds no GPU"
    assert [said in line for line in done.stderr.strip().splitlines() if "WARN" not in line] == [True], done.stderr


def test_what_runs_on_a_card_is_plain_python_3_10():
    for path in [*ROOT.glob("benchmarks/gpu_*.py"), *ROOT.glob("regnet_kernels/**/*.py"), *ROOT.glob("python/regnet/**/*.py")]:
        ast.parse(path.read_text(), str(path), feature_version=(3, 10))


def test_the_plan_measures_all_that_the_goals_name_and_the_cheap_before_the_slow():
    every = CORE + REST
    assert len(set(every)) == len(every) and CORE[:3] == CARD_JOBS
    named = {Job("model", name, -1, batch, dtype, way) for name in MODELS for batch in (1, 32, 256) for dtype in ("float16", "bfloat16")
             for way in WAYS}
    assert named <= set(every) and len(MODELS) == 20
    assert {(job.what, job.way) for job in CORE} >= {("model", "ours graph"), ("model", "eager graph"), (OPS[0], "ours graph"),
                                                     *((what, "ours graph") for what in BLOCKS)}
    assert not any(job.way.startswith("compile") for job in CORE) and EFFICIENTNET in {job.name for job in CORE}
    assert {job.name for job in jobs(["regnety_400mf"])[0]} == {"copy", "matmul", "regnety_400mf", "regnetx_8.0gf", EFFICIENTNET}
    card = Card("some", 2000, 300, "")
    assert all((floor(job, card) is None) == (job.what == "card" or job.name == EFFICIENTNET) for job in CORE + REST[::23])


class Clock:
    """Time that passes only where a stand-in says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_jobs_are_taken_until_the_deadline_and_another_run_goes_on():
    clock, rows, saved, said = Clock(), [], [], []

    def ask(job, seconds):
        clock.now += 10
        asked.append((job, seconds))
        return {"error": "OutOfMemoryError: out of memory"} if job in failing else {"ms": 1.0}

    def run(seconds):
        asked.clear()
        gpu_check.take(CORE[:6], ask, clock() + seconds, rows, lambda: saved.append(len(rows)), clock, said.append)

    asked, failing = [], {CORE[1]}
    run(35)
    assert [job for job, _ in asked] == CORE[:4] and [seconds for _, seconds in asked] == [35, 25, 15, 5] and saved == [1, 2, 3, 4]
    assert said[1] == f"{CORE[1]}: OutOfMemoryError: out of memory" and said[0].endswith("1.000 ms")
    failing.clear()
    run(1000)  # what is left, then what failed; what is known is not asked again
    assert [job for job, _ in asked] == [*CORE[4:6], CORE[1]] and {seconds for _, seconds in asked} == {gpu_check.JOB}
    assert sorted(map(str, map(gpu_check.job_of, rows))) == sorted(map(str, CORE[:6])) and not any("error" in row for row in rows)
    run(1000)
    assert not asked
    slow = [job for job in REST if job.way == "compile graph"][:1]
    gpu_check.take(slow, ask, clock() + 1000, rows, list, clock, said.append)
    assert asked[-1] == (slow[0], gpu_check.COMPILING)


def test_a_run_in_which_every_process_ends_gives_up():
    rows, said = [], []
    gpu_check.take(CORE[:20], lambda *_: {"error": "the process ended, signal 11", "lost": True}, 1e9, rows, list, Clock(), said.append)
    assert len(rows) == gpu_check.LOST and "in a row" in said[-1] and "lost" not in rows[0]


SCRIPT = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)
    print("a library speaks", file=sys.stderr)
    if job["name"] == "slow":
        time.sleep(60)
    if job["name"] == "crash":
        os._exit(3)
    last = {"lost": True} if job["name"] == "last" else {}
    print(json.dumps({"ms": 2.0, "process": os.getpid(), **last}), flush=True)
    if last:
        sys.exit(1)
"""


def test_a_worker_that_hangs_or_ends_costs_one_job(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        worker = gpu_check.Worker([sys.executable, "-c", SCRIPT], log)

        def ask(name, seconds=30):
            return worker.ask(Job("model", name, -1, 1, "float16", "ours"), seconds)

        first, second = ask("a"), ask("b")
        assert first == second and first["ms"] == 2.0
        assert ask("slow", 0.3) == {"error": "not done in 0 s"} and worker.process is None
        other = ask("a")["process"]
        assert other != first["process"]
        assert ask("crash") == {"error": "the process ended, status 3; see gpu_check.log", "lost": True}
        assert ask("last")["lost"] and worker.process is None and ask("a")["ms"] == 2.0
        worker.stop()
        assert worker.process is None
    assert b"a library speaks" in (tmp_path / "log").read_bytes()


def test_the_worker_answers_every_job_and_ends_when_the_card_is_lost(capsys):
    class Bench:
        device, lost = torch.device("cpu"), False

        def measure(self, job):
            if job.batch == 2:
                raise torch.cuda.OutOfMemoryError("out of memory\nand more")
            return {"ms": 1.0}

        def forget(self):
            if self.lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    requests = [json.dumps(Job("model", "a", -1, batch, "float16", "ours")._asdict()) for batch in (1, 2, 4)]
    bench = Bench()
    assert gpu_worker.serve(bench, requests, sys.stdout) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers == [{"ms": 1.0}, {"error": "OutOfMemoryError: out of memory"}, {"ms": 1.0}]
    bench.lost = True
    assert gpu_worker.serve(bench, requests, sys.stdout) == 1 and len(capsys.readouterr().out.splitlines()) == 2


def test_every_way_of_every_job_runs_on_cpu_tensors(monkeypatch):
    monkeypatch.setattr(gpu_worker, "compiled", lambda target: target)  # an hour of compilers otherwise
    bench = gpu_worker.Bench("cpu", gpu_worker.Sizes(side=64, efficientnet_side=64, copied=1 << 16, matrix=64, cold=1 << 14))
    monkeypatch.setattr(gpu_worker, "BUDGET", 0.0)
    plan = [*CARD_JOBS, *(Job("model", "regnetx_400mf", -1, 2, "bfloat16", way) for way in WAYS)]
    plan += [Job(what, "regnety_400mf", stage, 2, "bfloat16", way) for what in (*BLOCKS, *OPS) for stage in (0, 3)
             for way in ("ours graph", "eager", "compile")]
    for job in plan:
        result = bench.measure(job)
        assert result["ms"] > 0 and set(result) <= {"ms", "gb_per_s", "tflop_per_s"}, job
    for job in plan[3:]:  # what was made is what the floor is of
        if job.what != "model":
            spec, side = block_of(job.name, job.stage, first=job.what.endswith("stride 2"))
            given = bench.calls(job)[0].args[-1].shape
            assert given == (2, spec.c_mid if job.what.startswith("grouped") else spec.c_in, *[side * 64 // 224] * 2), job
    limited = []

    def only_two_fit(job):
        limited.append(job.batch)
        if job.batch > 2:
            raise torch.cuda.OutOfMemoryError
        return {"ms": 3.0}

    monkeypatch.setattr(bench, "time", only_two_fit)
    assert bench.measure(Job("model", EFFICIENTNET, -1, 16, "float16", "eager")) == {"ms": 3.0, "images": 2} and limited == [16, 8, 4, 2]


def record_of(*measured: tuple[Job, dict]) -> dict:
    return {"card": "Some Card", "times": [{**job._asdict(), **result} for job, result in measured], "left": 3,
            "tests": {"passed": True, "why": ""}, "memcheck": {"passed": None, "why": "compute-sanitizer is not installed"}}


def models_of(names, times: dict[str, float], batch=256, dtype="float16"):
    return [(Job("model", name, -1, batch, dtype, way), {"ms": ms}) for name in names for way, ms in times.items()]


def goal(record: dict, text: str, models=("regnety_400mf", "regnetx_400mf")):
    (found,) = [one for one in gpu_goals.goals(record, models) if one.wanted.startswith(text)]
    return found


def test_leads_are_met_only_with_every_peer_and_missed_without():
    names = ("regnety_400mf", "regnetx_400mf")
    only_eager = models_of(names, {"ours graph": 1.0, "ours": 1.5, "eager graph": 3.0, "eager": 2.5})
    found = goal(record_of(*only_eager), "float16, batch 256: 2.0x")
    assert (found.value, found.verdict) == ("2.50x", "open") and "2 of 2 models, torch.compile among the peers of 0" in found.detail
    assert goal(record_of(*only_eager, *models_of(names, {"compile graph": 2.25})), "float16, batch 256: 2.0x")[1:3] == ("2.25x", "met")
    assert goal(record_of(*only_eager, *models_of(names[:1], {"compile": 1.0})), "float16, batch 256: 2.0x")[1:3] == ("1.58x", "missed")
    slow = models_of(names, {"ours graph": 1.0, "eager": 1.9})
    assert goal(record_of(*slow), "float16, batch 256: 2.0x").verdict == "missed"  # another peer could only be faster
    assert goal(record_of(*slow[:2]), "float16, batch 256: 2.0x").verdict == "open"
    assert goal(record_of(*models_of(names, {"ours": 1.0, "eager": 9.0}, batch=1)), "float16, batch 1 with").value == ""  # graphs only
    one = {"ours graph": 1.0, "eager graph": 1.6, "compile graph": 2.0}
    assert goal(record_of(*models_of(names, one, 1, "bfloat16")), "bfloat16, batch 1 with CUDA graphs: 1.5x")[1:3] == ("1.60x", "met")


CARD = [(CARD_JOBS[0], {"ms": 1.0, "gb_per_s": 1000.0}), (CARD_JOBS[1], {"ms": 1.0, "tflop_per_s": 200.0})]


def test_shares_of_the_floor_the_copy_bandwidth_and_a_block():
    name = "regnety_400mf"
    bound = traffic(name, 256).floor_ms(Card("", 1000.0, 200.0, ""))
    record = record_of(*CARD, *models_of([name], {"ours graph": bound / 0.8}))
    assert goal(record, "float16, batch 256: 70%", [name])[1:3] == ("80%", "met")
    assert goal(record, "float16, batch 256: 70%").verdict == "open"
    assert goal(record_of(*models_of([name], {"ours graph": 1.0})), "float16, batch 256: 70%").value == ""  # the card was not measured

    layers = {stage: Job(OPS[0], name, stage, 256, "float16", "ours graph") for stage in range(4)}
    spec, side = block_of(name, 1)
    pixels = 256 * side * side
    moved = 2 * (2 * pixels * spec.c_mid + 9 * spec.group_width * spec.c_mid)  # bytes, by hand
    assert floor(layers[1], Card("", 1000.0, 200.0, ""))[0] == pytest.approx(1e3 * moved / 1e12)
    rows = [(job, {"ms": floor(job, Card("", 1000.0, 200.0, ""))[0] / share})
            for job, share in zip(layers.values(), (0.9, 0.85, 0.95, 0.9))]
    found = goal(record_of(*CARD, *rows), "grouped 3x3")
    assert (found.value, found.verdict) == ("85%", "open")  # strides of 2 are not measured yet
    strided = Job(OPS[1], name, 1, 256, "float16", "ours graph")
    rows.append((strided, {"ms": floor(strided, Card("", 1000.0, 200.0, ""))[0] / 0.82}))
    assert goal(record_of(*CARD, *rows), "grouped 3x3")[1:3] == ("82%", "met")
    wide = Job(OPS[0], "regnety_16gf", 2, 256, "float16", "ours graph")  # groups of 112: arithmetic bounds it
    assert goal(record_of(*CARD, *rows, (wide, {"ms": 100.0})), "grouped 3x3").verdict == "met"
    rows.append((Job(*strided[:2], 2, *strided[3:]), {"ms": 100.0}))
    assert goal(record_of(*CARD, *rows), "grouped 3x3").verdict == "missed"

    blocks = [(Job(what, name, stage, 256, "float16", "ours graph"), {"ms": ms}) for stage, times in enumerate(((1.0, 0.95), (2.0, 1.84)))
              for what, ms in zip(BLOCKS, times)]
    assert goal(record_of(*blocks), "squeeze-excite")[1:3] == ("8.0%", "met")
    blocks[1][1]["ms"] = 0.8
    assert goal(record_of(*blocks), "squeeze-excite")[1:3] == ("20.0%", "missed")


def test_the_headline_compares_images_a_second():
    def efficientnet(way, **result):
        return Job("model", EFFICIENTNET, -1, 256, "float16", way), result

    ours = models_of(["regnetx_8.0gf"], {"ours graph": 20.0})
    eager, fast = efficientnet("eager", ms=80.0, images=128), efficientnet("compile graph", ms=60.0, images=128)
    assert goal(record_of(*ours, eager), "RegNetX-8GF")[1:3] == ("8.00x", "open")
    found = goal(record_of(*ours, eager, fast), "RegNetX-8GF")
    assert (found.value, found.verdict) == ("6.00x", "met") and "12800 and 2133 images/s (batch 128" in found.detail
    missing = efficientnet("eager", error="ModuleNotFoundError: EfficientNet-B5 needs torchvision or timm, and neither is installed")
    assert goal(record_of(*ours, missing), "RegNetX-8GF").detail.endswith("neither is installed")


def test_the_report_tells_all_of_it():
    failed = Job("model", "regnety_400mf", -1, 1, "float16", "compile"), {"error": "not done in 150 s"}
    text = gpu_goals.report(record_of(*CARD, *models_of(["regnety_400mf"], {"ours graph": 3.0, "eager": 9.0}), failed))
    assert "- tests: passed" in text and "- memcheck: not run (compute-sanitizer is not installed)" in text
    assert "Copy bandwidth 1000 GB/s, peak 200 TFLOP/s" in text and "3 jobs are left" in text and "not done in 150 s" in text
    row = next(line for line in text.splitlines() if line.startswith("| regnety_400mf"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1:3] == ["256", "float16"] and cells[3].startswith("3.000 (") and cells[6].startswith("9.000 (") and cells[7] == ""
    assert gpu_goals.measured_card([{"gb_per_s": 2500.0}, {"tflop_per_s": 700.0}], "NVIDIA H100 80GB HBM3").peak == 989.4
    assert gpu_goals.report({"card": "Some Card"}).count("nothing measured") == 9


@pytest.fixture
def card(monkeypatch):
    """A card as far as gpu_check asks for one."""
    monkeypatch.setattr(gpu_check.Check, "compiling", lambda self, log: subprocess.Popen(["true"], start_new_session=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some Card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(gpu_check, "no_card", lambda: "")
    monkeypatch.setattr(gpu_check, "identity", lambda: {"card": "Some Card", "torch": "2"})


FEW = ("regnety_400mf", "regnetx_1.6gf")


def run_of(tmp_path, monkeypatch, clock, minutes=8.0, outcome=lambda name: True, tool="/bin/compute-sanitizer", more=()):
    """A whole run on stand-ins: (exit status, the order of what ran, the record)."""
    order = []

    def command(args, seconds, **environment):
        name = next(name for name in ("build_native", "test_gpu", "memcheck", "racecheck") if any(name in arg for arg in args))
        order.append(name)
        clock.now += 20
        assert seconds > 0 and (name.endswith("check") == ("PYTORCH_NO_CUDA_MEMORY_CACHING" in environment))
        return {"passed": outcome(name), "seconds": 20, "why": "", "output": ""}

    class Worker:
        def __init__(self, *_):
            pass

        def ask(self, job, seconds):
            order.append(job)
            clock.now += 4
            return {"ms": 1.0, **{"copy": {"gb_per_s": 1000.0}, "matmul": {"tflop_per_s": 100.0}}.get(job.name, {})}

        def stop(self):
            order.append("stopped")

    monkeypatch.setattr(gpu_check, "command", command)
    monkeypatch.setattr(gpu_check, "Worker", Worker)
    monkeypatch.setattr(gpu_check, "sanitizer", lambda: tool)
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path), "--minutes", str(minutes), "--models", *FEW, *more])
    status = gpu_check.main()
    return status, order, json.loads((tmp_path / "gpu_check.json").read_text())


def test_a_whole_run_keeps_to_its_time_and_the_next_goes_on(card, tmp_path, monkeypatch, capsys):
    clock, (core, rest) = Clock(), jobs(FEW)
    status, order, record = run_of(tmp_path, monkeypatch, clock)
    assert status == 0 and clock.now - 100 <= 8 * 60 and order[-1] == "stopped"
    assert order[:2] == ["build_native", "test_gpu"] and order[2:2 + len(core)] == core  # the goals' times before the sanitizer
    assert order[2 + len(core):4 + len(core)] == ["memcheck", "racecheck"] and order[4 + len(core)] == rest[0]
    taken = sum(isinstance(one, Job) for one in order)
    assert record["left"] == len(core) + len(rest) - taken > 0 and record["memcheck"]["passed"]
    assert "jobs are left" in (tmp_path / "gpu_check.md").read_text() and "| goal" in capsys.readouterr().out
    status, order, again = run_of(tmp_path, monkeypatch, clock)  # what passed is not run again
    assert order[0] == "build_native" and order[1] == rest[taken - len(core)] and again["left"] < record["left"]
    status, order, _ = run_of(tmp_path, monkeypatch, clock, more=["--fresh"], tool=None, outcome=lambda name: name != "test_gpu")
    assert status == 1 and order[1] == "test_gpu" and "memcheck" not in order and (tmp_path / "gpu_check.old.json").exists()
    monkeypatch.setattr(gpu_check, "identity", lambda: {"card": "Some Card", "torch": "3"})
    status, order, record = run_of(tmp_path, monkeypatch, clock, minutes=1)
    assert order[1] == "test_gpu" and record["memcheck"] == {"passed": None, "why": "no time was left; the same command goes on"}


def test_an_interrupted_run_writes_what_it_has(card, tmp_path, monkeypatch, capsys):
    class Interrupted(Clock):
        def __call__(self):
            if self.now > 160:
                self.now = -1e9
                raise KeyboardInterrupt
            return self.now

    status, order, record = run_of(tmp_path, monkeypatch, Interrupted())
    assert status == 130 and len(record["times"]) > 2 and order[-1] == "stopped" and "goes on" in capsys.readouterr().err
    (tmp_path / "gpu_check.json").write_text("{torn")
    new = {"card": "Some Card", "identity": {"card": "Some Card"}, "times": []}
    assert gpu_check.kept(tmp_path / "gpu_check.json", {"card": "Some Card"}) == new


def test_commands_end_in_time_and_say_why():
    slow = gpu_check.command([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"], 1)
    assert (slow["passed"], slow["why"]) == (False, "not done in 1 s") and "begun" in slow["output"]
    wrong = gpu_check.command([sys.executable, "-c", "import regnet; raise SystemExit('that is why')"], 60)
    assert not wrong["passed"] and wrong["why"] == "status 1: that is why"
    assert gpu_check.command([sys.executable, "-c", "import os; assert os.environ['A'] == 'b'"], 60, A="b")["passed"]


def test_a_trace_tells_which_kernels_belong_to_which_layer():
    spans = [{"cat": "user_annotation", "name": f"layer {index}", "ts": 20 * index, "dur": 10} for index in range(2)]
    calls = ("cuda_driver", 5), ("cuda_runtime", 25), ("cuda_runtime", 40)
    launches = [{"cat": cat, "ts": at, "args": {"correlation": at}} for cat, at in calls]
    kernels = [{"cat": "kernel", "name": f"k{at}", "ts": 100 + at, "dur": 3, "args": {"correlation": at}} for at in (25, 5, 40)]
    assert gpu_layers.in_order([*kernels, *spans, *launches]) == [("layer 0", "k5", 105.0, 3.0), ("layer 1", "k25", 125.0, 3.0),
                                                                 (None, "k40", 140.0, 3.0)]
    specs, card = plain_network("regnety_400mf").specs, Card("some", 3000, 800, "")
    rows = [gpu_layers.with_floor({"layer": layer}, card, torch.float16) for layer in layers(specs, 8, 224, 224)]
    assert sum(row["floor_us"] for row in rows) == pytest.approx(1e3 * traffic("regnety_400mf", 8).floor_ms(card))


def test_a_sweep_tries_each_cut_once_and_the_heuristic_first():
    card = Machine("sm_90", 132)
    for job in gpu_sweep.jobs(gpu_sweep.parse(["--models", "regnety_400mf", "--batches", "256", "1"]), CARDS[1])[::7]:
        found = gpu_sweep.candidates(card, job.dtype, job.shape)
        assert len(found) == len(set(found))
        assert job.shape.kernel == "expand_grouped" or found[0] == configs.heuristic(card, job.dtype, job.shape)


def test_the_traffic_model_counts_the_flops_of_the_paper_and_the_bytes_of_a_block_by_hand():
    for name in regnet.list_models("regnet[xy]*"):
        macs = traffic(name, 2).flops / 2
        assert macs == pytest.approx(2 * regnet.complexity(name).flops, rel=0.01), name
        ours, inductor, eager = (traffic(name, 256, path) for path in ("ours", "inductor", "eager"))
        assert ours.bytes < inductor.bytes < eager.bytes and ours.flops == eager.flops
        assert all(ours.floor_ms(card) < eager.floor_ms(card) for card in CARDS)
        for card in CARDS:  # fused blocks: fewer bytes and launches, more products, and only where that is the quicker way
            there = traffic(name, 256, card=card)
            assert there.bytes <= ours.bytes and there.launches <= ours.launches and there.flops >= ours.flops
            assert (there.launches < ours.launches) == (there.bytes < ours.bytes) and there.floor_ms(card) <= ours.floor_ms(card)
    assert traffic("regnety_400mf", 256, card=CARDS[-1]).launches < traffic("regnety_400mf", 256).launches
    with pytest.raises(ValueError, match="path 'theirs' is unknown"):
        traffic("regnety_400mf", 1, "theirs")
    # An identity X block of 64 channels on 2 maps of 56 x 56: x twice, t twice each way, y once; weights once.
    spec = plain_network("regnetx_400mf").specs[1]._replace(c_in=64, c_mid=64, c_out=64, stride=1, group_width=16, has_proj=0)
    assert block_traffic(spec, 2, 56).bytes == 2 * (7 * 2 * 56 * 56 * 64 + 2 * 64 * 64 + 9 * 16 * 64)

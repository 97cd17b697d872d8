"""Tuned configurations on disk, and `make gpu-tune` without a card; tuned launches are in triton_interpreted/test_tuned_launches.py."""

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from regnet.models.registry import list_models
from regnet.traffic import CARDS, plain_network, traffic
from regnet_kernels import tuning
from regnet_kernels.backends.triton.shapes import GateShape, PointwiseShape
from regnet_kernels.tuning import identities, store

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_tune  # noqa: E402

KNOWN = tuning.Identity("Some Card 80GB", 132, "570.1", "2.14", "3.8", "abc")


def entry(index, config=(64, 128, 32, 4, 3)):
    return {store.key(PointwiseShape(index, 7, 7, 8, 8), "float16"): store.Entry(config, 1.0, 2.0)}


def write_some(path, first, count):
    for index in range(first, first + count):
        store.merge(path, KNOWN, entry(index))


def test_several_processes_write_at_once_and_nothing_is_lost(tmp_path):
    path = tmp_path / "not there yet" / KNOWN.file_name
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(path, 100 * writer, 15)) for writer in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            store.read(path)  # a whole file, always
        assert [writer.exitcode for writer in writers] == [0] * 4
        assert store.read(path) == {key: value for writer in range(4) for index in range(15) for key, value in entry(100 * writer + index).items()}
    assert sorted(file.name for file in path.parent.iterdir()) == [KNOWN.file_name, f"{KNOWN.file_name}.lock"]


def test_what_is_written_is_read_and_the_later_value_stays(tmp_path):
    path = tmp_path / KNOWN.file_name
    gate = {store.key(GateShape(1, 49, 64, 8), "bfloat16"): store.Entry((16, 64, 64, 32, 4, 2, 1), 0.1, 0.1)}
    store.merge(path, KNOWN, entry(1))
    store.merge(path, KNOWN, {**gate, **entry(1, (32, 64, 16, 4, 3))})
    assert store.read(path) == {**gate, **entry(1, (32, 64, 16, 4, 3))}
    assert json.loads(path.read_text())["identity"]["card"] == "Some Card 80GB"


def damaged(change):
    content = {"format": 1, "entries": {"pointwise float16 1,7,7,8,8,1,0,0,0,1": {"config": [64, 128, 32, 4, 3], "ms": 1, "heuristic_ms": 2}}}
    change(content, next(iter(content["entries"].values())))
    return json.dumps(content).encode()


@pytest.mark.parametrize("content", [
    b"", b'{"format": 1, "ent', b"\xff\xfe\x00", b"[]", damaged(lambda all, one: all.update(format=2)),
    damaged(lambda all, one: one.update(config=[60, 128, 32, 4, 3])), damaged(lambda all, one: one.update(config=[64, 128, 32, 4])),
    damaged(lambda all, one: one.update(config="64")), damaged(lambda all, one: one.pop("ms")), damaged(lambda all, one: one.update(ms=None)),
    damaged(lambda all, one: all["entries"].update({"pointwise float16": one})), damaged(lambda all, one: all["entries"].update(x=[]))])
def test_a_broken_file_is_set_aside_with_one_warning(tmp_path, content):
    path = tmp_path / KNOWN.file_name
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="set aside") as caught:
        assert store.read(path) == {}
    assert len(caught) == 1
    assert [file.read_bytes() for file in tmp_path.glob("*.broken-*")] == [content]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read(path) == {}
        assert store.merge(path, KNOWN, entry(1)) == store.read(path) == entry(1)


def test_where_nothing_can_be_written_tuning_says_so_and_launches_go_on(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(tuning.TuningError, match="set REGNET_KERNELS_CACHE_DIR"):
        store.merge(blocked / KNOWN.file_name, KNOWN, entry(1))
    with pytest.warns(RuntimeWarning, match="cannot be read, so heuristics choose"):
        assert store.read(blocked / KNOWN.file_name) == {}


def test_a_change_of_a_kernel_or_of_the_machine_is_another_file(tmp_path):
    shutil.copytree(identities.KERNELS, tmp_path / "triton")
    before = identities.sources_hash(identities.KERNELS)
    assert identities.sources_hash(tmp_path / "triton") == before
    seen = {before}
    for index, name in enumerate(identities.SOURCES):
        changed = tmp_path / str(index)
        shutil.copytree(identities.KERNELS, changed)
        (changed / name).write_text((changed / name).read_text() + "\n# changed\n")
        seen.add(identities.sources_hash(changed))
    assert len(seen) == 1 + len(identities.SOURCES)
    others = [KNOWN._replace(**{name: value + 1 if isinstance(value, int) else value + "x"}) for name, value in KNOWN._asdict().items()]
    assert len({KNOWN.file_name, *(other.file_name for other in others)}) == 1 + len(KNOWN)


def test_the_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("REGNET_KERNELS_CACHE_DIR", str(tmp_path / "here"))
    assert tuning.cache_file(KNOWN) == tmp_path / "here" / KNOWN.file_name
    monkeypatch.delenv("REGNET_KERNELS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sys.platform != "linux" or tuning.cache_dir() == tmp_path / "regnet_kernels"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_it_says_so_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_tune", "--minutes", "8"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert "gpu-tune: torch finds no GPU, so nothing was tuned" in done.stderr
    with pytest.raises(tuning.TuningError, match="nothing can be tuned here"):
        tuning.tune(PointwiseShape(1, 7, 7, 8, 8), torch.float16)


def test_the_plan_is_the_traffic_model_launch_by_launch_most_expensive_first():
    for name in ("regnety_400mf", "regnetx_8.0gf"):
        ours = list(traffic(name, 32).passes)
        ours.pop(-2)  # the mean over the last map is not tuned
        assert [one for _, one in gpu_tune.launches(plain_network(name).specs, 32)] == ours
    jobs = gpu_tune.plan(list_models("regnet[xy]*"), (1, 32, 256), [torch.float16], CARDS[0])
    assert all(a.floor_ms >= b.floor_ms for a, b in zip(jobs, jobs[1:])) and jobs[0].shape.images == 256
    assert len({(job.shape.kernel, job.shape) for job in jobs}) == len(jobs)
    assert gpu_tune.card_like("NVIDIA H200").name == "H200" and gpu_tune.card_like("NVIDIA GeForce RTX 4090").bandwidth == 1008


def test_a_launch_that_fails_is_listed_and_the_clock_is_heeded():
    jobs = gpu_tune.plan(["regnety_200mf"], (1,), [torch.float16], CARDS[0])[:4]

    def tune(job):
        if job is jobs[1]:
            raise tuning.LaunchError("no memory")
        return tuning.Tuned(job.shape, job.dtype, (64, 64, 32, 4, 2), 1.0, 1.5, 0 if job is jobs[0] else 3, 0)

    done = gpu_tune.work(jobs, tune, time.monotonic() + 60)
    assert (len(done.found), done.known, done.failed, done.left) == (2, 1, [(jobs[1], "no memory")], 0)
    text = gpu_tune.summary(done)
    assert "2 launches tuned, 1 were known, 0 are left" in text and "1.50x" in text and "failed: no memory" in text
    assert gpu_tune.work(jobs, tune, time.monotonic() - 1).left == 4

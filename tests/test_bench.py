"""The benchmark's parts: input, names, weights, timing, sums, comparison, time limit, peers that fail, plot."""

import copy
import json
import math

import numpy as np
import pytest
import torch

import regnet
from regnet.atomic import write_json
from regnet.bench import machine, peers, plot, results
from regnet.bench.compare import compare, load
from regnet.bench.accuracy import float64_output, relative_error
from regnet.bench.images import batch_of, find_images, load_images
from regnet.bench.plan import Budget, Plan
from regnet.bench.rows import MODEL_COLUMNS, load_rows, model_rows, save_rows
from regnet.bench.run import run, steps
from regnet.bench.sources import build_model, canonical_name, source_name
from regnet.bench.tables import omitted_lines
from regnet.bench.timing import interleave
from regnet.models import list_models

TINY = dict(models=("regnety_400mf",), batches=(2,), resolution=64, rounds=1, block_seconds=0.005, threads=1)


def record(peer, ms, model="regnety_400mf", source="timm", batch=1, spread=0.01):
    return {
        "model": model, "source": source, "batch": batch, "resolution": 224, "dtype": "float32", "threads": 2, "peer": peer, "calls": 8,
        "median_ms": ms, "p20_ms": ms * (1 - spread), "p80_ms": ms * (1 + spread), "best_ms": ms, "rel_err": 1e-6,
        "multiply_adds": 400_000_000, "floor_ms": 1.5 * batch,
    }  # fmt: skip


def made_up_results(latency):
    rows = results.speedups(latency)
    peak = {"gflops": 500.0, "threads": 2, "method": "made up"}
    return {
        "schema": results.SCHEMA, "date": "2030-01-01T00:00:00+00:00", "versions": {"torch": "1"}, "latency": latency, "speedups": rows,
        "machine": {"cpu": "A CPU", "cpu_model": "1", "cores": 2, "kernels": {"chosen": "avx2"}, "peak": peak},
        "summary": results.summary(rows),
    }  # fmt: skip


@pytest.fixture(scope="module")
def photographs():
    return load_images(find_images(), 64)


def test_packaged_photographs_are_five_different_normalised_images(photographs):
    assert photographs.shape == (5, 3, 64, 64) and photographs.dtype == np.float32
    assert len({image.tobytes() for image in photographs}) == 5
    assert np.abs(photographs.mean()) < 1 and 0.3 < photographs.std() < 2


def test_preprocessing_is_torchvisions():
    from PIL import Image
    from torchvision.transforms import v2

    path = find_images()[3]
    steps = [v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    expected = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])(Image.open(path).convert("RGB"))
    assert np.abs(load_images([path])[0] - expected.numpy()).max() < 1e-5


def test_batches_repeat_the_images(photographs):
    batch = batch_of(photographs, 7)
    assert batch.flags.c_contiguous and (batch[5] == photographs[0]).all() and (batch[6] == photographs[1]).all()
    assert len(batch_of(photographs, 2)) == 2


def test_images_of_the_user(tmp_path, photographs):
    with pytest.raises(FileNotFoundError, match="no image file or folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no image in the folder"):
        find_images(tmp_path)
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(ValueError, match="not an image"):
        load_images(find_images(tmp_path))


@pytest.mark.peers
def test_every_regnet_has_its_name_in_timm_and_in_torchvision_where_it_exists():
    import timm
    from torchvision import models

    regnets = [name for name in list_models() if name.startswith("regnet")]
    known = {"timm": set(timm.list_models("regnet*")), "torchvision": set(models.list_models(include="regnet*"))}
    for name in regnets:
        assert source_name(name, "timm") in known["timm"]
        assert canonical_name(source_name(name, "timm")) == name
        if (theirs := source_name(name, "torchvision")) in known["torchvision"]:
            assert canonical_name(theirs) == name
    assert sum(source_name(name, "torchvision") in known["torchvision"] for name in regnets) == 14
    with pytest.raises(ValueError, match="torchvision"):
        canonical_name("regnety_008_tv")


@pytest.mark.peers
@pytest.mark.parametrize("source", ["timm", "torchvision", "regnet"])
def test_random_weights_leave_no_batchnorm_trivial_and_keep_the_activations_in_range(source, photographs):
    model = build_model("regnety_400mf", source, seed=3, calibration=photographs)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        assert not norm.training and norm.momentum == 0.1
        assert norm.running_var.std() > 0 and norm.weight.std() > 0 and norm.bias.std() > 0 and (norm.running_var > 0).all()
    truth = float64_output(model, photographs)
    assert np.isfinite(truth).all() and 1e-3 < truth.std() < 1e3
    again = build_model("regnety_400mf", source, seed=3, calibration=photographs)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_checkpoint_weights_are_the_ones_that_run(tmp_path, photographs):
    saved = build_model("regnety_400mf", "regnet", seed=5, calibration=photographs)
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    loaded = build_model("regnety_400mf", "timm", checkpoint=tmp_path / "weights.pt")
    assert np.array_equal(float64_output(loaded, photographs), float64_output(saved, photographs))


def test_each_peer_gets_an_untimed_call_and_then_a_block_of_its_own():
    log = []
    timings = interleave({name: (lambda name=name: log.append(name)) for name in "ab"}, rounds=2, block_seconds=1e9)
    assert timings["a"].calls == timings["b"].calls == 40
    blocks = "".join(log[4:])  # 2 calls each to choose the size of a block
    assert blocks == ("a" * 21 + "b" * 21) * 2
    assert timings["a"].best_ms <= timings["a"].p20_ms <= timings["a"].median_ms <= timings["a"].p80_ms


def test_relative_error_never_hides_a_nan():
    truth = np.array([[1.0, -4.0]])
    assert relative_error(torch.tensor([[1.0, -3.0]]), truth) == 0.25
    assert relative_error(torch.tensor([[float("nan"), -4.0]]), truth) == math.inf
    with pytest.raises(ValueError, match="expected"):
        relative_error(torch.zeros(2, 1), truth)


def test_speedups_are_over_the_best_peer_and_means_are_geometric():
    latency = [record("ours", 2.0), record("eager", 8.0), record("openvino", 4.0)]
    latency += [record("ours", 4.0, source="torchvision"), record("eager", 2.0, source="torchvision"), record("ours", 1.0, batch=16)]
    rows = results.speedups(latency)
    assert [(row["source"], row["best_peer"], row["speedup"]) for row in rows] == [("timm", "openvino", 2.0), ("torchvision", "eager", 0.5)]
    (one,) = results.summary(rows)
    assert one["geomean_speedup"] == pytest.approx(1.0) and one["worst_speedup"] == 0.5 and one["worst_model"] == "regnety_400mf (torchvision)"
    assert one["geomean_over"] == {"eager": pytest.approx(math.sqrt(4 * 0.5)), "openvino": 2.0}


def test_compare_calls_nothing_a_change_that_lies_within_the_spread(tmp_path):
    old = made_up_results([record("ours", 2.0), record("eager", 8.0), record("openvino", 4.0), record("compile", 3.0)])
    new = made_up_results([record("ours", 1.0), record("eager", 9.0), record("openvino", 4.4, spread=0.2), record("onnxruntime", 1.0)])
    found = compare(model_rows(old), model_rows(new))
    assert {row["peer"]: row["verdict"] for row in found.rows} == {"ours": "faster", "eager": "slower", "openvino": "same"}
    assert (found.only_old, found.only_new) == (1, 1) and ("model", "ours", 1, 0.5) in found.means
    assert found.noise == (pytest.approx(0.02), pytest.approx(0.02)) and not found.differences
    assert {row["peer"]: row["verdict"] for row in compare(model_rows(old), model_rows(new), 0.2).rows}["eager"] == "same"
    new["machine"]["cores"] = 4
    assert compare(model_rows(old), model_rows(new)).differences == ["cores: 2 then, 4 now"]
    write_json(tmp_path / "deep" / "old.json", old)
    assert results.load(tmp_path / "deep" / "old.json") == old and load(tmp_path / "deep" / "old.json") == model_rows(old)
    save_rows(tmp_path / "old.csv", model_rows(old), MODEL_COLUMNS)
    assert all(row["verdict"] == "same" and row["ratio"] == 1 for row in compare(load_rows(tmp_path / "old.csv"), model_rows(old)).rows)
    (tmp_path / "other.json").write_text(json.dumps({"schema": "else"}))
    with pytest.raises(ValueError, match="schema 'else', expected 'regnet-bench/1'"):
        results.load(tmp_path / "other.json")


def test_time_limit_gives_up_compilations_before_configurations():
    now = [0.0]
    budget = Budget(100, clock=lambda: now[0])
    assert budget.fits_compile(50) and not budget.fits_compile(60)
    budget.note_compile(20)
    assert budget.fits_compile(70)
    now[0] = 85
    assert not budget.fits_compile(0) and budget.left() == 15
    assert Budget(0, clock=lambda: now[0]).fits_compile(1e9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("regnetq_1gf",)}, "regnetq_1gf"),
        ({"models": ()}, "no model"),
        ({"sources": ("keras",)}, "unknown source 'keras'"),
        ({"peers": ("tensorrt",)}, "unknown peer 'tensorrt'"),
        ({"batches": (0,)}, "batch size 0"),
        ({"dtype": "int8"}, "int8"),
        ({"checkpoint": "x.pt"}, "one model"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Plan(**change)


@pytest.mark.peers
def test_a_run_records_every_peer_or_the_reason_why_not(monkeypatch):
    def fails(subject, batch):
        raise RuntimeError("made to\nfail")

    def is_wrong(subject, batch):
        return lambda: torch.zeros(len(batch), 1000)

    everyone = dict(peers.PEERS)
    everyone["channels_last"] = peers.Peer("channels_last", "failing", "-", fails)
    everyone["onnxruntime"] = peers.Peer("onnxruntime", "wrong", "-", is_wrong)
    everyone["openvino"] = peers.Peer("openvino", "absent", "-", fails, needs=("no_such_package",))
    monkeypatch.setattr(peers, "PEERS", everyone)
    plan = Plan(**TINY, sources=("timm", "torchvision"), peers=("eager", "channels_last", "compile", "onnxruntime", "openvino"), time_limit=30)
    counted, threads = [], torch.get_num_threads()
    found = run(plan, lambda text, count: counted.append(count))
    assert sum(counted) == steps(plan) and torch.get_num_threads() == threads
    assert {(r["source"], r["peer"]) for r in found["latency"]} == {(s, p) for s in ("timm", "torchvision") for p in ("ours", "eager")}
    reasons = {(o["source"], o["peer"]): o["reason"] for o in found["omitted"]}
    assert reasons[(None, "openvino")].startswith("not installed: no_such_package")
    assert reasons[("timm", "channels_last")] == "failed: RuntimeError: made to fail"
    assert reasons[("timm", "onnxruntime")].startswith("wrong result: relative error 1.0e+00")
    assert "would not fit in the time limit" in reasons[("timm", "compile")]
    assert "compiled for timm only" in reasons[("torchvision", "compile")]
    assert len(omitted_lines(found["omitted"])) == 5
    assert all(row["passed"] and row["ours_rel_err"] < 1e-4 for row in found["parity"])
    assert all(0 < r["floor_ms"] < r["median_ms"] for r in found["latency"])


@pytest.mark.peers
def test_installed_runtimes_agree_with_float64(tmp_path, photographs):
    model = build_model("regnetx_400mf", "torchvision", calibration=photographs)
    subject = peers.Subject(model, 1, torch.float32, tmp_path, 64)
    truth = float64_output(model, photographs)[:3]
    with torch.inference_mode():
        for name in ("ours", "eager", "channels_last", "onnxruntime", "openvino"):
            peer = peers.PEERS[name]
            if peer.missing(torch.float32) is None:
                assert relative_error(peer.prepare(subject, batch_of(photographs, 3))(), truth) < 1e-4, name
    assert peers.PEERS["onnxruntime"].missing(torch.bfloat16) == "does not run in bfloat16 on a CPU"


def test_the_peak_says_how_it_was_measured():
    peak = machine.measure_peak(1, seconds=0.05)
    assert peak.gflops > 0.1 and ("FMA" in peak.method or "lower bound" in peak.method)
    assert peak.floor_ms(1e9) == pytest.approx(2e3 / peak.gflops)


def test_plot_is_a_readable_size(tmp_path):
    from PIL import Image

    latency = [record(peer, ms, batch=batch) for batch in (1, 16) for peer, ms in (("ours", 2.0), ("eager", 8.0))]
    drawn = made_up_results(copy.deepcopy(latency))
    plot.save_plot(drawn, tmp_path / "bars.png")
    width, height = Image.open(tmp_path / "bars.png").size
    assert 400 < width < 4000 and 300 < height < 4000


def test_profile_of_the_layers_counts_every_multiply_add():
    network = regnet.create_model("regnetx_200mf", num_classes=10).eval()
    packed = regnet.optimize(network).packed
    table = torch.ops.regnet_kernels._profile_network(torch.randn(2, 3, 64, 64), packed.weights, packed.params, packed.program, 3)
    assert table.shape[1] == 3 + 3 and bool((table[:, 3:] > 0).all())
    assert int(table[:, 2].sum()) == 2 * (regnet.complexity(network, 64).flops - 10)  # which counts the 10 biases as well

"""benchmarks/gpu_check.py without a card: its refusal, its plan, its deadline, what it keeps of failures; and the traffic model."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import regnet
import torch
from regnet.atomic import write_json
from regnet.traffic import CARDS, traffic

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_check  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_it_says_so_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.strip().splitlines() == [line for line in done.stderr.splitlines() if "gpu-check: torch finds no GPU" in line]


def test_times_are_kept_one_by_one_until_the_deadline(tmp_path):
    plan, record, path = gpu_check.jobs(["a", "b"]), {"times": []}, tmp_path / "times.json"
    deadline = time.monotonic() + 60

    def measure(job):
        nonlocal deadline
        if job.way == "eager":
            raise torch.cuda.OutOfMemoryError("out of memory\nand more")
        return 1.0 if job.way.startswith("ours") else 2.0

    gpu_check.take(plan[:8], measure, deadline, record, lambda: write_json(path, record))
    assert json.loads(path.read_text())["times"] == record["times"] and len(record["times"]) == 8
    assert record["times"][2]["error"] == "OutOfMemoryError: out of memory" and "left_out" not in record
    gpu_check.take(plan, measure, time.monotonic() - 1, record, lambda: None)
    assert len(record["left_out"]) == len(plan)
    text = gpu_check.summary({**record, "card": "Some Card", "tests": {"passed": True}, "sanitizer": {"passed": None}})
    assert "model a 256 float16: ours 1.000 ms, best peer 2.000 ms, 2.00x" in text and "left out" in text
    assert {job.way for job in plan} == set(gpu_check.WAYS) and plan[0].batch == 256


def test_the_traffic_model_counts_the_flops_of_the_paper_and_the_bytes_of_a_block_by_hand():
    for name in regnet.list_models("regnet[xy]*"):
        macs = traffic(name, 2).flops / 2
        assert macs == pytest.approx(2 * regnet.complexity(name).flops, rel=0.01), name
        ours, inductor, eager = (traffic(name, 256, path) for path in ("ours", "inductor", "eager"))
        assert ours.bytes < inductor.bytes < eager.bytes and ours.flops == eager.flops
        assert all(ours.floor_ms(card) < eager.floor_ms(card) for card in CARDS)
    with pytest.raises(ValueError, match="path 'theirs' is unknown"):
        traffic("regnety_400mf", 1, "theirs")
    # An identity X block of 64 channels on 2 maps of 56 x 56: x twice, t twice each way, y once; weights once.
    from regnet.traffic import _block
    from regnet_kernels.packing import BLOCK
    from regnet_kernels.plain import PlainSpec

    spec = PlainSpec(BLOCK, 64, 64, 64, 3, 1, 1, 16, 0, 0, 1, 0, 0)
    pixels = 2 * 56 * 56
    passes = _block(spec, pixels, pixels, 2, "ours")
    assert sum(one.read + one.written for one in passes) == 7 * pixels * 64 + 2 * 64 * 64 + 9 * 16 * 64

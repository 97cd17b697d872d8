"""Triton's kernels where there is no GPU: interpreted here in a process of their own, compiled in test_triton_compile.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def test_nothing_imports_triton_before_a_kernel_is_called():
    script = "import sys, regnet, regnet_kernels; regnet.create_model; regnet.optimize; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_without_triton_the_backend_is_missing_and_says_so():
    script = """
import sys, torch
sys.modules["triton"] = None  # as if it were not installed
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else real(name, *rest)
import regnet_kernels as rk
assert "Triton is not installed; pip install 'regnet-kernels[triton]'" in rk.env_report()
x = torch.randn(1, 8, 3, 3)
assert rk.conv_bn_act(x, torch.randn(8, 8, 1, 1)).shape == x.shape
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_in_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--confcutdir", str(TESTS / "triton_interpreted"),
                           str(TESTS / "triton_interpreted")], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout[-2500:])

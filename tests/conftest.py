"""What all tests share: the hypothesis profiles, seeds, and a header that says which kernels are under test."""

import os

# Before torch starts its threads: with hundreds of tiny calls, threads that spin while they wait cost a busy machine minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

# derandomize: CI repeats the same examples; no deadline: the first call of a shape may plan or compile.
settings.register_profile("default", max_examples=30, deadline=None, derandomize=True, database=None)
settings.register_profile("quick", max_examples=8, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_report_header(config):
    import regnet_kernels

    return regnet_kernels.env_report().splitlines()

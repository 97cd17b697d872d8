"""These tests run in a process of their own (tests/test_triton.py starts it): TRITON_INTERPRET must be set before Triton is imported."""

import pytest
import torch
from regnet_kernels.backends.triton.machine import interpreting
from regnet_kernels.testing import triton_interpreter

collect_ignore_glob = [] if interpreting() else ["test_*.py"]


@pytest.fixture(autouse=True)
def launches():
    """The names of the kernels launched so far; each launch is checked for its addresses and for what it writes."""
    triton_interpreter.install()
    torch.manual_seed(0)
    with triton_interpreter.watch() as names:
        yield names

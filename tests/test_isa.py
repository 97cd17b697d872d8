"""The op tests once for each instruction set that this CPU can run, forced, out of memory that malloc fills with rubbish."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from regnet_kernels._extension import CPU_INFO

TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("isa", CPU_INFO.supported)
def test_ops_under(isa):
    environment = {
        # One thread: the maps are small, and the run with torch's own number of threads is test_ops.py itself.
        **os.environ, "REGNET_KERNELS_ISA": isa, "OMP_NUM_THREADS": "1",
        # glibc then fills what malloc hands out with 0xfe: -1.7e38 as a float32 or a bfloat16. Without mmap, so that
        # large buffers, which would come zeroed from the kernel, are filled too.
        "MALLOC_PERTURB_": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": str(1 << 26),
    }
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=quick", "-k",
                           "not eager", str(TESTS / "test_ops.py")], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
    assert f"chosen:        {isa} (forced" in done.stdout


def test_what_this_machine_cannot_check_is_named(record_property):
    """Not every CPU has every set; the report of the run shows which ones it left out."""
    missing = [isa for isa in CPU_INFO.compiled if isa not in CPU_INFO.supported]
    record_property("isa_not_run", ", ".join(missing) or "none")
    print(f"not run on this CPU: {', '.join(missing) or 'none'}")
    assert "baseline" in CPU_INFO.supported

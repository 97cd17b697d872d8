"""The CPU kernels without torch, against double precision: every table, also those that this CPU cannot run, another
architecture, and under sanitizers. What is checked and to what bounds: tests/cpu_harness/*_cases.cpp."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from regnet_kernels._extension import CPU_INFO

HERE = Path(__file__).resolve().parent


def _harness_module():
    spec = importlib.util.spec_from_file_location("_cpu_harness", HERE / "cpu_harness" / "harness.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


harness = _harness_module()
NO_CROSS = "needs {} on the PATH (Debian: apt-get install g++-aarch64-linux-gnu qemu-user): aarch64 is not tested"


def _runs():
    """(variant, table, random cases, parts of the harness or () for all, REGNET_KERNELS_PAIRS) of every run. The slowest first: it
    runs while the others are compiled."""
    yield "aarch64", "baseline", 2, (), "always"
    for isa in CPU_INFO.supported:
        yield "native", isa, 40, (), "always"
    for isa in harness.VARIANTS["sanitized"].tables:
        if isa in CPU_INFO.supported:
            yield "sanitized", isa, 10, (), "always"
    yield "threads", "baseline", 6, ("network", "squeeze"), "always"
    if "avx512" in CPU_INFO.supported:  # 1x1's by pairs, whose loops are assembly there and look like no access to a sanitizer
        yield "guarded", "avx512", 40, ("network",), "always"
        yield "guarded", "avx512", 20, ("network",), "never"
        yield "threads-avx512", "avx512", 6, ("network",), "always"
    # where the CPU runs them, one: the sources must stay such that another CPU's tests can be built
    for isa in ("avx512", "avx512_bf16"):
        if (isa not in CPU_INFO.supported or isa == "avx512_bf16") and "avx2" in CPU_INFO.supported:
            yield f"emulated-{isa}", isa, 20, (), "always"


@pytest.fixture(scope="session")
def builds(request, tmp_path_factory):
    """Compiles at once what the selected tests need."""
    wanted = [item.callspec.params["variant"] for item in request.session.items
              if item.path == Path(__file__) and "variant" in getattr(getattr(item, "callspec", None), "params", {})]
    made = harness.Builds(tmp_path_factory.mktemp("cpu_harness"), [name for name in wanted if not _missing(name)])
    yield made
    made.close()


def _missing(variant):
    tools = (harness.CROSS, harness.QEMU) if harness.VARIANTS[variant].cross else ()
    return [tool for tool in tools if shutil.which(tool) is None]


@pytest.mark.parametrize("variant, isa, random_cases, parts, pairs", _runs())
def test_matches_double_precision(builds, variant, isa, random_cases, parts, pairs):
    if _missing(variant):
        pytest.skip(NO_CROSS.format(" and ".join(_missing(variant))))
    done = builds.run(variant, "--random", str(random_cases), *parts, isa=None if harness.VARIANTS[variant].one_table else isa, pairs=pairs)
    told = [line for line in done.stderr.splitlines() if line.startswith("FAIL")] or done.stderr.splitlines()[-60:]
    print(done.stdout)
    status, lines = done.returncode, done.stdout.splitlines()
    assert status == 0, "\n".join([done.stdout, *told])
    assert lines[0].startswith(f"table {isa}, seed ") and lines[-1].startswith("ok: ")


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils): the objects' symbols are not looked at")
@pytest.mark.parametrize("isa", harness.build.isas())
def test_kernels_define_one_symbol(builds, isa):
    """An inline function that two instruction sets both emit would be merged by the linker, and a machine without AVX-512
    could get the AVX-512 copy. So the objects may define their table and nothing else that the linker sees."""
    job = builds.extension_object(f"kernels.{isa}.o")
    if not job.is_current():
        job.run()
    listed = subprocess.run(["nm", "--defined-only", "--extern-only", "--demangle", str(job.output)], capture_output=True, text=True, check=True)
    symbols = [line.split(maxsplit=2)[2] for line in listed.stdout.splitlines()]
    assert symbols == [f"regnet_kernels::cpu::kernels_{isa}"]

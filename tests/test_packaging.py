"""The wheel as a user gets it: one for every Python, complete, and working outside of the source tree."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def run(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1500, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built once; the objects that an earlier build left under build/ are reused when they are current."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_is_for_any_python_and_holds_what_it_should(wheel):
    assert re.fullmatch(r"regnet_kernels-0\.1\.0-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read("regnet_kernels-0.1.0.dist-info/METADATA").decode()
    sources = [path.relative_to(ROOT) for path in (ROOT / "regnet_kernels").rglob("*.py")]
    sources += [path.relative_to(ROOT / "python") for path in (ROOT / "python/regnet").rglob("*.py")]
    assert {str(path) for path in sources} <= set(names)
    assert "regnet_kernels/_cpu.so" in names and len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} == {"regnet", "regnet_kernels", "regnet_kernels-0.1.0.dist-info"}
    assert not [name for name in names if name.endswith((".o", ".cpp", ".pyc", ".new"))]
    assert "Requires-Dist: torch>=2.11" in metadata and "License-Expression: MIT" in metadata


def test_the_library_is_free_of_python_and_of_torchs_unstable_abi(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        libraries = [archive.extract(name, tmp_path) for name in archive.namelist() if name.endswith(".so")]
    for library in libraries:
        undefined = re.findall(r" U (\S+)", run("nm", "-D", "--undefined-only", library))
        assert [name for name in undefined if "aoti_torch" in name], "does not use the stable ABI at all?"
        bad = [name for name in undefined if re.match(r"_?Py[A-Z_]|_ZNK?(2at|3c10|5torch)", name)]
        assert not bad, f"{library} needs {bad}"
        assert str(ROOT) not in run("readelf", "-d", library), "a path of the build machine is in the library"


def test_the_wheel_runs_in_a_clean_environment_outside_the_source_tree(wheel, tmp_path):
    """torch comes from this environment by a .pth file (no network here); regnet_kernels must not."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = (venv / "lib").glob("python*/site-packages")
    # A folder named in a .pth file is searched last, and .pth files inside it (our editable install's) are not read.
    (site / "torch_of_the_tests.pth").write_text(str(Path(torch.__file__).resolve().parent.parent) + "\n")
    script = f"""
import torch, regnet_kernels as rk, regnet
assert rk.__file__.startswith({str(venv)!r}) and regnet.__file__.startswith({str(venv)!r}), (rk.__file__, regnet.__file__)
x, w = torch.randn(1, 16, 7, 9), torch.randn(24, 8, 3, 3)
y = rk.conv_bn_act(x, w, groups=2, activation="relu", backend="cpu")
torch.testing.assert_close(y, torch.relu(torch.nn.functional.conv2d(x, w, padding=1, groups=2)), rtol=1e-4, atol=1e-4)
print(rk.env_report())
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "REGNET_"))}
    printed = run(python, "-c", script, cwd=tmp_path, env=clean)
    assert re.search(rf"cpu kernels: +loaded: {re.escape(str(site))}/regnet_kernels/_cpu.so", printed), printed
    printed = run(venv / "bin/regnet", "env", cwd=tmp_path, env=clean)
    assert str(site / "regnet_kernels/_cpu.so") in printed.replace("\n", "")


def test_the_source_distribution_holds_all_that_a_build_needs(tmp_path):
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=ROOT)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h", ".cu", ".cuh", ".inl", ".py")]
    wanted += [ROOT / name for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md", "tests/test_ops.py")]
    assert not [str(path) for path in wanted if str(path.relative_to(ROOT)) not in names]

"""csrc <- regnet_kernels <- python/regnet <- benchmarks, tests: nothing points back up."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What python/regnet may import of regnet_kernels, beside the package itself.
PUBLIC_MODULES = {"regnet_kernels", "regnet_kernels.packing", "regnet_kernels.steps", "regnet_kernels.testing", "regnet_kernels.tuning"}
FORBIDDEN = {
    "regnet_kernels": {"regnet", "timm", "torchvision", "benchmarks", "tests"},
    "python/regnet": {"benchmarks", "tests", "pytest", "hypothesis"},
}


def imports(path):
    """(module, line) of every import, also those inside functions; relative ones come as '.'-prefixed names."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_one_above_it(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = [f"{path.relative_to(ROOT)}:{line} imports {module}" for path in files for module, line in imports(path)
             if module.split(".")[0] in FORBIDDEN[layer]]
    assert not wrong, "\n".join(wrong)


def test_the_model_layer_reaches_the_kernels_through_their_public_functions():
    wrong = [f"{path.relative_to(ROOT)}:{line} imports {module}" for path in sorted((ROOT / "python/regnet").rglob("*.py"))
             for module, line in imports(path) if module.split(".")[0] == "regnet_kernels" and module not in PUBLIC_MODULES]
    assert not wrong, "\n".join(wrong)


def test_kernel_sources_know_no_torch_and_no_python():
    """Only the bindings csrc/torch_cpu.cpp and csrc/cuda/torch_cuda.cpp include torch, and only its stable ABI."""
    bindings = {ROOT / "csrc/torch_cpu.cpp", ROOT / "csrc/cuda/torch_cuda.cpp"}
    wrong = []
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in (".cpp", ".h", ".cu", ".cuh", ".inl"):
            continue
        for line, text in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*[<"](.+?)[>"]', text)
            if not match:
                continue
            header = match[1]
            is_torch = header.startswith(("torch/", "ATen/", "c10/", "aten/")) or header == "Python.h"
            stable = header.startswith(("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/"))
            if is_torch and not (path in bindings and stable):
                wrong.append(f"{path.relative_to(ROOT)}:{line} includes {header}")
    assert not wrong, "\n".join(wrong)


def test_no_source_is_built_for_the_build_machine():
    """-march=native would make a wheel that crashes elsewhere."""
    recipes = [ROOT / "setup.py", ROOT / "Makefile", *(ROOT / "csrc").rglob("*.py")]
    assert not [str(path) for path in recipes if "march=native" in path.read_text()]

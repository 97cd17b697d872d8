"""Maps the two packages and builds the kernel libraries; all metadata is in pyproject.toml.

The libraries `regnet_kernels/_cpu.so` and `regnet_kernels/_cuda.so` do not use Python's ABI, so the wheel is tagged
py3-none-<platform>. Environment: REGNET_KERNELS_BUILD_CPU=0 and REGNET_KERNELS_BUILD_CUDA=0 leave one out, MAX_JOBS
limits the compilers at work, CXX and CXXFLAGS are honoured, REGNET_KERNELS_SANITIZE=address,undefined instruments.
`python setup.py build_native --inplace` rebuilds what changed into the source tree.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from packaging.version import Version
from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = "2.11"
SWITCH = {"1": True, "on": True, "true": True, "yes": True, "0": False, "off": False, "false": False, "no": False}


class build_native(Command):
    """Builds _cpu.so and, where nvcc is found, _cuda.so. A `build` sub-command, so editable installs run it as well."""

    description = "build the kernel libraries"
    user_options = [("inplace", "i", "put the libraries into the source tree"), ("build-lib=", "b", "where to put them")]
    boolean_options = ["inplace"]

    def initialize_options(self):
        self.inplace, self.build_lib, self.editable_mode = False, None, False

    def finalize_options(self):
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self):
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "regnet_kernels"
        for name, build_one in self._wanted().items():
            build_one(package / name)

    def _wanted(self):
        if not sys.platform.startswith("linux"):
            print(f"regnet-kernels: the kernels are built on Linux only, not on {sys.platform}; installing without them")
            return {}
        found = {}
        if _switch("REGNET_KERNELS_BUILD_CPU"):
            found["_cpu.so"] = lambda output: _recipe("cpu").build(output, _build_dir("cpu"), _torch_dir())
        if _switch("REGNET_KERNELS_BUILD_CUDA"):
            if _recipe("cuda").find_nvcc():
                found["_cuda.so"] = lambda output: _recipe("cuda").build(output, _build_dir("cuda"), _torch_dir())
            else:
                print("regnet-kernels: no nvcc found (looked at CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda); building without _cuda.so")
        return found

    # What setuptools asks of a sub-command of `build`.
    def get_source_files(self):
        csrc = ROOT / "csrc"
        return sorted(str(path.relative_to(ROOT)) for path in csrc.rglob("*") if path.suffix in _SOURCES)

    def get_outputs(self):
        return [str(path) for path in (Path(self.build_lib) / "regnet_kernels").glob("_*.so")]

    def get_output_mapping(self):
        return {}


_SOURCES = {".cpp", ".cu", ".h", ".hpp", ".cuh", ".inl", ".py"}


class SourcesOnly(build_py):
    """Leaves libraries of an earlier in-place build out: the wheel holds what build_native made for it."""

    def find_data_files(self, package, src_dir):
        return [name for name in super().find_data_files(package, src_dir) if not name.endswith(".so")]


class BuildWithNative(build):
    sub_commands = [*build.sub_commands, ("build_native", None)]


class AnyPythonWheel(bdist_wheel):
    def run(self):
        # What an earlier build left there, deleted modules included, would get into the wheel.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


def _switch(variable):
    value = os.environ.get(variable, "1").lower()
    if value not in SWITCH:
        raise SystemExit(f"{variable}={value!r} is not a switch; use 1 or 0")
    return SWITCH[value]


def _recipe(name):
    """The module csrc/<name>/build.py: find_nvcc() for cuda, build(output, build_dir, torch_dir) for both."""
    spec = importlib.util.spec_from_file_location(f"_build_{name}", ROOT / "csrc" / name / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _build_dir(name):
    suffix = os.environ.get("REGNET_KERNELS_SANITIZE", "").replace(",", "-")
    return ROOT / "build" / (f"native-{name}-{suffix}" if suffix else f"native-{name}")


def _torch_dir():
    """The folder of the installed torch, whose headers and libraries are used; torch itself is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None:
        raise SystemExit("regnet-kernels: building needs torch >= " + OLDEST_TORCH + "; install it first: pip install torch")
    version = importlib.metadata.version("torch")
    if Version(version) < Version(OLDEST_TORCH):
        raise SystemExit(f"regnet-kernels: building needs torch >= {OLDEST_TORCH}, found {version}; pip install -U torch")
    return Path(spec.submodule_search_locations[0])


setup(
    distclass=BinaryDistribution,
    packages=["regnet_kernels", "regnet"]
    + find_packages(".", include=["regnet_kernels.*"])
    + find_packages("python", include=["regnet.*"]),
    package_dir={"regnet_kernels": "regnet_kernels", "regnet": "python/regnet"},
    include_package_data=True,
    cmdclass={"build": BuildWithNative, "build_py": SourcesOnly, "build_native": build_native, "bdist_wheel": AnyPythonWheel},
)

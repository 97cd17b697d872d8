# make demo          .venv, install, build, then `regnet bench` on real photographs
# make test          .venv, build, the whole test suite with a report of the slowest tests
# make test-oldest   the wheel, built once by .venv, tested under the oldest supported torch in .venv-oldest
# make test-isa      the op tests once for each instruction set that this CPU can run
# make sanitize      the op tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer
# make gpu-check     on a machine with a card: builds, GPU tests, sanitizer, times and goals into benchmarks/results/<card>/, within 8 minutes
# make gpu-tune      on a machine with a card: measures better configurations for it, within 8 minutes; goes on where it stopped
# make build         rebuild what changed in csrc
# make wheel         dist/regnet_kernels-*.whl
# make clean         remove what was built (the environments stay; remove them with `make distclean`)
#
# PYTHON names the interpreter (3.10 or newer) that the environments are made from, ARGS is passed on to the command.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV := .venv-oldest
OLDEST_TORCH := torch==2.11.0 torchvision==0.26.0
SANITIZER := address,undefined
SANITIZED := build/sanitized
PY := $(VENV)/bin/python
ARGS ?=

SOURCES := $(shell find csrc -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inl' -o -name '*.py' \))
PYTHON_SOURCES := $(shell find regnet_kernels python -name '*.py')

.PHONY: demo test test-isa test-oldest sanitize gpu-check gpu-tune build wheel clean distclean
.DELETE_ON_ERROR:

demo: $(VENV)/.bench build
	$(VENV)/bin/regnet bench $(ARGS)

test: $(VENV)/.test build
	$(PY) -m pytest -q $(ARGS)

test-isa: $(VENV)/.test build
	$(PY) -m pytest -q -rs tests/test_isa.py $(ARGS)

# What a user of the oldest torch gets: the binary made against the newest.
test-oldest: $(OLDEST_VENV)/.wheel
	cd $(OLDEST_VENV) && bin/python -m pytest -q -m kernels --rootdir ../tests -c ../pyproject.toml ../tests/test_ops.py ../tests/test_ops_pytorch.py ../tests/test_packing.py $(ARGS)
	cd $(OLDEST_VENV) && bin/python -c "import regnet_kernels; print(regnet_kernels.env_report())"

# The sanitizers' run-time must be loaded before Python is; torch's own leaks and its dlopen order are not our subject.
sanitize: $(VENV)/.test
	REGNET_KERNELS_SANITIZE=$(SANITIZER) REGNET_KERNELS_BUILD_CUDA=0 $(PY) setup.py -q build_native --build-lib $(SANITIZED)
	LD_PRELOAD="$$($(or $(CXX),g++) -print-file-name=libasan.so) $$($(or $(CXX),g++) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:protect_shadow_gap=0:alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1 \
	REGNET_KERNELS_EXTENSION_DIR=$(SANITIZED)/regnet_kernels \
	$(PY) -m pytest -q --capture=sys -m "kernels and not compiles" tests/test_ops.py $(ARGS)

# Install nothing, so that they work without a network: in .venv, or with PYTHON in an environment that has torch and Triton. gpu_check
# builds by itself, within its eight minutes.
GPU_PY = $(if $(wildcard $(PY)),$(PY),$(PYTHON))

gpu-check:
	PYTHONPATH="python:$$PYTHONPATH" $(GPU_PY) -m benchmarks.gpu_check $(ARGS)

gpu-tune:
	PYTHONPATH="python:$$PYTHONPATH" $(GPU_PY) -m benchmarks.gpu_tune --minutes 8 $(ARGS)

build: $(VENV)/.installed
	$(PY) setup.py -q build_native --inplace

wheel: dist/.stamp

clean:
	rm -rf build dist *.egg-info python/*.egg-info .pytest_cache .hypothesis $(VENV)/.installed $(OLDEST_VENV)/.wheel
	find regnet_kernels -name '*.so' -delete
	find csrc regnet_kernels python tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV) $(OLDEST_VENV)

# Each stamp file says that the step before it is done, so that a repeated `make` starts at once.
$(VENV)/.torch:
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "torch>=2.11" torchvision "setuptools>=77" wheel packaging
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py
	$(PY) -m pip install --quiet --no-build-isolation -e .
	touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PY) -m pip install --quiet --no-build-isolation -e ".[bench]"
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PY) -m pip install --quiet --no-build-isolation -e ".[test]"
	touch $@

dist/.stamp: $(VENV)/.installed $(SOURCES) $(PYTHON_SOURCES)
	rm -rf dist build/lib* build/bdist*
	$(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	touch $@

$(OLDEST_VENV)/.wheel: dist/.stamp
	test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet $(OLDEST_TORCH) pytest hypothesis
	$(OLDEST_VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(OLDEST_VENV)/bin/python -m pip install --quiet numpy rich
	touch $@

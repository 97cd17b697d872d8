"""Builds the CUDA kernel sources with g++ and the emulator, and runs them on CPU tensors."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
from pathlib import Path

import torch

from regnet_kernels.backends import cuda

HERE = Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "csrc" / "cuda"
ORDERS = ("forward", "backward", "shuffled", "greedy", "greedy_backward")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def compile_host(source: Path, output: Path, flags: list[str], first: Path | None = None) -> Path:
    """g++ (or $CXX) on `source`, which sees the emulator's device.h; files in `first` replace those of csrc/cuda."""
    f16c = ["-mf16c"] if platform.machine() == "x86_64" else []
    includes = [f"-I{path}" for path in (first, HERE, CUDA) if path is not None]
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-fopenmp", *f16c, "-Wall", "-Wextra", "-Werror",
               "-Wno-unknown-pragmas", *flags, *includes, str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return output


class EmulatedKernel:
    """The kernels in a library made from library.cpp."""

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))

    def __call__(self, x, weight, bias, stride, activation, pool=False, order="forward", eager_copies=False, multiprocessors=1):
        """As regnet_kernels.backends.cuda.gconv3x3, with weight (C, 3, 3, group_width). Returns (y, sums, finding): finding
        is "" or the first thing that the emulator has against the kernel; then y and sums are worth nothing."""
        images, channels, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous()
        shape = (images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        sums = torch.empty((images, cuda.tiles(shape[0], height, width, stride), channels) if pool else 0)
        conv = (ctypes.c_int * 7)(images, height, width, channels, weight.shape[3], stride, activation)
        finding = self._run("emulate_gconv3x3", conv, DTYPES.index(x.dtype), *_memory(x), *_memory(weight), _memory(bias)[0], *_memory(y),
                            *_memory(sums), multiprocessors, ORDERS.index(order), int(eager_copies))
        return y, sums, finding

    def wgmma(self, x, weight, bias, stride, activation, pool=False, *, tile, order="forward", eager_copies=False, blocks=1):
        """As `__call__`, by the kernel for Hopper. tile: a hopper.Tile; blocks: of each slice of the channels."""
        images, channels, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous()
        down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
        y = torch.empty((images, channels, down, across), dtype=x.dtype, memory_format=torch.channels_last)
        sums = torch.empty((images, -(-down // tile[0]) * -(-across // tile[1]), channels) if pool else 0)
        conv = (ctypes.c_int * 7)(images, height, width, channels, weight.shape[3], stride, activation)
        finding = self._run("emulate_gconv3x3_wgmma", conv, DTYPES.index(x.dtype), (ctypes.c_int * 5)(*tile), *_memory(x), *_memory(weight),
                            _memory(bias)[0], *_memory(y), *_memory(sums), blocks, ORDERS.index(order), int(eager_copies))
        return y, sums, finding

    def se_gate(self, sums, w1, b1, w2, b2, count, transposed=False, order="forward", eager_copies=False, multiprocessors=1):
        """As regnet_kernels.backends.cuda.se_gate. Returns (gate, finding)."""
        images, tiles, channels = sums.shape
        gate = torch.empty(images, channels, dtype=w1.dtype)
        size = (ctypes.c_int * 6)(images, tiles, channels, len(b1), count, int(transposed))
        finding = self._run("emulate_se_gate", size, DTYPES.index(w1.dtype), *[_memory(tensor)[0] for tensor in (sums, w1, b1, w2, b2, gate)], multiprocessors,
                            ORDERS.index(order), int(eager_copies))
        return gate, finding

    def _run(self, name, *args):
        finding = ctypes.create_string_buffer(512)
        getattr(self._library, name)(*args, finding, ctypes.c_size_t(len(finding)))
        return finding.value.decode()


def _memory(tensor):
    return ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(tensor.numel() * tensor.element_size())

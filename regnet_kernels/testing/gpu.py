"""What the GPU backends must do on a card, against float64: for tests/test_gpu.py, compute-sanitizer and a user's own build.

    python -m regnet_kernels.testing.gpu                   # all of it, without pytest
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..backends import cuda, triton
from ..ops.conv_bn_act import _describe, conv_bn_act
from ..ops.network import network
from ..ops.squeeze_excite import se_gate, squeeze_excite
from ..plain import PlainNetwork, pack_plain, why_not, why_not_by_8
from ..steps import ConvStep, HeadStep
from .make import make_block, make_conv, make_squeeze_excite
from .oracle import Errors, assert_close_to_oracle, widen
from .shapes import BLOCK_SHAPES, CONV_SHAPES, SE_SHAPES, BlockShape, ConvShape, SeShape
from .tolerances import DTYPES

BACKENDS = {"triton": triton, "cuda": cuda}
# Beside the catalogue: layers of named models, large enough to fill a card.
LAYERS = (ConvShape(64, 152, 152, 28, 28, 1), ConvShape(64, 48, 48, 56, 56, 3, 1, 6), ConvShape(64, 104, 104, 56, 56, 3, 2, 13),
          ConvShape(32, 168, 168, 56, 56, 3, 2, 7), ConvShape(32, 720, 720, 14, 14, 3, 1, 6), ConvShape(32, 232, 232, 56, 56, 3, 1, 1),
          ConvShape(64, 3, 32, 224, 224, 3, 2))
# Tails of tiles, small: every width of group and both strides, several images in a tile, maps of one pixel.
ODD = tuple(ConvShape(3, width * groups, width * groups, height, 9, 3, stride, groups)
            for index, (width, groups) in enumerate(((8, 5), (16, 3), (24, 2), (40, 3), (64, 1), (72, 2), (112, 1), (128, 1)))
            for height, stride in ((5 + index, 1), (7, 2))) + (ConvShape(5, 48, 48, 1, 1, 3, 1, 2), ConvShape(1, 16, 16, 40, 41, 3, 1, 2))
# Of named models: the hidden layer small and large, batches that do not fill a block.
GATES = (*SE_SHAPES, SeShape(9, 48, 12, 5, 7), SeShape(17, 440, 52, 3, 3), SeShape(33, 888, 222, 7, 7), SeShape(3, 3024, 308, 2, 2))


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, float32 is float32: otherwise the library's convolutions and Triton's kernels round their factors to 10 bits where a
    matrix product in the reference does not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def check_convolutions(dtype: torch.dtype, device: str = "cuda", backend: str = "triton") -> int:
    """Each convolution that the backend takes, with every option it takes, the sums of a squeeze among them; returns how many.
    Raises AssertionError."""
    count = 0
    for index, shape in enumerate((*CONV_SHAPES, *LAYERS)):
        for fused in (False, True):
            args, kwargs = make_conv(shape, dtype, device, seed=index, activation=("relu", "silu")[index % 2], residual=fused, gate=fused)
            pool = not why_not_conv(backend, *args, **kwargs, pool=True)
            if not pool and why_not_conv(backend, *args, **kwargs):
                continue
            actual = conv_bn_act(*args, **kwargs, pool=pool, backend=backend)
            exact = conv_bn_act(*widen(args), **widen(kwargs), backend="eager")
            eager = conv_bn_act(*args, **kwargs, backend="eager")
            actual, sums = actual if pool else (actual, None)
            assert_close_to_oracle(actual, exact, eager, what=f"{backend}: {shape}")
            if pool:
                what = f"{backend}: sums of {shape}"
                assert_close_to_oracle(sums, exact.sum((2, 3)), eager.sum((2, 3), dtype=torch.float32), what=what)
            count += 1
    return count


def why_not_conv(backend: str, *args, **kwargs) -> str:
    """Why a backend cannot run a `conv_bn_act`, "" if it can."""
    return BACKENDS[backend].why_not(_describe(*args, **kwargs))


def check_gates(device: str = "cuda", backend: str = "triton") -> int:
    """The gate of a squeeze-excite alone; returns how many. Raises AssertionError."""
    for shape in GATES:
        x, *weights = make_squeeze_excite(shape, torch.float32, device)
        args = x.sum((2, 3)), *weights, shape.h * shape.w
        actual, eager = (se_gate(*args, backend=name) for name in (backend, "eager"))
        assert_close_to_oracle(actual, se_gate(*widen(args), backend="eager"), eager, what=f"{backend}: the gate of {shape}")
    return len(GATES)


def check_squeeze_excite(dtype: torch.dtype, device: str = "cuda") -> None:
    for shape in SE_SHAPES:
        args = make_squeeze_excite(shape, dtype, device)
        actual = squeeze_excite(*args, backend="triton")
        exact, eager = squeeze_excite(*widen(args), backend="eager"), squeeze_excite(*args, backend="eager")
        assert_close_to_oracle(actual, exact, eager, what=str(shape))


def check_blocks(dtype: torch.dtype, device: str = "cuda") -> None:
    for shape in (*BLOCK_SHAPES, BlockShape(32, 104, 208, 208, 16, 26, 2, True, 28, 28)):
        x, step = make_block(shape, dtype, device)
        packed = None if why_not([step]) else pack_plain([step], dtype)
        if packed is not None and (x.device.type == "cuda" or not why_not_by_8(packed.specs)):
            check_network(x, packed, str(shape))


def check_network(x: torch.Tensor, packed: PlainNetwork, what: str) -> Errors:
    """On Triton alone where it runs every layer; on a GPU also on the backends that are chosen layer by layer, and on the others forced.
    Returns the errors of the last."""
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    eager = network(x, packed, backend="eager")
    by_8 = not why_not_by_8(packed.specs)
    if by_8:
        errors = assert_close_to_oracle(network(x, packed, backend="triton"), exact, eager, what=what)
    if x.device.type != "cuda":
        return errors
    forced = ["", "cudnn"]
    if by_8 and x.dtype != torch.float32 and not cuda.why_not_here(x.device):  # a squeeze's sums come from the 16-bit kernels only
        forced.append("grouped=cuda,gate=cuda")
    for layers in forced:
        errors = assert_close_to_oracle(network(x, packed, layers=layers), exact, eager, what=f"{what}, layers={layers!r}")
    return errors


def check_everything(dtype: torch.dtype, device: str = "cuda") -> str:
    """All of the above for a dtype, in one line of what was compared. Raises AssertionError."""
    with without_tf32():
        counts = {backend: check_convolutions(dtype, device, backend) for backend in BACKENDS}
        here = [name for name, backend in BACKENDS.items() if not backend.why_not_here(torch.device(device))]
        gates = [f"{check_gates(device, backend)} gates on {backend}" for backend in here]
        check_squeeze_excite(dtype, device)
        check_blocks(dtype, device)
        small_network(dtype, device)
    convolutions = [f"{count} convolutions on {backend}" for backend, count in counts.items()]
    return f"{str(dtype).removeprefix('torch.')}: {', '.join([*convolutions, *gates])}, blocks, a network: within their bounds"


def run_every_kernel(dtype: torch.dtype, backend: str, device: str = "cuda") -> int:
    """Run the kernels of a backend on small odd shapes and compare nothing; returns the number of calls. For compute-sanitizer, under
    which the references would take minutes."""
    if reason := BACKENDS[backend].why_not_here(torch.device(device)):
        raise RuntimeError(f"the kernels of {backend} cannot run: {reason}")
    count = 0
    for shape in (*CONV_SHAPES, *ODD):
        for fused in (False, True):
            args, kwargs = make_conv(shape, dtype, device, residual=fused, gate=fused)
            for pool in (False, True):
                if not why_not_conv(backend, *args, **kwargs, pool=pool):
                    conv_bn_act(*args, **kwargs, pool=pool, backend=backend)
                    count += 1
    for shape in GATES:
        x, *weights = make_squeeze_excite(shape, torch.float32, device)
        se_gate(x.sum((2, 3)), *weights, shape.h * shape.w, backend=backend)
    count += len(GATES)
    if backend == "triton":
        x, packed = small_steps(dtype, device)
        network(x, packed, backend="triton")
        pixels = (x.float() * 40 + 120).clamp(0, 255).to(torch.uint8)
        network(pixels, packed, backend="triton", mean=torch.full((3,), 120.0, device=device), scale=torch.full((3,), 0.02, device=device))
        count += 2
    return count


def small_network(dtype: torch.dtype, device: str = "cuda") -> tuple[torch.Tensor, PlainNetwork]:
    """(images, network) of every kernel, compared with float64 once."""
    x, packed = small_steps(dtype, device)
    check_network(x, packed, "a small network")
    return x, packed


def small_steps(dtype: torch.dtype, device: str = "cuda") -> tuple[torch.Tensor, PlainNetwork]:
    """(images, network) of every kernel."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape):
        return torch.randn(shape, generator=generator).to(device)

    blocks = [make_block(shape, torch.float32, device)[1] for shape in (BlockShape(1, 32, 48, 104, 8, 8, 2, True, 8, 8),
                                                                        BlockShape(1, 104, 120, 104, 24, 0, 1, False, 8, 8))]
    packed = pack_plain([ConvStep(new(32, 3, 3, 3) / 4, new(32), 2, 1, 1, "relu"), *blocks, HeadStep(new(10, 104) / 8, new(10))], dtype)
    return new(3, 3, 37, 35).to(dtype), packed


def main() -> int:
    """What a user without pytest runs: python -m regnet_kernels.testing.gpu"""
    for dtype in DTYPES:
        print(check_everything(dtype), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

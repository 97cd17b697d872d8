"""What the GPU backend must do on a card, against float64: for tests/test_gpu.py, compute-sanitizer and a user's own build."""

from __future__ import annotations

import torch

from ..backends import triton
from ..ops.conv_bn_act import _describe, conv_bn_act
from ..ops.network import network
from ..ops.squeeze_excite import squeeze_excite
from ..plain import PlainNetwork, pack_plain, why_not
from ..steps import ConvStep, HeadStep
from .make import make_block, make_conv, make_squeeze_excite
from .oracle import Errors, assert_close_to_oracle, widen
from .shapes import BLOCK_SHAPES, CONV_SHAPES, SE_SHAPES, BlockShape, ConvShape

# Beside the catalogue: layers of named models, large enough to fill a card.
LAYERS = (ConvShape(64, 152, 152, 28, 28, 1), ConvShape(64, 48, 48, 56, 56, 3, 1, 6), ConvShape(64, 104, 104, 56, 56, 3, 2, 13),
          ConvShape(32, 168, 168, 56, 56, 3, 2, 7), ConvShape(32, 720, 720, 14, 14, 3, 1, 6), ConvShape(32, 232, 232, 56, 56, 3, 1, 1),
          ConvShape(64, 3, 32, 224, 224, 3, 2))


def check_convolutions(dtype: torch.dtype, device: str = "cuda") -> int:
    """Each convolution that the backend takes, with every option it takes; returns how many. Raises AssertionError."""
    count = 0
    for index, shape in enumerate((*CONV_SHAPES, *LAYERS)):
        for residual, gate in ((False, False), (True, True)):
            args, kwargs = make_conv(shape, dtype, device, seed=index, activation=("relu", "silu")[index % 2], residual=residual, gate=gate)
            if triton.why_not(_describe(*args, **kwargs)):
                continue
            actual, sums = conv_bn_act(*args, **kwargs, pool=True, backend="triton")
            exact = conv_bn_act(*widen(args), **widen(kwargs), backend="eager")
            eager = conv_bn_act(*args, **kwargs, backend="eager")
            assert_close_to_oracle(actual, exact, eager, what=str(shape))
            assert_close_to_oracle(sums, exact.sum((2, 3)), eager.sum((2, 3), dtype=torch.float32), what=f"sums of {shape}")
            count += 1
    return count


def check_squeeze_excite(dtype: torch.dtype, device: str = "cuda") -> None:
    for shape in SE_SHAPES:
        args = make_squeeze_excite(shape, dtype, device)
        actual = squeeze_excite(*args, backend="triton")
        assert_close_to_oracle(actual, squeeze_excite(*widen(args), backend="eager"), squeeze_excite(*args, backend="eager"), what=str(shape))


def check_blocks(dtype: torch.dtype, device: str = "cuda") -> None:
    for shape in (*BLOCK_SHAPES, BlockShape(32, 104, 208, 208, 16, 26, 2, True, 28, 28)):
        x, step = make_block(shape, dtype, device)
        if not why_not([step]):
            check_network(x, pack_plain([step], dtype), str(shape))


def check_network(x: torch.Tensor, packed: PlainNetwork, what: str) -> Errors:
    exact = network(x.double(), pack_plain(packed.unpack(), torch.float64), backend="eager")
    return assert_close_to_oracle(network(x, packed, backend="triton"), exact, network(x, packed, backend="eager"), what=what)


def small_network(dtype: torch.dtype, device: str = "cuda") -> tuple[torch.Tensor, PlainNetwork]:
    """(images, network) of every kernel, compared with float64 once."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape):
        return torch.randn(shape, generator=generator).to(device)

    blocks = [make_block(shape, torch.float32, device)[1] for shape in (BlockShape(1, 32, 48, 104, 8, 8, 2, True, 8, 8),
                                                                        BlockShape(1, 104, 120, 104, 24, 0, 1, False, 8, 8))]
    packed = pack_plain([ConvStep(new(32, 3, 3, 3) / 4, new(32), 2, 1, 1, "relu"), *blocks, HeadStep(new(10, 104) / 8, new(10))], dtype)
    x = new(3, 3, 37, 35).to(dtype)
    check_network(x, packed, "a small network")
    return x, packed

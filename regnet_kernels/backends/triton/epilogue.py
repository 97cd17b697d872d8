"""What follows every accumulator: bias, residual, activation, the store."""

import triton
import triton.language as tl


@triton.jit
def activate(value, ACTIVATION: tl.constexpr):
    """value: float32. ACTIVATION as in activation.py: 0 none, 1 relu, 2 silu."""
    if ACTIVATION == 1:
        value = tl.maximum(value, 0.0)
    if ACTIVATION == 2:
        value = value * tl.sigmoid(value)
    return value


@triton.jit
def add_bias(acc, bias, columns, wanted):
    """acc: (rows, columns) float32; bias: float32, read at `columns` where `wanted`."""
    return acc + tl.load(bias + columns, mask=wanted, other=0.0)[None, :]


@triton.jit
def store(y, acc, offsets, mask):
    tl.store(y + offsets, acc.to(y.dtype.element_ty), mask=mask)

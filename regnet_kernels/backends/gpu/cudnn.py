"""The layers of a network in torch's own operations, whose convolutions are cuDNN's on NVIDIA's cards.

Arguments and results are those of the Triton kernels of the same names (`gate` is gate.se_gate there); any number of channels. 16-bit
layers that end in a ReLU are one operation of cuDNN's with bias, sum and ReLU, which it searches the fastest way for when a shape
is first seen, as with torch.backends.cudnn.benchmark.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F

from ...activation import activation_code, apply_activation
from ...ops.library import as_channels_last
from .. import triton

RELU = activation_code("relu")
HALVES = (torch.float16, torch.bfloat16)


def direct(x, w, bias, side, *, stride=1, padding=0, activation=0, normalise=None):
    """A dense convolution with rows w (O, side * side * C, zero-filled up to a multiple of 8), in the dtype of w."""
    c = x.shape[1]
    if normalise is not None:
        mean, scale = normalise
        x = (x.to(torch.float32) - mean[:, None, None]) * scale[:, None, None]
    weight = w[:, :side * side * c].reshape(-1, side, side, c).permute(0, 3, 1, 2)
    return _finish(F.conv2d(x.to(w.dtype), weight, bias.to(w.dtype), stride, padding), activation)


def pointwise(x, w, bias, *, stride=1, activation=0, gate=None, residual=None, shortcut=None, w_shortcut=None, shortcut_stride=1):
    if gate is not None:
        x = _scaled(x, gate)
    if shortcut is not None:
        added = F.conv2d(shortcut, w_shortcut[:, :, None, None], None, shortcut_stride)
        residual = added if residual is None else residual + added
    if _fuses(x, activation):
        return _convolution(x, w[:, :, None, None], bias, stride, 0, 1, residual)
    y = F.conv2d(x, w[:, :, None, None], bias.to(x.dtype), stride)
    return _finish(y if residual is None else y + residual, activation)


def grouped(x, w, bias, *, stride=1, activation=0, pool=False):
    y = F.conv2d(x, w.permute(0, 3, 1, 2), bias.to(x.dtype), stride, 1, 1, w.shape[0] // w.shape[3])
    y = _finish(y, activation)
    return y, y.sum((2, 3), dtype=torch.float32)[:, None] if pool else None


def gate(sums, w1, b1, w2, b2, count, *, transposed=False):
    hidden = F.relu(F.linear(sums.sum(1) / count, w1.float(), b1))
    return torch.sigmoid(F.linear(hidden, (w2.t() if transposed else w2).float(), b2)).to(w1.dtype)


def mean(x):
    return x.mean((2, 3), dtype=torch.float32).to(x.dtype)


def _finish(y, activation):
    return as_channels_last(apply_activation(y, activation))


def _scaled(x, gate):
    """x times the gate of each image and channel: by the kernel that passes over memory once where it is to be had."""
    if x.device.type == "cuda" and not triton.why_not_here(x.device):
        from ..triton.scale import scale

        return scale(x, gate.contiguous())
    return x * gate.to(x.dtype)[:, :, None, None]


def _fuses(x, activation):
    """Whether cuDNN has the whole layer as one operation."""
    return (x.device.type == "cuda" and torch.version.cuda is not None and x.dtype in HALVES and activation == RELU and x.numel() > 0
            and torch.backends.cudnn.enabled and torch.backends.cudnn.is_available())


def _convolution(x, weight, bias, stride, padding, groups, residual):
    """relu(convolution + bias + residual)."""
    fixed = (stride, stride), (padding, padding), (1, 1), groups
    with _searching():
        if residual is None:
            y = torch.cudnn_convolution_relu(x, weight, bias.to(x.dtype), *fixed)
        else:
            y = torch.cudnn_convolution_add_relu(x, weight, as_channels_last(residual), 1.0, bias.to(x.dtype), *fixed)
    return as_channels_last(y)


@contextlib.contextmanager
def _searching():
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

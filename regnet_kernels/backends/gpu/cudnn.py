"""The layers of a network in torch's own operations, whose convolutions are cuDNN's on NVIDIA's cards.

Arguments and results are those of the Triton kernels of the same names (`gate` is gate.se_gate there); any number of channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...activation import apply_activation
from ...ops.library import as_channels_last


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
        x = x * gate.to(x.dtype)[:, :, None, None]
    y = F.conv2d(x, w[:, :, None, None], bias.to(x.dtype), stride)
    if residual is not None:
        y = y + residual
    if shortcut is not None:
        y = y + F.conv2d(shortcut, w_shortcut[:, :, None, None], None, shortcut_stride)
    return _finish(y, activation)


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

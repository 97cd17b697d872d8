"""The gate of a squeeze-excite: mean, two fully connected layers, sigmoid, from partial sums.

    hidden = relu(mean w1^T + b1)           gate = sigmoid(hidden w2 + b2)

One launch where the first layer is small: each program owns 16 images and some channels of the gate and computes all of
`hidden` for itself, a part at a time. Where reading all of w1 in every program would take longer than a second launch
(configs.ONE_LAUNCH_BYTES), two: `hidden`, then the gate. Both orders of summation are fixed.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .machine import machine
from .shapes import GateShape
from .tiles import unit

INTS = ["images", "tiles", "units", "squeeze"]


@triton.jit
def _hidden(sums, w1, b1, image, there, tiles, scale, channels, squeeze, unit, PRECISION: tl.constexpr, BI: tl.constexpr,
            BC: tl.constexpr, BS: tl.constexpr, TOGETHER: tl.constexpr):
    """relu(mean w1^T + b1) of the images and the hidden units `unit`, (BI, BS) float32. TOGETHER: tiles that are loaded at once."""
    acc = tl.zeros((BI, BS), tl.float32)
    for start in range(0, channels, BC):
        channel = start + tl.arange(0, BC)
        wanted = channel < channels
        mean = tl.zeros((BI, BC), tl.float32)
        at = image[:, None] * tiles * channels + channel[None, :]
        for tile in tl.range(tiles, loop_unroll_factor=TOGETHER):
            mean += tl.load(sums + at + tile * channels, mask=there[:, None] & wanted[None, :], other=0.0)
        w = tl.load(w1 + unit[None, :] * channels + channel[:, None], mask=(unit < squeeze)[None, :] & wanted[:, None], other=0.0)
        acc = tl.dot((mean * scale).to(w1.dtype.element_ty), w, acc, input_precision=PRECISION)
    return tl.maximum(acc + tl.load(b1 + unit, mask=unit < squeeze, other=0.0)[None, :], 0.0)


@triton.jit
def _excite(acc, hidden, w2, unit, channel, channels, squeeze, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    mask = (unit < squeeze)[:, None] & (channel < channels)[None, :]
    if TRANSPOSED:
        w = tl.load(w2 + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    else:
        w = tl.load(w2 + channel[None, :] * squeeze + unit[:, None], mask=mask, other=0.0)
    return tl.dot(hidden.to(w2.dtype.element_ty), w, acc, input_precision=PRECISION)


@triton.jit
def _store_gate(gate, acc, b2, image, there, channel, channels):
    wanted = channel < channels
    value = tl.sigmoid(acc + tl.load(b2 + channel, mask=wanted, other=0.0)[None, :])
    mask = there[:, None] & wanted[None, :]
    tl.store(gate + image[:, None] * channels + channel[None, :], value.to(gate.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=INTS)
def gate_kernel(sums, w1, b1, w2, b2, gate, images, tiles, scale, units, squeeze,
                UNIT: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, BI: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr,
                BO: tl.constexpr, TOGETHER: tl.constexpr):
    channels = units * UNIT
    image = tl.program_id(0) * BI + tl.arange(0, BI)
    channel = tl.program_id(1) * BO + tl.arange(0, BO)
    acc = tl.zeros((BI, BO), tl.float32)
    for start in range(0, squeeze, BS):
        unit = start + tl.arange(0, BS)
        hidden = _hidden(sums, w1, b1, image, image < images, tiles, scale, channels, squeeze, unit, PRECISION, BI, BC, BS, TOGETHER)
        acc = _excite(acc, hidden, w2, unit, channel, channels, squeeze, TRANSPOSED, PRECISION)
    _store_gate(gate, acc, b2, image, image < images, channel, channels)


@triton.jit(do_not_specialize=INTS)
def hidden_kernel(sums, w1, b1, hidden, images, tiles, scale, units, squeeze,
                  UNIT: tl.constexpr, PRECISION: tl.constexpr, BI: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr,
                  TOGETHER: tl.constexpr):
    channels = units * UNIT
    image = tl.program_id(0) * BI + tl.arange(0, BI)
    unit = tl.program_id(1) * BS + tl.arange(0, BS)
    value = _hidden(sums, w1, b1, image, image < images, tiles, scale, channels, squeeze, unit, PRECISION, BI, BC, BS, TOGETHER)
    tl.store(hidden + image[:, None] * squeeze + unit[None, :], value, mask=(image < images)[:, None] & (unit < squeeze)[None, :])


@triton.jit(do_not_specialize=INTS)
def excite_kernel(hidden, w2, b2, gate, images, units, squeeze,
                  UNIT: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, BI: tl.constexpr, BS: tl.constexpr, BO: tl.constexpr):
    channels = units * UNIT
    image = tl.program_id(0) * BI + tl.arange(0, BI)
    channel = tl.program_id(1) * BO + tl.arange(0, BO)
    acc = tl.zeros((BI, BO), tl.float32)
    for start in range(0, squeeze, BS):
        unit = start + tl.arange(0, BS)
        mask = (image < images)[:, None] & (unit < squeeze)[None, :]
        value = tl.load(hidden + image[:, None] * squeeze + unit[None, :], mask=mask, other=0.0)
        acc = _excite(acc, value, w2, unit, channel, channels, squeeze, TRANSPOSED, PRECISION)
    _store_gate(gate, acc, b2, image, image < images, channel, channels)


def se_gate(sums: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, count: int, *,
            transposed: bool = False) -> torch.Tensor:
    """sigmoid(w2 relu(w1 (sum over tiles of sums / count) + b1) + b2) -> (N, C) of the dtype of w1.

    sums: (N, tiles, C) float32; w1: (S, C); w2: (C, S), or (S, C) if `transposed`, which loads faster, of the dtype of w1;
    b1: (S,), b2: (C,) float32; all contiguous; count: the pixels of a map.
    """
    n, tiles, c = sums.shape
    squeeze = w1.shape[0]
    gate = torch.empty((n, c), dtype=w1.dtype, device=sums.device)
    if n == 0:
        return gate
    config = configs.gate(sums.device, w1.dtype, GateShape(n, count, c, squeeze, int(transposed)))
    units = c // unit(c)
    images, parts = triton.cdiv(n, config.images), triton.cdiv(c, config.columns)
    fixed = {"UNIT": unit(c), "PRECISION": "ieee", "BI": config.images, "BS": config.units, "num_warps": config.warps,
             "num_stages": config.stages}
    last = {"BO": config.columns, "TRANSPOSED": transposed}
    few = min(256, max(32, triton.next_power_of_2(squeeze)))  # hidden units a step of the second launch: it waits for each step
    if config.launches == 1:
        together = 4 if machine(sums.device).arch == "sm_90" else 1  # elsewhere it spills
        gate_kernel[(images, parts)](sums, w1, b1, w2, b2, gate, n, tiles, 1 / count, units, squeeze, BC=config.depth, TOGETHER=together,
                                     **last, **fixed)
        return gate
    hidden = torch.empty((n, squeeze), dtype=torch.float32, device=sums.device)
    hidden_kernel[(images, triton.cdiv(squeeze, config.units))](
        sums, w1, b1, hidden, n, tiles, 1 / count, units, squeeze, BC=config.depth, TOGETHER=4, **fixed)
    excite_kernel[(images, parts)](hidden, w2, b2, gate, n, units, squeeze, **last, **{**fixed, "BS": few})
    return gate

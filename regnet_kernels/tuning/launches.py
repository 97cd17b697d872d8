"""A layer made again from its shape, on random tensors and on the backend asked for: what a tuner measures."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backends.gpu.fused import expand_grouped
from ..backends.gpu.network import kernel
from ..backends.triton.shapes import DirectShape, ExpandShape, GateShape, GroupedShape, PointwiseShape, Shape

Call = Callable[[], tuple[torch.Tensor, ...]]
RELU = 1
TILE = 256  # pixels of a partial sum that the gate adds up, about


def make(shape: Shape, dtype: torch.dtype, device: torch.device, backend: str = "triton", run: Callable | None = None) -> Call:
    """A function that runs the layer and returns its results: of the grouped convolution the map and the partial sums. run: another
    function than a backend's, of the same arguments."""
    if run is None:
        run = expand_grouped if isinstance(shape, ExpandShape) else kernel(backend, shape.kernel)
    return _MAKERS[type(shape)](shape, _Random(dtype, device), run)


class _Random:
    """Tensors of a fixed seed, which leaves torch's own generators alone."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def __call__(self, *shape: int, fan: int = 1, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normal numbers of variance 1 / fan."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype or self.dtype) * fan**-0.5

    def map(self, n: int, c: int, height: int, width: int) -> torch.Tensor:
        return self(n, height, width, c).permute(0, 3, 1, 2)

    def bias(self, c: int) -> torch.Tensor:
        return self(c, dtype=torch.float32)


def _pointwise(shape: PointwiseShape, new: _Random, run: Callable) -> Call:
    n, height, width, k, o, stride, gated, residual, k2, stride2 = shape
    x, w, bias = new.map(n, k, height * stride, width * stride), new(o, k, fan=k), new.bias(o)
    options = {"stride": stride, "activation": RELU}
    if gated:
        options["gate"] = new(n, k).sigmoid()
    if residual:
        options["residual"] = new.map(n, o, height, width)
    if k2:
        options |= {"shortcut": new.map(n, k2, height * stride2, width * stride2), "w_shortcut": new(o, k2, fan=k2),
                    "shortcut_stride": stride2}
    return lambda: (run(x, w, bias, **options),)


def _grouped(shape: GroupedShape, new: _Random, run: Callable) -> Call:
    n, height, width, c, group_width, stride, pool = shape
    x, w, bias = new.map(n, c, height * stride, width * stride), new(c, 3, 3, group_width, fan=9 * group_width), new.bias(c)

    def call():
        y, sums = run(x, w, bias, stride=stride, activation=RELU, pool=bool(pool))
        return (y, sums) if pool else (y,)

    return call


def _expand(shape: ExpandShape, new: _Random, run: Callable) -> Call:
    n, _, _, k, c, group_width, stride, pool = shape
    x, a, a_bias = new.map(n, k, shape.height_in, shape.width_in), new(c, k, fan=k), new.bias(c)
    b, b_bias = new(c, 3, 3, group_width, fan=9 * group_width), new.bias(c)

    def call():
        y, sums = run(x, a, a_bias, b, b_bias, stride=stride, activation=RELU, pool=bool(pool))
        return (y, sums) if pool else (y,)

    return call


def _direct(shape: DirectShape, new: _Random, run: Callable) -> Call:
    n, height, width, c, o, side, stride = shape
    padding, depth = (side - 1) // 2, side * side * c
    x = new.map(n, c, *((extent - 1) * stride + side - 2 * padding for extent in (height, width)))
    w, bias = new(o, depth + -depth % 8, fan=depth), new.bias(o)
    return lambda: (run(x, w, bias, side, stride=stride, padding=padding, activation=RELU),)


def _gate(shape: GateShape, new: _Random, run: Callable) -> Call:
    n, pixels, c, squeeze, transposed = shape
    sums = new(n, -(-pixels // TILE), c, dtype=torch.float32).abs() * TILE
    w1, w2 = new(squeeze, c, fan=c), new(*(squeeze, c) if transposed else (c, squeeze), fan=squeeze)
    b1, b2 = new.bias(squeeze), new.bias(c)
    return lambda: (run(sums, w1, b1, w2, b2, pixels, transposed=bool(transposed)),)


_MAKERS = {PointwiseShape: _pointwise, GroupedShape: _grouped, DirectShape: _direct, GateShape: _gate, ExpandShape: _expand}

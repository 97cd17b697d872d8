"""What a launch's configuration may depend on, as numbers: the keys of heuristics and of tuned configurations.

Every shape has `kernel`, the name under which it is tuned, and fields that suffice to make a launch of it again
(regnet_kernels.tuning.launches). All are integers; flags are 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple


class PointwiseShape(NamedTuple):
    """A 1x1 from k to o channels. height, width: of the result; residual: a tensor is added; k2: channels of the projection's
    input, 0 for none, read with stride2."""

    kernel = "pointwise"

    images: int
    height: int
    width: int
    k: int
    o: int
    stride: int = 1
    gated: int = 0
    residual: int = 0
    k2: int = 0
    stride2: int = 1

    @property
    def rows(self) -> int:
        return self.images * self.height * self.width


class GroupedShape(NamedTuple):
    """A grouped 3x3. height, width: of the result; pool: with the sums for a squeeze."""

    kernel = "grouped"

    images: int
    height: int
    width: int
    channels: int
    group_width: int
    stride: int = 1
    pool: int = 0

    @property
    def rows(self) -> int:
        return self.images * self.height * self.width


class DirectShape(NamedTuple):
    """A dense convolution with a square kernel. height, width: of the result."""

    kernel = "direct"

    images: int
    height: int
    width: int
    channels: int
    o: int
    side: int
    stride: int = 1

    @property
    def rows(self) -> int:
        return self.images * self.height * self.width


class GateShape(NamedTuple):
    """A squeeze-excite's gate. pixels: of the map that was summed; transposed: w2 is (squeeze, channels)."""

    kernel = "gate"

    images: int
    pixels: int
    channels: int
    squeeze: int
    transposed: int = 1


class ExpandShape(NamedTuple):
    """A 1x1 from k to `channels` and the grouped 3x3 behind it. height, width: of the result; pool: with the sums for a squeeze."""

    kernel = "expand_grouped"

    images: int
    height: int
    width: int
    k: int
    channels: int
    group_width: int
    stride: int = 1
    pool: int = 0

    @property
    def rows(self) -> int:
        return self.images * self.height * self.width

    @property
    def height_in(self) -> int:
        return self.height * self.stride

    @property
    def width_in(self) -> int:
        return self.width * self.stride


Shape = PointwiseShape | GroupedShape | DirectShape | GateShape | ExpandShape
SHAPES = {shape.kernel: shape for shape in (PointwiseShape, GroupedShape, DirectShape, GateShape, ExpandShape)}

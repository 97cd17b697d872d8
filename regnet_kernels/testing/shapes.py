"""Shapes as data: what the named RegNets hold, and the odd ones at which kernels break."""

from typing import NamedTuple


class ConvShape(NamedTuple):
    """A convolution of n images of h x w with a k x k kernel."""

    n: int
    c_in: int
    c_out: int
    h: int
    w: int
    k: int = 3
    stride: int = 1
    groups: int = 1


class SeShape(NamedTuple):
    """A squeeze-excite of width `squeeze` over c channels."""

    n: int
    c: int
    squeeze: int
    h: int
    w: int


class BlockShape(NamedTuple):
    """A bottleneck block; squeeze 0 is an X block; without `proj` the shortcut is the identity."""

    n: int
    c_in: int
    c_mid: int
    c_out: int
    group_width: int
    squeeze: int
    stride: int
    proj: bool
    h: int
    w: int


CONV_SHAPES = (
    ConvShape(1, 3, 32, 33, 35, 3, 2),  # the stem, odd sides
    ConvShape(2, 3, 10, 7, 9, 7, 2),  # channel counts that no vector divides
    ConvShape(3, 48, 104, 7, 9, 1),
    ConvShape(1, 32, 48, 8, 8, 1, 2),  # a projection
    ConvShape(1, 8, 8, 1, 1, 1),
    ConvShape(0, 16, 16, 7, 9, 3),  # an empty batch
    ConvShape(1, 10, 6, 5, 4, 5, 1, 2),
    # grouped 3x3 of the group widths 8, 24, 56, 120, 232, and depthwise
    ConvShape(2, 48, 48, 7, 9, 3, 1, 6),
    ConvShape(1, 96, 96, 14, 14, 3, 2, 4),
    ConvShape(1, 112, 112, 7, 9, 3, 1, 2),
    ConvShape(1, 240, 240, 5, 3, 3, 2, 2),
    ConvShape(1, 232, 232, 1, 1, 3, 1, 1),
    ConvShape(2, 19, 19, 6, 5, 3, 1, 19),
)

SE_SHAPES = (SeShape(2, 48, 8, 7, 9), SeShape(1, 104, 10, 1, 1), SeShape(3, 168, 42, 5, 4), SeShape(0, 16, 8, 3, 3))

BLOCK_SHAPES = (
    BlockShape(2, 32, 48, 48, 8, 8, 2, True, 9, 7),
    BlockShape(1, 48, 48, 48, 24, 0, 1, False, 7, 9),
    BlockShape(3, 56, 112, 56, 56, 10, 1, False, 1, 1),
    BlockShape(1, 40, 120, 24, 120, 42, 2, True, 6, 11),
    BlockShape(1, 20, 232, 44, 232, 5, 1, True, 3, 3),
    BlockShape(0, 16, 16, 16, 8, 8, 1, False, 7, 7),
)

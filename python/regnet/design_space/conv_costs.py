"""The paper's table of the complexity of the convolutions that networks are made of."""

from __future__ import annotations

from regnet.cost import Complexity
from regnet.errors import ConfigError

CONVOLUTIONS = ("1x1", "3x3", "3x3 grouped", "3x3 depthwise")


def conv_complexity(kind: str, width: int, side: int, group_width: int | None = None) -> Complexity:
    """Cost of one convolution of stride 1 from `width` channels to as many on a side x side map, without bias and BatchNorm.

    kind: "1x1" (w^2 r^2 flops, w^2 params, w r^2 acts), "3x3" (9 w^2 r^2, 9 w^2, w r^2), "3x3 grouped" with group_width g
    (9 w g r^2, 9 w g, w r^2) or "3x3 depthwise" (9 w r^2, 9 w, w r^2). Raises ConfigError for anything else.
    """
    if kind not in CONVOLUTIONS:
        raise ConfigError(f"unknown convolution {kind!r}; use one of {', '.join(map(repr, CONVOLUTIONS))}")
    if width < 1 or side < 1:
        raise ConfigError(f"width={width} and side={side} must be at least 1")
    if (kind == "3x3 grouped") != (group_width is not None):
        raise ConfigError("group_width is for '3x3 grouped', which needs it, and for nothing else")
    if group_width is not None and (group_width < 1 or width % group_width):
        raise ConfigError(f"group_width {group_width} does not divide the width {width}")
    fan_in = {"1x1": width, "3x3": 9 * width, "3x3 grouped": 9 * (group_width or 0), "3x3 depthwise": 9}[kind]
    return Complexity(width * fan_in * side * side, width * fan_in, width * side * side)

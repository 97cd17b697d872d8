"""From the parameters of a RegNet to integer widths: the quantized linear rule and the group compatibility."""

import math
from collections.abc import Sequence

from regnet.errors import ConfigError

QUANTUM = 8
ROUNDINGS = ("pycls", "torchvision")


def quantized_levels(depth: int, w_0: int, w_a: float, w_m: float) -> list[int]:
    """Exponents round(s_j) of the blocks, s_j = log_{w_m}((w_0 + w_a j) / w_0), one per block (arXiv 2003.13678, eq. 2-4).

    float64, round half to even, as pycls computes them; float32 gives another network about once in 20,000 settings.
    Raises ConfigError outside depth >= 1, w_0 > 0 in steps of 8, w_a >= 0, w_m > 1.
    """
    if depth < 1 or w_0 <= 0 or w_0 % QUANTUM or not (w_a >= 0 and math.isfinite(w_a)) or not (w_m > 1 and math.isfinite(w_m)):
        raise ConfigError(
            f"depth={depth}, w_0={w_0}, w_a={w_a}, w_m={w_m} describe no RegNet; "
            f"use depth >= 1, w_0 a positive multiple of {QUANTUM}, w_a >= 0 and w_m > 1"
        )
    return [round(math.log((w_0 + w_a * j) / w_0) / math.log(w_m)) for j in range(depth)]


def quantized_widths(depth: int, w_0: int, w_a: float, w_m: float) -> list[int]:
    """Width of each of the `depth` blocks, before group compatibility: w_0 w_m^round(s_j), to the nearest multiple of 8.

    Raises ConfigError like `quantized_levels`. The stages are the runs of equal width.
    """
    return [round(w_0 * w_m**level / QUANTUM) * QUANTUM for level in quantized_levels(depth, w_0, w_a, w_m)]


def inner_width(width: int, bottleneck_ratio: float) -> int:
    """Width between the 1x1 convolutions: width / bottleneck_ratio. Raises ConfigError where that is no whole number."""
    exact = width / bottleneck_ratio
    inner = round(exact)
    if inner < 1 or abs(exact - inner) > 1e-6 * inner:
        raise ConfigError(f"bottleneck_ratio {bottleneck_ratio:g} does not divide the width {width}; use a width that it divides")
    return inner


def adjust_group_widths(
    widths: Sequence[int], bottleneck_ratios: Sequence[float], group_widths: Sequence[int], rounding: str = "pycls"
) -> tuple[list[int], list[int]]:
    """Widths and group widths of the stages made compatible: each group width divides its inner width (width / ratio).

    A group width above the inner width is cut to it; then the inner width is rounded to a multiple of the group width:
    rounding "pycls" (the paper's) to the nearest, half to even; "torchvision" to the nearest, half up, and up again where
    that loses more than 10 %. They differ for X-400MF, Y-800MF and Y-8.0GF of the named models.
    Raises ConfigError on a bottleneck ratio that is neither a whole number nor one over a whole number.
    """
    if rounding not in ROUNDINGS:
        raise ConfigError(f"widths={rounding!r} is no rounding; use one of {', '.join(map(repr, ROUNDINGS))}")
    adjusted = [_adjust(*stage, rounding) for stage in zip(widths, bottleneck_ratios, group_widths, strict=True)]
    return [width for width, _ in adjusted], [group_width for _, group_width in adjusted]


def _adjust(width: int, ratio: float, group_width: int, rounding: str) -> tuple[int, int]:
    if width < 1 or group_width < 1 or ratio <= 0:
        raise ConfigError(f"width={width}, group_width={group_width}, bottleneck_ratio={ratio}: all must be positive")
    multiplier = round(1 / ratio) if ratio < 1 else 1  # inverted bottleneck: the inner width must be a multiple of this too
    if abs(ratio * multiplier - round(ratio * multiplier)) > 1e-6:
        raise ConfigError(f"bottleneck_ratio {ratio} is neither a whole number nor 1 over a whole number; use e.g. 4, 2, 1, 0.5 or 0.25")
    inner = max(1, int(width / ratio + 1e-9))
    group_width = min(group_width, inner)
    step = math.lcm(group_width, multiplier)
    inner = _nearest(inner, step) if rounding == "pycls" else _never_far_below(inner, step)
    return round(inner * ratio), group_width


def _nearest(value: int, step: int) -> int:
    return max(step, round(value / step) * step)


def _never_far_below(value: int, step: int) -> int:
    rounded = max(step, (value + step // 2) // step * step)
    return rounded + step if rounded < 0.9 * value else rounded

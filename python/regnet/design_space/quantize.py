"""The quantized linear rule for many RegNets at once, equal to `regnet.models.quantized_levels` and `quantized_widths`.

Whole arrays are computed with numpy, whose logarithms and powers may differ from Python's in the last bit; what lies so near a tie
of the rounding that this could matter is computed again, one by one, by those functions.
"""

from __future__ import annotations

import numpy as np

from regnet.models.widths import QUANTUM, quantized_levels

NEAR = 1e-9


def level_widths(w_0: np.ndarray, w_m: np.ndarray, levels: int) -> np.ndarray:
    """(n, levels) int64 widths of the levels 0, 1, ...: w_0 w_m^level to the nearest multiple of 8. w_0, w_m: (n,)."""
    exact = w_0[:, None] * w_m[:, None] ** np.arange(levels) / QUANTUM
    found = np.rint(exact).astype(np.int64) * QUANTUM
    for row, level in np.argwhere(np.abs(exact - np.floor(exact) - 0.5) < NEAR * (1 + exact)):
        found[row, level] = round(float(w_0[row]) * float(w_m[row]) ** int(level) / QUANTUM) * QUANTUM
    return found


def level_reach(w_0: np.ndarray, w_m: np.ndarray, levels: int) -> np.ndarray:
    """(n, levels) float64: w_0 (w_m^(k - 1/2) - 1) for k = 1..levels; level k starts at the first block j with w_a j above it."""
    return w_0[:, None] * (w_m[:, None] ** (np.arange(1, levels + 1) - 0.5) - 1)


def stage_depths(depth, w_0, w_a, w_m, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each RegNet has exactly the levels 0..stages - 1, and its blocks of each: (n,) bool and (n, stages) int64.

    depth, w_0, w_a > 0, w_m: (n,); reach: (n, stages) of `level_reach`. Rows without exactly these levels hold nothing of use.
    """
    place = reach / w_a[:, None]
    start = np.ceil(place).astype(np.int64)  # the first block of the levels 1..stages
    unsure = (np.abs(place - np.rint(place)) < NEAR * (1 + place)).any(axis=1)
    first, behind = start[:, :-1], np.minimum(start[:, 1:], depth[:, None])
    depths = np.concatenate([np.minimum(start[:, :1], depth[:, None]), behind - first], axis=1)
    valid = (depths > 0).all(axis=1) & (depth <= start[:, -1])
    for row in np.flatnonzero(unsure):
        levels = quantized_levels(int(depth[row]), int(w_0[row]), float(w_a[row]), float(w_m[row]))
        counts = np.bincount(levels, minlength=reach.shape[1])
        valid[row] = len(counts) == reach.shape[1] and bool((counts > 0).all())
        depths[row] = counts[: reach.shape[1]]
    return valid, depths


def regnet_stages(depth, w_0, w_a, w_m, stages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) valid, (n, stages) depths and widths of RegNets: valid are those with exactly `stages` levels, none skipped and no two of
    one width. All arguments (n,), w_a > 0."""
    valid, depths = stage_depths(depth, w_0, w_a, w_m, level_reach(w_0, w_m, stages))
    widths = level_widths(w_0, w_m, stages)
    return valid & (np.diff(widths, axis=1) > 0).all(axis=1), depths, widths

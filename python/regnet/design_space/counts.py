"""How many settings a RegNet space has, counted one by one; the depths of a setting are counted at once."""

from __future__ import annotations

import numpy as np

from regnet.design_space.choices import Choices
from regnet.design_space.quantize import NEAR, level_reach, level_widths, stage_depths

# Counts of the spaces in `spaces.py`, which take seconds to make, by
# (first and last depth, w_0, w_a, w_m by first, last, step; stages); tests count slices of them anew.
_W_0, _W_A = (8, 248, 8), (8.0, 255.9, 0.1)
COUNTED: dict[tuple, int] = {
    ((1, 63, 1), _W_0, _W_A, (1.5, 3.0, 0.001), 4): 1_239_887_955,
    ((1, 63, 1), _W_0, _W_A, (1.5, 3.0, 0.001), 3): 768_506_146,
    ((1, 63, 1), _W_0, _W_A, (1.5, 3.0, 0.001), 5): 1_384_172_560,
    ((1, 40, 1), _W_0, _W_A, (2.0, 3.0, 0.001), 4): 782_463_439,
    ((12, 28, 1), (8, 256, 8), (8.0, 256.0, 0.1), (2.0, 3.0, 0.001), 4): 453_577_440,
}


def count_settings(depth: Choices, w_0: Choices, w_a: Choices | None, w_m: Choices, stages: int) -> int:
    """How many (depth, w_0, w_a, w_m) have exactly `stages` stages; w_a None: w_a = w_0. Those of the named spaces are remembered."""
    key = (*map(_ends, (depth, w_0, w_a, w_m)), stages)
    return COUNTED[key] if key in COUNTED else count_one_by_one(depth, w_0, w_a, w_m, stages)


def _ends(choices: Choices | None):
    return choices and (choices.values[0], choices.values[-1], choices.step)


def count_one_by_one(depth: Choices, w_0: Choices, w_a: Choices | None, w_m: Choices, stages: int) -> int:
    """`count_settings` without the memory: about 0.3 us for each of the grid's (w_0, w_a, w_m)."""
    total = 0
    for start in w_0.values:
        starts = np.full(len(w_m), float(start))
        distinct = (np.diff(level_widths(starts, w_m.array, stages), axis=1) > 0).all(axis=1)
        for slope in np.array_split(w_a.array, max(1, len(w_a) // 64)) if w_a is not None else [np.array([float(start)])]:
            m, a = (grid.ravel() for grid in np.meshgrid(w_m.array[distinct], slope, indexing="ij"))
            total += _count_depths(depth, np.full(len(m), int(start)), a, m, stages)
    return total


def _count_depths(depth, w_0, w_a, w_m, stages: int) -> int:
    """Sum over the rows of the number of depths with exactly `stages` levels: those above the start of the last level, up to the
    start of the next."""
    reach = level_reach(w_0, w_m, stages)
    deepest = int(depth.values[-1])
    place = reach / w_a[:, None]
    unsure = (np.abs(place - np.rint(place)) < NEAR * (1 + place)).any(axis=1)
    start = np.minimum(np.ceil(place), deepest + 1)
    whole = (np.diff(start[:, :-1], axis=1) > 0).all(axis=1) & ~unsure
    last = start[:, -2] if stages > 1 else np.zeros(len(start))
    counts = np.minimum(start[:, -1], deepest) - np.maximum(last, depth.values[0] - 1)
    total = int(np.maximum(counts, 0)[whole].sum())
    rows = np.flatnonzero(unsure)
    if len(rows):
        depths, rows = (grid.ravel() for grid in np.meshgrid(depth.array.astype(np.int64), rows))
        total += int(stage_depths(depths, w_0[rows], w_a[rows], w_m[rows], reach[rows])[0].sum())
    return total

"""Drawing from a long discrete distribution by inversion, with a table that starts the search nearly at its end."""

from __future__ import annotations

import numpy as np


class Inversion:
    """Rows with probabilities; `find` is np.searchsorted(cumulative, aim, "right") - 1, several times faster for many rows."""

    def __init__(self, probabilities: np.ndarray):
        self.cumulative = np.concatenate([[0.0], np.cumsum(probabilities)])
        self.total = float(self.cumulative[-1])
        buckets = 1 << max(4, int(2 * len(probabilities) - 1).bit_length())
        self._scale = buckets / self.total
        # The first row of a bucket, one bucket early: the rounding of aim * scale never leads behind the row.
        edges = (np.arange(buckets + 2) - 1) / self._scale
        self._first = np.maximum(np.searchsorted(self.cumulative, edges, "right") - 1, 0).astype(np.int32)
        self._ends = np.append(self.cumulative[1:-1], np.inf)

    def find(self, aim: np.ndarray) -> np.ndarray:
        """Row of each number in [0, total], int32: the one whose stretch of the cumulative sum holds it; empty stretches never."""
        row = self._first[(aim * self._scale).astype(np.int32)]
        behind = np.flatnonzero(self._ends[row] <= aim)
        while len(behind):
            row[behind] += 1
            behind = behind[self._ends[row[behind]] <= aim[behind]]
        return row

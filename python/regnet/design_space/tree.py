"""Rows with probabilities in a binary tree of runs of similar rows, each run with bounds of whatever decides about it.

All arithmetic is by correctly rounded operations in a fixed order, so that every machine builds the same tree.
"""

from __future__ import annotations

import numpy as np

from regnet.design_space.inversion import Inversion


class Tree:
    """order: the rows in the order of the tree (all else is in that order). Nodes, parents before children: start, stop (a node's
    rows), left, right (its children, -1 at a leaf), mass (its probability). The first nodes are the roots."""

    def __init__(self, features: list[tuple[np.ndarray, int]], probabilities: np.ndarray, roots: int = 1):
        """features: positive values of each row, and an exponent; a node is split in two halves of equal mass by the feature for
        which (max / min) ** exponent is largest. roots: the rows are so many trees of equal size, one behind the other."""
        starts = np.arange(roots) * (len(probabilities) // roots)
        self.order, spans, links = _build(features, probabilities, starts)
        self.start, self.stop = (np.ascontiguousarray(column) for column in spans.T)
        self.left, self.right = (np.ascontiguousarray(column) for column in links.T)
        self._inversion = Inversion(probabilities[self.order])
        sums = self._inversion.cumulative
        self._below, self.mass = sums[self.start], sums[self.stop] - sums[self.start]

    def low(self, values: np.ndarray) -> np.ndarray:
        """(nodes,) minimum of `values` (rows,), in the order of the tree, over each node."""
        return self._reduce(np.minimum, values)

    def high(self, values: np.ndarray) -> np.ndarray:
        """(nodes,) maximum of `values` (rows,) over each node."""
        return self._reduce(np.maximum, values)

    def draw(self, nodes: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """A row of each node, by the rows' probabilities."""
        found = self._inversion.find(self._below[nodes] + uniforms * self.mass[nodes])
        return np.clip(found, self.start[nodes], self.stop[nodes] - 1)

    def _reduce(self, operation, values):
        bounds = np.stack([self.start, self.stop], axis=1).ravel()
        return operation.reduceat(np.append(values, values[-1]), bounds)[::2]


def _build(features, probabilities, roots):
    """Order of the rows; (nodes, 2) first row and row behind the last; (nodes, 2) children."""
    order = np.arange(len(probabilities))
    level = np.stack([roots, np.append(roots[1:], len(order))], axis=1)
    spans, links, count = [level], [], len(level)
    while True:
        split = np.flatnonzero(level[:, 1] - level[:, 0] > 1)
        links.append(np.full((len(level), 2), -1))
        if not len(split):
            return order, np.concatenate(spans), np.concatenate(links)
        start, stop = level[split].T
        _sort(order, start, stop, features)
        sums = np.concatenate([[0.0], np.cumsum(probabilities[order])])
        middle = np.searchsorted(sums, (sums[start] + sums[stop]) / 2)
        middle = np.clip(middle, start + 1, stop - 1)
        links[-1][split, 0] = count + 2 * np.arange(len(split))
        links[-1][split, 1] = links[-1][split, 0] + 1
        level = np.stack([start, middle, middle, stop], axis=1).reshape(-1, 2)
        spans.append(level)
        count += len(level)


def _sort(order, start, stop, features):
    """Sorts each stretch start..stop of `order` by the feature that spreads most in it."""
    lengths = stop - start
    edges = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    node = np.repeat(np.arange(len(start)), lengths)
    places = np.arange(lengths.sum()) + np.repeat(start - edges, lengths)
    rows = order[places]
    best, key = np.full(len(start), -1.0), np.zeros(len(rows))
    for values, exponent in features:
        mine = values[rows]
        ratio = spread = np.maximum.reduceat(mine, edges) / np.minimum.reduceat(mine, edges)
        for _ in range(exponent - 1):  # products, not a power: these are correctly rounded everywhere
            spread = spread * ratio
        better = spread > best
        best = np.where(better, spread, best)
        key = np.where(better[node], mine, key)
    order[places] = rows[np.lexsort((rows, key, node))]

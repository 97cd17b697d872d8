"""All settings that a stage of an AnyNet space can have, and all ordered tuples of depths, as rows of trees."""

from __future__ import annotations

import itertools
import math

import numpy as np

from regnet.design_space.constraints import FIELDS
from regnet.design_space.cost_arrays import Frame
from regnet.design_space.networks import make_networks
from regnet.design_space.tree import Tree
from regnet.errors import ConfigError

MAX_ROWS = 4_000_000
MAX_TUPLES = 200_000


class StageTable:
    """The settings of a stage, the same for all stages; `tree` has a root for each combination of shared values.

    raw: (4, rows) float64 by FIELDS; networks: Networks of (rows,); root_mass: (roots,). Depths are 1 where they are ordered and
    drawn apart (`DepthTuples`).
    """

    def __init__(self, space, frame: Frame, metric: str | None, with_depths: bool):
        choices = dict(space.choices)
        values = {name: choices[name].array for name in FIELDS}
        odds = {name: choices[name].probabilities for name in FIELDS}
        if not with_depths:
            values["depths"], odds["depths"] = np.ones(1), np.ones(1)
        shared = [name for name in FIELDS if name in space.shared]
        own = [name for name in FIELDS if name not in space.shared]
        rows, roots = (math.prod(len(values[name]) for name in names) for names in (FIELDS, shared))
        if rows > MAX_ROWS:
            raise ConfigError(
                f"a stage of {space.name} has {rows:,} settings, more than {MAX_ROWS:,}; use fewer choices or method='rejection'"
            )
        grids = np.meshgrid(*(values[name] for name in (*shared, *own)), indexing="ij")
        columns = dict(zip((*shared, *own), (grid.ravel() for grid in grids), strict=True))
        raw = np.stack([columns[name] for name in FIELDS])
        whole = raw.astype(np.int64)
        networks = make_networks(whole[0], whole[1], raw[2], whole[3])
        self.root_mass = _product([odds[name] for name in shared])
        probabilities = np.tile(_product([odds[name] for name in own]), roots)
        self.tree = Tree(_features(space, frame, metric, raw, networks), probabilities, roots)
        self.raw, self.networks = raw[:, self.tree.order], networks[self.tree.order]


class DepthTuples:
    """Every tuple of depths in the order that the space asks for. values: (stages, tuples) int64; share: their probability among
    all tuples."""

    def __init__(self, space):
        depth, rules = space.depth, space.ordered["depths"]
        tuples = np.array(list(itertools.combinations_with_replacement(range(len(depth)), space.stages)))
        if len(rules) == 2:
            tuples = tuples[(tuples == tuples[:, :1]).all(axis=1)]
        tuples = tuples[:, ::-1] if rules[0] else tuples
        probabilities = np.ones(len(tuples))
        for column in tuples.T:
            probabilities = probabilities * depth.probabilities[column]
        values = depth.array[tuples].T
        self.tree = Tree([(column, 1) for column in values], probabilities)
        self.values = values[:, self.tree.order].astype(np.int64)

    @staticmethod
    def fit(space) -> bool:
        """Whether the depths of a space are ordered and their tuples few enough to list."""
        return "depths" in space.ordered and math.comb(len(space.depth) + space.stages - 1, space.stages) <= MAX_TUPLES


def _features(space, frame, metric, raw, networks):
    """What stages are split by. The exponents are those that gave the fewest rejected proposals in the spaces A to E."""
    found = [(raw[FIELDS.index(name)], 3 if name == "widths" else 1) for name in space.ordered if name != "depths"]
    if "widths" in space.ordered or metric is None:
        return [*found, (raw[0], 1), (networks.widths + 0.0, 1)]
    terms = frame.stage_terms(
        min(1, space.stages - 1), networks.depths, networks.widths, networks.inner_widths, networks.group_widths
    )[metric]
    return [*found, (terms.own + 1.0, 1), (terms.per_w_in + np.ones(len(raw[0])), 1), (networks.widths + 0.0, 1)]


def _product(factors: list[np.ndarray]) -> np.ndarray:
    found = np.ones(1)
    for factor in factors:
        found = (found[:, None] * factor[None, :]).ravel()
    return found

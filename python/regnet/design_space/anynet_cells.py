"""The part of an AnyNet space that can hold networks of a window, as cells; the sampler that proposes from them.

A cell is one node of the stage table's tree for each stage (and, where depths are ordered, one node of the tree of their tuples).
From the bounds of its nodes follow bounds of flops, params and acts, as the cost of a stage is linear in the incoming width, and
whether the order along the stages can hold. Starting at the roots, cells that can hold no valid network are dropped and the
likeliest of the others are split, until there are about BUDGET of them. The cells are disjoint and cover every valid network:
drawing a cell by its probability, then a setting in it by the space's own probabilities, is the space's distribution given the
cells, and the exact test of each proposal makes it the one given the window.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

import numpy as np

from regnet.design_space.constraints import FIELDS
from regnet.design_space.cost_arrays import Frame, StageTerms
from regnet.design_space.inversion import Inversion
from regnet.design_space.networks import Networks
from regnet.design_space.settings import AnyNetSettings
from regnet.design_space.stage_table import DepthTuples, StageTable
from regnet.design_space.windows import Window
from regnet.errors import ConfigError

BUDGET = 200_000
PROPOSALS = 32768  # at a time
ORDER_WEIGHT = 1.0  # of an open order against an open relative cost, when a stage is chosen to be split


class CellSource:
    """Proposals from the cells of a space and a window (`Source`)."""

    def __init__(self, space, window: Window):
        self._cover = cover(space, window)
        self.tried = 0

    def propose(self, uniforms):
        self.tried += PROPOSALS
        return self._cover.propose(uniforms.take(self._cover.numbers, PROPOSALS))


@lru_cache(maxsize=4)
def cover(space, window: Window) -> Cover:
    """The cells of a space and a window, kept for the next call."""
    return Cover(space, window)


class Cover:
    """The cells. share: their probability among draws before order and window; numbers: how many a proposal takes.

    Raises ConfigError where there is no cell, that is, no network in the window.
    """

    def __init__(self, space, window: Window, budget: int = BUDGET):
        self._window, self._metrics, self._stages = window, tuple(window.ranges), space.stages
        self._frame = Frame(space.template, space.stages, window.resolution)
        self._tuples = DepthTuples(space) if DepthTuples.fit(space) else None
        self._table = StageTable(space, self._frame, self._metrics[0] if self._metrics else None, with_depths=self._tuples is None)
        self._ordered = {name: rules for name, rules in space.ordered.items() if name != "depths" or self._tuples is None}
        self._terms = [self._stage_terms(stage) for stage in range(space.stages)]
        tree, widths = self._table.tree, self._table.networks.widths
        self._bounds = [{metric: [_Bounds(tree, terms) for terms in pair] for metric, pair in stage.items()} for stage in self._terms]
        self._width_low, self._width_high = tree.low(widths), tree.high(widths)
        self._raw = {name: self._table.raw[FIELDS.index(name)] for name in self._ordered}
        self._raw_bounds = {name: (tree.low(raw), tree.high(raw)) for name, raw in self._raw.items()}
        if self._tuples is not None:
            values, depth_tree = self._tuples.values, self._tuples.tree
            self._depth_low, self._depth_high = ([bound(column) for column in values] for bound in (depth_tree.low, depth_tree.high))
        self._trees = [tree] * space.stages + ([self._tuples.tree] if self._tuples is not None else [])
        nodes, mass = self._refine(budget)
        if not len(mass):
            raise ConfigError(f"no network of {space.name} has {window}; use a wider window")
        self._nodes = np.ascontiguousarray(nodes.T.astype(np.int32))
        self._inversion = Inversion(mass)
        self.share, self.numbers = self._inversion.total, 1 + len(self._trees)

    def __len__(self) -> int:
        return self._nodes.shape[1]

    def propose(self, uniforms: np.ndarray) -> tuple[AnyNetSettings, Networks]:
        """Of (numbers, n) uniform numbers, fewer than n settings and networks: those in the window and in order."""
        cell = self._inversion.find(uniforms[0] * self.share)
        alive, rows = np.arange(len(cell)), []
        for stage in range(self._stages):
            row = self._table.tree.draw(self._nodes[stage][cell[alive]], uniforms[1 + stage, alive])
            if rows and self._ordered:
                held = self._in_order(rows[-1], row)
                alive, row, rows = alive[held], row[held], [earlier[held] for earlier in rows]
            rows.append(row)
        depths = None
        if self._tuples is not None:
            depths = self._tuples.values[:, self._tuples.tree.draw(self._nodes[-1][cell[alive]], uniforms[-1, alive])]
        held = self._window.holds(self._exact(rows, depths))
        if held is not True:
            rows, depths = [row[held] for row in rows], None if depths is None else depths[:, held]
        return self._settings(np.stack(rows, axis=1), depths)

    def _settings(self, rows: np.ndarray, depths: np.ndarray | None):
        raw, networks = self._table.raw[:, rows], self._table.networks[rows]
        depths = raw[0].astype(np.int64) if depths is None else np.ascontiguousarray(depths.T)
        settings = AnyNetSettings(depths, raw[1].astype(np.int64), raw[2], raw[3].astype(np.int64))
        return settings, Networks(depths, networks.widths, networks.inner_widths, networks.group_widths, networks.bottleneck_ratios)

    def _in_order(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        held = np.ones(len(after), bool)
        for name, raw in self._raw.items():
            for decreasing in self._ordered[name]:
                held &= raw[after] <= raw[before] if decreasing else raw[after] >= raw[before]
        return held

    def _exact(self, rows: list[np.ndarray], depths: np.ndarray | None) -> dict[str, np.ndarray]:
        """The window's metrics of the networks with these rows of the table."""
        widths = [self._table.networks.widths[row] for row in rows]
        found = {metric: self._frame.outside(metric, widths[-1]) for metric in self._metrics}
        w_in = np.int64(self._frame.template.stem_width)
        for stage, row in enumerate(rows):
            se_in = self._frame.squeeze_width(w_in)
            for metric in self._metrics:
                first, more = self._terms[stage][metric]
                found[metric] = found[metric] + _at(first, row).total(w_in, widths[stage], se_in)
                if depths is not None:
                    found[metric] = found[metric] + (depths[stage] - 1) * more.own[row]
            w_in = widths[stage]
        return found

    def _stage_terms(self, stage: int) -> dict[str, tuple[StageTerms, StageTerms]]:
        """By metric: the terms of the table's settings, and those of one more block."""
        networks = self._table.networks
        sizes = networks.widths, networks.inner_widths, networks.group_widths
        terms = self._frame.stage_terms(stage, networks.depths, *sizes)
        deeper = self._frame.stage_terms(stage, networks.depths + 1, *sizes)
        return {metric: (terms[metric], StageTerms(deeper[metric].own - terms[metric].own)) for metric in self._metrics}

    def _refine(self, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """Cells, (cells, trees) nodes, and their probabilities."""
        roots = len(self._table.root_mass)
        nodes = np.zeros((roots, len(self._trees)), np.int64)
        nodes[:, : self._stages] = np.arange(roots)[:, None]
        root_mass, done = self._table.root_mass, []
        while True:
            possible, settled, score = self._judge(nodes)
            nodes, root_mass, settled, score = nodes[possible], root_mass[possible], settled[possible], score[possible]
            leaf = np.stack([tree.left[nodes[:, k]] < 0 for k, tree in enumerate(self._trees)], axis=1)
            mass = root_mass
            for k, tree in enumerate(self._trees):
                mass = mass * tree.mass[nodes[:, k]]
            share = float(np.cumsum(mass)[-1]) if len(mass) else 0.0
            share += sum(part_share for *_, part_share in done)
            stop = settled | leaf.all(axis=1) | (mass <= share / budget)
            done.append((nodes[stop], mass[stop], float(np.cumsum(mass[stop])[-1]) if stop.any() else 0.0))
            if stop.all():
                return np.concatenate([part[0] for part in done]), np.concatenate([part[1] for part in done])
            nodes, root_mass = self._split(nodes[~stop], np.where(leaf, -1.0, score)[~stop]), np.repeat(root_mass[~stop], 2)

    def _split(self, nodes, score):
        chosen, row = score.argmax(axis=1), np.arange(len(nodes))
        children = np.repeat(nodes, 2, axis=0)
        for k, tree in enumerate(self._trees):
            mine = row[chosen == k]
            parent = nodes[mine, k]
            children[2 * mine, k], children[2 * mine + 1, k] = tree.left[parent], tree.right[parent]
        return children

    def _judge(self, nodes):
        """Of each cell: whether it can hold a valid network; whether it holds nothing else; how much each tree leaves open."""
        possible, settled, score = np.ones(len(nodes), bool), np.ones(len(nodes), bool), np.zeros(nodes.shape)
        for metric, (minimum, maximum) in self._window.ranges.items():
            low, high = self._judge_cost(metric, nodes, score, 1 / max(maximum, 1.0))
            possible &= (low <= maximum) & (high >= minimum)
            settled &= (low >= minimum) & (high <= maximum)
        stages = nodes[:, : self._stages]
        for name, rules in self._ordered.items():
            low, high = (bound[stages] for bound in self._raw_bounds[name])
            for decreasing in rules:
                way = slice(None, None, -1 if decreasing else 1)
                _judge_order(low[:, way], high[:, way], possible, settled, score[:, : self._stages][:, way])
        return possible, settled, score

    def _judge_cost(self, metric, nodes, score, scale):
        """Bounds of the metric; adds what each tree leaves open of it, times `scale`, to the scores."""
        last = nodes[:, self._stages - 1]
        low, high = self._frame.outside(metric, self._width_low[last]), self._frame.outside(metric, self._width_high[last])
        w_low = w_high = np.int64(self._frame.template.stem_width)
        for stage in range(self._stages):
            node = nodes[:, stage]
            first, more = self._bounds[stage][metric]
            at_least = _at(first.low, node).total(w_low, -1, self._frame.squeeze_width(w_low))
            at_most = _at(first.high, node).total(w_high, -1, self._frame.squeeze_width(w_high))
            if self._tuples is not None:
                shallow, deep = self._depth_low[stage][nodes[:, -1]] - 1, self._depth_high[stage][nodes[:, -1]] - 1
                at_least, at_most = at_least + shallow * more.low.own[node], at_most + deep * more.high.own[node]
                by_depth = (deep - shallow) * more.high.own[node]
                score[:, -1] += by_depth * scale
                score[:, stage] -= by_depth * scale
            score[:, stage] += (at_most - at_least) * scale
            low, high = low + at_least, high + at_most
            w_low, w_high = self._width_low[node], self._width_high[node]
        return low, high


class _Bounds:
    """StageTerms of the minima (low) and of the maxima (high) over each node; a projection that may be missing is in `high` alone."""

    def __init__(self, tree, terms: StageTerms):
        values = [getattr(terms, field.name) for field in fields(StageTerms)]
        low = [tree.low(value) if isinstance(value, np.ndarray) else value for value in values]
        high = [tree.high(value) if isinstance(value, np.ndarray) else value for value in values]
        self.low, self.high = StageTerms(*low[:3]), StageTerms(*high)


def _judge_order(low, high, possible, settled, score):
    """For bounds (cells, stages) of a field that must not fall: narrows `possible` and `settled`, adds to `score`."""
    floor = np.maximum.accumulate(low, axis=1)
    for stage in range(low.shape[1] - 1):
        possible &= floor[:, stage] <= high[:, stage + 1]
        overlap = np.maximum(0.0, high[:, stage] - low[:, stage + 1])
        settled &= overlap == 0
        for side in (stage, stage + 1):
            score[:, side] += ORDER_WEIGHT * np.minimum(overlap, high[:, side] - low[:, side]) / (high[:, stage] + high[:, stage + 1])


def _at(terms: StageTerms, node: np.ndarray) -> StageTerms:
    values = (getattr(terms, field.name) for field in fields(StageTerms))
    return StageTerms(*(value[node] if isinstance(value, np.ndarray) else value for value in values))

"""The part of a RegNet space that can hold networks of a window, as cells; the sampler that proposes from them.

A cell is one w_0, one bottleneck ratio and group width, and a range each of w_m, w_a and the depth. The widths of the levels grow
with w_m; the block at which a level starts grows with w_m and falls with w_a; so the ends of the ranges bound the stages and with
them the complexity, and the window then bounds the depth. Cells that can hold no valid network are dropped and the likeliest of
the others are halved in w_m or w_a, until there are about BUDGET of them. Proposals as in `anynet_cells`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from regnet.design_space.cost_arrays import Frame, StageTerms
from regnet.design_space.inversion import Inversion
from regnet.design_space.networks import adjust_group_width_arrays, make_networks
from regnet.design_space.quantize import NEAR, level_reach, level_widths, stage_depths
from regnet.design_space.settings import RegNetSettings, Rows
from regnet.design_space.windows import Window
from regnet.errors import ConfigError
from regnet.models.widths import QUANTUM

BUDGET = 200_000
PROPOSALS = 32768  # at a time
NUMBERS = 4  # uniform numbers of a proposal: cell, w_m, w_a, depth


class RegNetCellSource:
    """Proposals from the cells of a space and a window (`Source`)."""

    def __init__(self, space, window: Window):
        self._cover = cover(space, window)
        self.tried = 0

    def propose(self, uniforms):
        self.tried += PROPOSALS
        return self._cover.propose(uniforms.take(NUMBERS, PROPOSALS))


@lru_cache(maxsize=4)
def cover(space, window: Window) -> Cover:
    """The cells of a space and a window, kept for the next call."""
    return Cover(space, window)


@dataclass(frozen=True)
class Cells(Rows):
    """Indices into the choices: w_0, ratio, group; first and last of w_m, w_a, depth. All (n,)."""

    w_0: np.ndarray
    ratio: np.ndarray
    group: np.ndarray
    m_first: np.ndarray
    m_last: np.ndarray
    a_first: np.ndarray
    a_last: np.ndarray
    d_first: np.ndarray
    d_last: np.ndarray


class Cover:
    """The cells. share: their probability among draws of the parameters.

    Raises ConfigError where there is no cell, that is, no network in the window.
    """

    def __init__(self, space, window: Window, budget: int = BUDGET):
        self._space, self._window = space, window
        self._frame = Frame(space.template, space.stages, window.resolution)
        self._m, self._d = Inversion(space.w_m.probabilities), Inversion(space.depth.probabilities)
        self._a = Inversion(space.w_a.probabilities) if space.w_a is not None else None
        self._cells, mass = self._refine(budget)
        if not len(mass):
            raise ConfigError(f"no network of {space.name} has {window}; use a wider window")
        self._inversion = Inversion(mass)
        self.share = self._inversion.total
        # Widths and starts of the levels of every w_0 and w_m.
        w_0, w_m = (grid.ravel() for grid in np.meshgrid(space.w_0.array, space.w_m.array, indexing="ij"))
        self._widths, self._reach = level_widths(w_0, w_m, space.stages), level_reach(w_0, w_m, space.stages)
        self._distinct = (np.diff(self._widths, axis=1) > 0).all(axis=1)

    def __len__(self) -> int:
        return len(self._cells)

    def propose(self, uniforms: np.ndarray):
        """Settings and networks of (NUMBERS, n) uniform numbers, fewer than n: those with the right stages."""
        space, cells = self._space, self._cells
        cell = self._inversion.find(uniforms[0] * self.share)
        m = _within(self._m, cells.m_first[cell], cells.m_last[cell], uniforms[1])
        w_0 = cells.w_0[cell]
        shape = w_0 * len(space.w_m) + m
        depth = space.depth.array[_within(self._d, cells.d_first[cell], cells.d_last[cell], uniforms[3])].astype(np.int64)
        w_a = space.w_0.array[w_0] + 0.0
        if self._a is not None:
            w_a = space.w_a.array[_within(self._a, cells.a_first[cell], cells.a_last[cell], uniforms[2])]
        w_m, w_0 = space.w_m.array[m], space.w_0.array[w_0].astype(np.int64)
        valid, depths = stage_depths(depth, w_0, w_a, w_m, self._reach[shape])
        valid &= self._distinct[shape]
        ratio = space.bottleneck_ratio.array[cells.ratio[cell]]
        group_width = space.group_width.array[cells.group[cell]].astype(np.int64)
        settings = RegNetSettings(depth, w_0, w_a, w_m, ratio, group_width)[valid]
        widths = self._widths[shape[valid]]
        group_widths = np.broadcast_to(settings.group_width[:, None], widths.shape)
        return settings, make_networks(depths[valid], widths, settings.bottleneck_ratio[:, None], group_widths)

    def _refine(self, budget: int) -> tuple[Cells, np.ndarray]:
        cells, done, done_mass = self._root(), [], []
        while True:
            cells = self._narrow(cells)
            mass = self._mass(cells)
            wide_m, wide_a = self._spreads(cells)
            share = float(np.cumsum(mass)[-1]) if len(mass) else 0.0
            share += sum(float(np.cumsum(part)[-1]) for part in done_mass if len(part))
            stop = (mass <= share / budget) | ((wide_m <= 1) & (wide_a <= 1))
            done.append(cells[stop])
            done_mass.append(mass[stop])
            if stop.all():
                return Cells.concatenate(done), np.concatenate(done_mass)
            cells = self._halve(cells[~stop], (wide_m > wide_a)[~stop])

    def _root(self) -> Cells:
        """Every w_0, ratio and group width, with all of w_m, w_a and the depth."""
        space = self._space
        counts = (len(space.w_0), len(space.bottleneck_ratio), len(space.group_width))
        w_0, ratio, group = (grid.ravel() for grid in np.meshgrid(*map(np.arange, counts), indexing="ij"))
        last = (len(space.w_m), len(space.w_a) if space.w_a is not None else 1, len(space.depth))
        ends = [column for count in last for column in (np.zeros_like(w_0), np.full_like(w_0, count - 1))]
        return Cells(w_0, ratio, group, *ends)

    def _spreads(self, cells: Cells):
        """How far the ends of w_m (squared: widths and starts both follow it) and of w_a lie apart, as ratios."""
        m = self._space.w_m.array
        wide_m = m[cells.m_last] / m[cells.m_first]
        if self._space.w_a is None:
            return wide_m * wide_m, np.ones(len(cells))
        a = self._space.w_a.array
        return wide_m * wide_m, a[cells.a_last] / a[cells.a_first]

    def _halve(self, cells: Cells, by_m: np.ndarray) -> Cells:
        parts = []
        for mask, name, inversion in ((by_m, "m", self._m), (~by_m, "a", self._a)):
            mine = cells[mask]
            if not len(mine):
                continue
            first, last = getattr(mine, f"{name}_first"), getattr(mine, f"{name}_last")
            sums = inversion.cumulative
            middle = np.searchsorted(sums, (sums[first] + sums[last + 1]) / 2)
            middle = np.clip(middle, first + 1, last)
            columns = {field: getattr(mine, field) for field in Cells.__dataclass_fields__}
            parts += [Cells(**columns | {f"{name}_last": middle - 1}), Cells(**columns | {f"{name}_first": middle})]
        return Cells.concatenate(parts)

    def _mass(self, cells: Cells) -> np.ndarray:
        space = self._space
        mass = space.w_0.probabilities[cells.w_0] * space.bottleneck_ratio.probabilities[cells.ratio]
        mass = mass * space.group_width.probabilities[cells.group] * _range_mass(self._m, cells.m_first, cells.m_last)
        if self._a is not None:
            mass = mass * _range_mass(self._a, cells.a_first, cells.a_last)
        return mass * _range_mass(self._d, cells.d_first, cells.d_last)

    def _narrow(self, cells: Cells) -> Cells:
        """The cells that can hold a valid network, each with the depths that it can have."""
        space, frame, stages = self._space, self._frame, self._space.stages
        w_0, ratio = space.w_0.array[cells.w_0], space.bottleneck_ratio.array[cells.ratio][:, None]
        group = np.broadcast_to(space.group_width.array[cells.group].astype(np.int64)[:, None], (len(cells), stages))
        m_low, m_high = space.w_m.array[cells.m_first], space.w_m.array[cells.m_last]
        a_low = space.w_a.array[cells.a_first] if space.w_a is not None else w_0
        a_high = space.w_a.array[cells.a_last] if space.w_a is not None else w_0
        reach_low, reach_high = level_reach(w_0, m_low, stages), level_reach(w_0, m_high, stages)
        start_low = np.maximum(1, np.ceil(reach_low / a_high[:, None] - NEAR * (1 + reach_low)))
        start_high = np.maximum(1, np.ceil(reach_high / a_low[:, None] + NEAR * (1 + reach_high)))
        raw_low, raw_high = _rough_widths(w_0, m_low, stages, -NEAR), _rough_widths(w_0, m_high, stages, NEAR)
        possible = (raw_high[:, 1:] > raw_low[:, :-1]).all(axis=1)
        low, high = adjust_group_width_arrays(raw_low, ratio, group), adjust_group_width_arrays(raw_high, ratio, group)
        depth_low, depth_high = _stage_depth_bounds(reach_low, reach_high, a_low, a_high, start_low, start_high)
        first, last = start_low[:, -2] + 1 if stages > 1 else np.ones(len(cells)), start_high[:, -1]
        behind_low = start_low[:, -2] if stages > 1 else np.zeros(len(cells))
        behind_high = start_high[:, -2] if stages > 1 else np.zeros(len(cells))
        for metric, (minimum, maximum) in self._window.ranges.items():
            least, more_low = _least(frame, metric, depth_low, low)
            most, more_high = _most(frame, metric, depth_high, high)
            possible &= least <= maximum
            with np.errstate(divide="ignore", invalid="ignore"):
                deepest = behind_high + 1 + np.floor((maximum - least) / more_low)
                shallowest = behind_low + 1 + np.ceil((minimum - most) / more_high)
            last, first = (
                np.minimum(last, np.nan_to_num(deepest, nan=np.inf)),
                np.maximum(first, np.nan_to_num(shallowest, nan=-np.inf)),
            )
        smallest = space.depth.array[0]
        d_first = np.maximum(cells.d_first, np.clip(first - smallest, 0, len(space.depth)).astype(np.int64))
        d_last = np.minimum(cells.d_last, np.clip(last - smallest, -1, len(space.depth) - 1).astype(np.int64))
        columns = {field: getattr(cells, field) for field in Cells.__dataclass_fields__} | {"d_first": d_first, "d_last": d_last}
        return Cells(**columns)[possible & (d_first <= d_last)]


def _within(inversion: Inversion, first, last, uniforms):
    """An index in first..last by the probabilities."""
    sums = inversion.cumulative
    return np.clip(inversion.find(sums[first] + uniforms * (sums[last + 1] - sums[first])), first, last)


def _range_mass(inversion: Inversion, first, last):
    return inversion.cumulative[last + 1] - inversion.cumulative[first]


def _rough_widths(w_0, w_m, levels, shift):
    """Widths of the levels, where a tie of the rounding goes the way of `shift`."""
    exact = w_0[:, None] * w_m[:, None] ** np.arange(levels) / QUANTUM
    return np.rint(exact + shift * (1 + exact)).astype(np.int64) * QUANTUM


def _stage_depth_bounds(reach_low, reach_high, a_low, a_high, start_low, start_high):
    """(n, stages) bounds of the blocks of each stage but the last, of which there is at least one block (the depth tells how many)."""
    low, high = np.ones(reach_low.shape), np.ones(reach_low.shape)
    if reach_low.shape[1] > 1:
        low[:, 0], high[:, 0] = start_low[:, 0], start_high[:, 0]
    for stage in range(1, reach_low.shape[1] - 1):
        # Start minus start: either bounded on its own, or by the distance of the reaches, which rounding up changes by less than 1.
        near = (reach_low[:, stage] - reach_low[:, stage - 1]) / a_high
        far = (reach_high[:, stage] - reach_high[:, stage - 1]) / a_low
        low[:, stage] = np.maximum(1, np.maximum(start_low[:, stage] - start_high[:, stage - 1], np.floor(near - NEAR * (1 + near))))
        high[:, stage] = np.minimum(start_high[:, stage] - start_low[:, stage - 1], np.ceil(far + NEAR * (1 + far)))
    return low.astype(np.int64), np.maximum(1, high).astype(np.int64)


def _least(frame: Frame, metric, depths, sizes):
    """Least cost with one block in the last stage, and of each further one; depths (n, stages), sizes = widths, inner, groups."""
    return _cost(frame, metric, depths, sizes, lambda terms: StageTerms(terms.own, terms.per_w_in, terms.per_se_in))


def _most(frame: Frame, metric, depths, sizes):
    return _cost(frame, metric, depths, sizes, lambda terms: terms)


def _cost(frame: Frame, metric, depths, sizes, take):
    widths, inner, groups = sizes
    total = frame.outside(metric, widths[:, -1]) + 0.0
    w_in, more = np.int64(frame.template.stem_width), 0.0
    for stage in range(frame.stages):
        size = widths[:, stage], inner[:, stage], groups[:, stage]
        terms = frame.stage_terms(stage, depths[:, stage], *size)[metric]
        total = total + take(terms).total(w_in, -1, frame.squeeze_width(w_in))
        if stage == frame.stages - 1:
            more = frame.stage_terms(stage, depths[:, stage] + 1, *size)[metric].own - terms.own
        w_in = widths[:, stage]
    return total, more + 0.0

"""Many settings of a space at once, as drawn: arrays, one row a network, before the widths are made compatible with the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


class Rows:
    """A dataclass of arrays with equal first dimension: length, selection and concatenation of rows."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows):
        """The rows of a slice, a mask or an array of indices, as the same kind of object."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence):
        """All rows of `parts`, in order."""
        return cls(*(_join([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def row(self, index: int) -> dict:
        """Row `index` as plain numbers and lists, for JSON."""
        return {field.name: getattr(self, field.name)[index].tolist() for field in fields(self)}


def _join(values: list):
    return type(values[0]).concatenate(values) if isinstance(values[0], Rows) else np.concatenate(values)


@dataclass(frozen=True)
class AnyNetSettings(Rows):
    """Raw settings of AnyNets: depths, widths, group_widths (n, stages) int64, bottleneck_ratios (n, stages) float64.

    group_widths of 0 mean no groups (blocks R, V, VR).
    """

    depths: np.ndarray
    widths: np.ndarray
    bottleneck_ratios: np.ndarray
    group_widths: np.ndarray


@dataclass(frozen=True)
class RegNetSettings(Rows):
    """Settings of RegNets: depth, w_0, group_width (n,) int64, w_a, w_m, bottleneck_ratio (n,) float64."""

    depth: np.ndarray
    w_0: np.ndarray
    w_a: np.ndarray
    w_m: np.ndarray
    bottleneck_ratio: np.ndarray
    group_width: np.ndarray

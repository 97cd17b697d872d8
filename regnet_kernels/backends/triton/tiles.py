"""How channels are cut into tiles whose sides are powers of two, with little padding.

A program computes `wide + narrow` columns: two accumulators that share each tile of the input. 40 channels are 32 + 8
without a column wasted, 168 are 128 + 64 with 12.5 % of padding, where one power of two would waste 37 %.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

MAX_WASTE = 0.25  # of the columns computed
SMALLEST = 8  # columns of one tensor-core instruction


class Columns(NamedTuple):
    """`tiles` programs side by side, each of wide + narrow columns (narrow 0: one accumulator)."""

    tiles: int
    wide: int
    narrow: int

    @property
    def width(self) -> int:
        return self.wide + self.narrow

    def waste(self, channels: int) -> float:
        """The share of the computed columns that nobody stores."""
        return 1 - channels / (self.tiles * self.width)


def unit(channels: int) -> int:
    """Channel counts are passed to kernels in units of this many, so that the compiler knows how much it may load at once."""
    return 8 if channels % 8 == 0 else 1


@cache
def cut_columns(channels: int, widest: int) -> Columns:
    """The best cut of `channels` into tiles of at most `widest` columns (a power of two, at least 16).

    Each tile reads the input again, each column computes: a tile costs as much as 16 columns more. Ties go to the wider
    accumulator. Never wastes more than a quarter of the columns where channels is a multiple of 8.
    """
    sizes = [size for size in (8, 16, 32, 64, 128, 256) if size <= widest]
    best = None
    for wide in sizes:
        for narrow in [0, *[size for size in sizes if size <= wide and wide + size <= widest]]:
            if wide + narrow < 16 and channels > SMALLEST:
                continue
            tiles = -(-channels // (wide + narrow))
            cut = Columns(tiles, wide, narrow)
            cost = tiles * (cut.width + 16) + (4 if narrow else 0)
            if cut.waste(channels) <= MAX_WASTE and (best is None or (cost, -wide) < (best[0], -best[1].wide)):
                best = cost, cut
    if best is None:  # odd counts of channels, a few classes
        wide = max(16, min(widest, 1 << (channels - 1).bit_length()))
        return Columns(-(-channels // wide), wide, 0)
    return best[1]

"""The order of a block's inner channels on the CPU: groups of the 3x3 lie interleaved, as csrc/cpu/kernels.h (`interleave`) explains.

Where T groups of g channels are together, position k T + i of their T g channels holds channel k of the i-th. Which order the inner channels
have is nobody's business outside of the block, so the 1x1 before and after it, the biases and the squeeze-excite are packed in it, and it
costs nothing at run time. The 3x3 in bfloat16 reads two channels of a group as one word: its input has pairs of channels in place of single
ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class GroupRun(NamedTuple):
    """`count` times `together` groups, from group `first` on."""

    together: int
    first: int
    count: int


def interleave(group_width: int) -> int:
    """How many groups of a 3x3 go together: 4 of 8, 2 of 16 and of odd multiples of 8."""
    if group_width == 8:
        return 4
    return 2 if group_width == 16 or group_width % 16 == 8 else 1


def group_runs(groups: int, group_width: int) -> list[GroupRun]:
    """All groups in order, as many as possible `interleave` together, what is left over in smaller numbers."""
    runs, first, together = [], 0, interleave(group_width)
    while first < groups:
        count = (groups - first) // together
        if count:
            runs.append(GroupRun(together, first, count))
            first += count * together
        together //= 2
    return runs


def channel_order(groups: int, group_width: int, word: int = 1) -> torch.Tensor:
    """(groups * group_width,), int64: the channel at each position, where `word` channels of a group stay side by side."""
    order = torch.arange(groups * group_width)
    for together, first, count in group_runs(groups, group_width):
        if together > 1:
            part = order[first * group_width:(first + count * together) * group_width]
            part.copy_(part.view(count, together, group_width // word, word).transpose(1, 2).reshape(-1))
    return order


def inverse(order: torch.Tensor) -> torch.Tensor:
    """The position of each channel."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def interleaved(matrices: torch.Tensor, together: int) -> torch.Tensor:
    """(G together, g, K), a matrix a group -> (G, together g, K), with the rows of `together` groups in turn."""
    groups, rows, k = matrices.shape
    return matrices.reshape(groups // together, together, rows, k).transpose(1, 2).reshape(groups // together, together * rows, k)


def separated(matrices: torch.Tensor, together: int) -> torch.Tensor:
    """The inverse of `interleaved`."""
    groups, rows, k = matrices.shape
    return matrices.reshape(groups, rows // together, together, k).transpose(1, 2).reshape(groups * together, rows // together, k)

"""The order in which a weight matrix lies in memory for the kernels: panels of 16 output lanes.

M: (G, O, K) is G matrices one after the other. The O axis is cut in panels of 16 lanes; the last one, if O % 16 = r > 0,
is 8 lanes wide for r <= 8, else 16; lanes beyond O are zeros. A float32 panel is stored [K][width]; a bfloat16 panel is
[ceil(K / 2)][width][2], pairs of consecutive k as the bf16 dot instructions read them, K padded to even with a zero.

The 3x3 of a narrow group that stands alone (`packs_pairs`) lies in pairs of words (one k in float32, two in bfloat16): panels of 8 output lanes, each
[K / 2][8][2] in float32 and [K / 4][8][4] in bfloat16.

Both directions are plain differentiable torch ops, so the gradient of one is the other.
"""

import torch
import torch.nn.functional as F

LANES = 16
PAIR_LANES = 8


def padded_rows(rows: int) -> int:
    """How many lanes O = `rows` takes, counting the zero lanes of the last panel."""
    full, rest = divmod(rows, LANES)
    return full * LANES + (0 if rest == 0 else 8 if rest <= 8 else LANES)


def panel_elements(groups: int, rows: int, k: int, dtype: torch.dtype) -> int:
    """Number of elements of the panels of a (groups, rows, k) matrix stack."""
    return groups * padded_rows(rows) * (k + k % word_of(dtype))


def packs_pairs(group_width: int) -> bool:
    """Is the 3x3 of a group that stands alone packed in pairs of words? Groups of 8, 16, 24, 40 and 56."""
    return group_width % PAIR_LANES == 0 and (group_width <= 16 or (group_width % LANES != 0 and group_width < 64))


def to_pairs(m: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """m: (G, O, K), O and K multiples of 8 -> 1-D, panels of 8 lanes in pairs of words; as many elements as m has. Written into
    `into` where that is given."""
    groups, rows, k = m.shape
    pair = 2 * word_of(m.dtype)
    into = m.new_empty(m.numel()) if into is None else into
    m = m.reshape(groups, rows // PAIR_LANES, PAIR_LANES, k // pair, pair)
    into.view(groups, rows // PAIR_LANES, k // pair, PAIR_LANES, pair).copy_(m.transpose(2, 3))
    return into


def from_pairs(flat: torch.Tensor, groups: int, rows: int, k: int) -> torch.Tensor:
    """The inverse of `to_pairs`: 1-D -> (G, O, K)."""
    pair = 2 * word_of(flat.dtype)
    return flat.reshape(groups, rows // PAIR_LANES, k // pair, PAIR_LANES, pair).transpose(2, 3).reshape(groups, rows, k)


def to_panels(m: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """m: (G, O, K) -> 1-D panels of the same dtype; group after group, panel after panel, without gaps. Written into `into` where
    that is given."""
    groups, rows, k = m.shape
    step = word_of(m.dtype)
    into = m.new_empty(panel_elements(groups, rows, k, m.dtype)) if into is None else into
    flat, offset, words = into.view(groups, -1), 0, (k + k % step) // step
    for start, count, width in _runs(rows):
        size = count * width * words * step
        part = m[:, start:start + count * width]
        if part.shape[1] < count * width or k % step:
            part = F.pad(part, (0, k % step, 0, count * width - part.shape[1]))
        panels = flat[:, offset:offset + size].view(groups, count, words, width, step)
        panels.copy_(part.reshape(groups, count, width, words, step).transpose(2, 3))
        offset += size
    return into


def from_panels(flat: torch.Tensor, groups: int, rows: int, k: int) -> torch.Tensor:
    """The inverse of `to_panels`: 1-D panels -> (G, O, K), zero lanes dropped."""
    step = word_of(flat.dtype)
    k_padded = k + k % step
    flat = flat.reshape(groups, -1)
    parts, offset = [], 0
    for _, count, width in _runs(rows):
        size = count * width * k_padded
        part = flat[:, offset:offset + size].reshape(groups, count, k_padded // step, width, step)
        parts.append(part.permute(0, 1, 3, 2, 4).reshape(groups, count * width, k_padded))
        offset += size
    return torch.cat(parts, dim=1)[:, :rows, :k]


def word_of(dtype: torch.dtype) -> int:
    """Elements of a 32-bit word of the packed format, as far as it has such: two in bfloat16."""
    return 2 if dtype == torch.bfloat16 else 1


def _runs(rows: int) -> list[tuple[int, int, int]]:
    """(first row, panels, width) of the full panels and of the narrower last one."""
    full = rows // LANES
    runs = [(0, full, LANES)] if full else []
    if rows % LANES:
        runs.append((full * LANES, 1, padded_rows(rows) - full * LANES))
    return runs

"""A layer of a packed network on the CPU and what can be chosen for it: the rows of integers of csrc/cpu/choices.h, with names."""

from __future__ import annotations

from typing import NamedTuple

DTYPES = ("float32", "bfloat16")
KINDS = ("conv", "block", "head")
CONV, BLOCK, HEAD = range(3)
HEURISTIC, DIRECT, WINOGRAD = range(3)
PLAIN, PAIRS = 1, 2  # of a block's 1x1; 0: the heuristics'
ANY_CUT = 0, 0, 0


class Layer(NamedTuple):
    """What identifies it. dtype, kind: places in DTYPES and KINDS; winograd: were its weights packed for Winograd too; height, width of its
    input; images of the batch; workers: threads."""

    dtype: int
    kind: int
    c_in: int
    c_mid: int
    c_out: int
    kernel: int
    stride: int
    padding: int
    group_width: int
    se_width: int
    projection: int
    winograd: int
    height: int
    width: int
    images: int
    workers: int

    def __str__(self) -> str:
        channels = (self.c_in, self.c_mid, self.c_out) if self.kind == BLOCK else (self.c_in, self.c_out)
        text = f"{KINDS[self.kind]} {'>'.join(map(str, channels))}"
        if self.kind != HEAD:
            text += f" stride {self.stride}, groups of {self.group_width}" + (f", squeeze {self.se_width}" if self.se_width else "")
        return f"{text}, {self.images}x{self.height}x{self.width}, {DTYPES[self.dtype]}, {self.workers} thread{'s' * (self.workers > 1)}"


class Cut(NamedTuple):
    """How a convolution is cut into tasks: block pixels of the output (Winograd: tiles) a task, and `splits` runs of its output channels.
    block 0: as the heuristics cut it. pixels, units: how many there are to cut and to split. pairs: PLAIN or PAIRS, 0 where it cannot go by
    pairs."""

    block: int = 0
    splits: int = 0
    pixels: int = 0
    units: int = 0
    pairs: int = 0


class Choice(NamedTuple):
    """group: images that go through the layer together, 0: the heuristics'; winograd: HEURISTIC, DIRECT or WINOGRAD; a, b, c: the
    (block, splits, pairs) of its convolutions, `a` of a stem's or a head's only one."""

    group: int = 0
    winograd: int = HEURISTIC
    a: tuple[int, int, int] = ANY_CUT
    b: tuple[int, int, int] = ANY_CUT
    c: tuple[int, int, int] = ANY_CUT

    @property
    def integers(self) -> list[int]:
        return [self.group, self.winograd, *self.a, *self.b, *self.c]

    @classmethod
    def of(cls, numbers) -> Choice:
        group, winograd, *cuts = numbers
        return cls(group, winograd, *(tuple(cuts[at:at + 3]) for at in (0, 3, 6)))

    def __str__(self) -> str:
        parts = [f"{self.group} images at a time"] * bool(self.group) + [("", "direct", "Winograd")[self.winograd]] * bool(self.winograd)
        parts += [f"{name}: {block} pixels x {splits}" for name, (block, splits, _) in zip("abc", self[2:]) if block]
        parts += [f"{name}: {('', 'plain', 'by pairs')[pairs]}" for name, (_, _, pairs) in zip("abc", self[2:]) if pairs]
        return ", ".join(parts) or "as the heuristics"


class Made(NamedTuple):
    """What a plan does with a layer; a, b, c: with what there is to choose from."""

    layer: Layer
    group: int
    winograd: int
    a: Cut
    b: Cut
    c: Cut

    @classmethod
    def of(cls, row: list[int]) -> Made:
        n = len(Layer._fields)
        group, winograd, *cuts = row[n:]
        return cls(Layer(*row[:n]), group, winograd, *(Cut(*cuts[at:at + 5]) for at in (0, 5, 10)))

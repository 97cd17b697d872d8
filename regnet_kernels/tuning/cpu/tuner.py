"""The search: all layers of a network at once, since the kernels' own clock tells their times apart.

Each trial gives every layer its next candidate and runs the whole network, by turns with what is best so far, in short rounds; a layer
keeps a candidate that gained GAIN in the median of the rounds and in all of them but one. First the way of the 3x3, that of each 1x1 and the images
that go together, then the cut of each convolution, one step at a time, as long as a step helps. At the end what was found must gain as much
again, layer by layer, against the heuristics, and the network as a whole must be faster; else the heuristics stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import NamedTuple

import torch

from ...packing import PackedNetwork
from ..files import TuningError
from . import store, table
from .layer import ANY_CUT, BLOCK, DIRECT, PAIRS, PLAIN, WINOGRAD, Choice, Cut, Layer, Made

GAIN = 0.02  # of a layer: less is noise
ROUNDS = 5
ROUND_SECONDS = 0.04  # a round is as many passes as fit, at least one
PASSES = 50  # of a round, at most
STEPS = 3  # away from the heuristics' cut or group
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest result: Winograd's rounding is another
PARTS = "abcr"  # of a layer's time: its convolutions, and the rest; the squeeze counts with b, whose cut makes its work
CONVOLUTIONS, SQUEEZE = (1, 2, 3), 4  # Work of csrc/cpu/executor.h

Choices = Mapping[Layer, Choice]  # of the others the heuristics'
Seconds = dict[Layer, tuple[float, ...]]  # of each of PARTS; all layers of that shape together
Clock = Callable[[Choices], Seconds]  # called when the kernels have the choices
Rounds = dict[Layer, list[tuple[float, ...]]]


class Tuned(NamedTuple):
    """One layer. ms, heuristic_ms: of all its occurrences in the network; measured: False if the cache knew it."""

    layer: Layer
    choice: Choice
    ms: float
    heuristic_ms: float
    measured: bool


class Outcome(NamedTuple):
    """ms, heuristic_ms: of the whole network, with what is tuned and without; spread: how far apart the rounds of the latter were, as a
    share; trials: how many were timed; failed: how many of them gave other results, and were left out."""

    layers: list[Tuned]
    ms: float
    heuristic_ms: float
    spread: float
    trials: int
    failed: int


@torch.inference_mode()
def tune(packed: PackedNetwork, x: torch.Tensor, *, again: bool = False, clock: Clock | None = None,
         progress: Callable[[int], None] = lambda trials: None) -> Outcome:
    """Measure the layers of a packed network on x (N, C, H, W) with the threads of now, and keep the better choices, on disk and in the
    kernels of this process. What is known of a layer is not measured `again`.

    clock: for tests, in place of the kernels' own; progress: gets the number of trials after each. While it runs the choices of the whole
    process change. Raises TuningError where the kernels do not run or the result cannot be written; interrupted, it leaves what was
    tuned before.
    """
    if reason := why_not(packed, x):
        raise TuningError(f"nothing can be tuned here: {reason}")
    known = table.entries()
    layers = list(dict.fromkeys(made.layer for made in table.made_for(packed, x)))
    todo = {layer for layer in layers if again or layer not in known}
    start = {layer: known[layer].choice for layer in layers if layer not in todo}
    with table.trials() as install:
        search = _Search(packed, x, layers, install, clock or _kernels_clock(packed, x), progress)
        best = search.run(todo, start)
        before, after = search.compare({}, best)
    if not after:
        raise TuningError("the tuned network gives other results than the heuristics' one")
    if todo:
        table.keep({layer: _entry(best.get(layer, Choice()), before[layer], after[layer]) for layer in todo})
    now, rounds = table.entries(), _totals(before)
    return Outcome([Tuned(layer, *now[layer], layer in todo) for layer in layers], 1e3 * _total(after), 1e3 * _total(before),
                   max(rounds) / min(rounds) - 1, search.trials, search.failed)


def why_not(packed: PackedNetwork, x: torch.Tensor) -> str:
    """Why these kernels cannot run the network on x, else ""."""
    from ...backends import cpu
    from ...ops.network import _describe

    return cpu.why_not(_describe(x, packed)) or ("x holds no images" if x.shape[0] == 0 else "")


class _Search:
    def __init__(self, packed: PackedNetwork, x: torch.Tensor, layers: list[Layer], install: Callable[[Choices], None], clock: Clock,
                 progress: Callable[[int], None]):
        self.packed, self.x, self.layers, self.install, self.clock, self.progress = packed, x, layers, install, clock, progress
        self.trials = self.failed = 0
        self.expected = self.result({})

    def run(self, todo: set[Layer], start: Choices) -> dict[Layer, Choice]:
        """`start`, and the layers of `todo` for which something better than the heuristics' was found."""
        found, made = dict(start), self.made(start)
        self.improve(found, {layer: {"winograd": DIRECT + WINOGRAD - made[layer].winograd} for layer in todo if layer.winograd})
        for part in "ac":
            other = {layer: PLAIN + PAIRS - getattr(made[layer], part).pairs for layer in todo if getattr(made[layer], part).pairs}
            self.improve(found, {layer: {part: (*ANY_CUT[:2], pairs)} for layer, pairs in other.items()}, part)
        for factor in (2, 0.5):
            moving = {layer for layer in todo if layer.images > 1}
            for _ in range(STEPS):
                made = self.made(found)
                groups = {layer: min(max(int(made[layer].group * factor), 1), layer.images) for layer in moving}
                moving = self.improve(found, {layer: {"group": group} for layer, group in groups.items() if group != made[layer].group})
        convolutions = {(layer, part) for layer in todo for part in ("abc" if layer.kind == BLOCK else "a")}
        for _ in range(STEPS):
            convolutions = self.cut(found, convolutions)
        return self.confirm(found, start)

    def improve(self, found: dict[Layer, Choice], changes: Mapping[Layer, dict], parts: str = PARTS) -> set[Layer]:
        """Takes into `found` the changes that make these parts of their layer faster; returns these layers."""
        candidates = {layer: found.get(layer, Choice())._replace(**change) for layer, change in changes.items()}
        better = {layer for (layer, _), ratio in self.ratios(found, candidates, [(layer, parts) for layer in candidates]).items() if ratio < 1}
        found.update({layer: candidates[layer] for layer in better})
        return better

    def cut(self, found: dict[Layer, Choice], convolutions: set[tuple[Layer, str]]) -> set[tuple[Layer, str]]:
        """One step of the cuts of these convolutions: each of their neighbours is tried, one of every convolution at a time, and the best
        taken. Returns the convolutions that gained."""
        made = self.made(found)
        options = {(layer, part): neighbours(getattr(made[layer], part)) for layer, part in convolutions}
        best: dict[tuple[Layer, str], tuple[float, tuple[int, int]]] = {}
        for at in range(max(map(len, options.values()), default=0)):
            tried = {key: cuts[at] for key, cuts in options.items() if at < len(cuts)}
            candidates: dict[Layer, Choice] = {}
            for (layer, part), one in tried.items():
                candidates[layer] = with_cut(candidates.get(layer, found.get(layer, Choice())), part, one)
            for key, ratio in self.ratios(found, candidates, tried).items():
                if ratio < best.get(key, (1.0,))[0]:
                    best[key] = ratio, tried[key]
        for (layer, part), (_, one) in best.items():
            found[layer] = with_cut(found.get(layer, Choice()), part, one)
        return set(best)

    def confirm(self, found: Choices, start: Choices) -> dict[Layer, Choice]:
        """`start`, and what of `found` gains once more against the heuristics; `start` alone where the network as a whole does not."""
        new = {layer: choice for layer, choice in found.items() if layer not in start}
        ratios = self.ratios(start, new, [(layer, PARTS) for layer in new], 2 * ROUNDS - 1)
        kept = {**start, **{layer: new[layer] for (layer, _), ratio in ratios.items() if ratio < 1}}
        before, after = self.compare(start, kept) if len(kept) > len(start) else ({}, {})
        return kept if after and _total(after) < _total(before) else dict(start)

    def ratios(self, found: Choices, candidates: Choices, whats: Iterable[tuple[Layer, str]], rounds: int = ROUNDS) -> dict[tuple[Layer, str], float]:
        """Of these layers and parts: the time with the candidates over the time without, 1 where that is no gain."""
        before, after = self.compare(found, {**found, **candidates}, rounds) if candidates else ({}, {})
        return {(layer, parts): gain(*([sum(one[PARTS.index(part)] for part in parts) for one in times[layer]] for times in (before, after)))
                for layer, parts in whats if layer in after}

    def compare(self, one: Choices, other: Choices, rounds: int = ROUNDS) -> tuple[Rounds, Rounds]:
        """The times of each round with the one and with the other, by turns; nothing where the other's results differ."""
        times: tuple[Rounds, Rounds] = {}, {}
        agrees = self.agrees(self.result(other))
        for turn in range(rounds if agrees else 0):
            for side in (0, 1) if turn % 2 else (1, 0):
                choices = (one, other)[side]
                self.give(choices)
                for layer, seconds in self.clock(choices).items():
                    times[side].setdefault(layer, []).append(seconds)
        self.trials += 1
        self.failed += not agrees
        self.progress(self.trials)
        return times

    def made(self, choices: Choices) -> dict[Layer, Made]:
        self.give(choices)
        return {made.layer: made for made in table.made_for(self.packed, self.x)}

    def result(self, choices: Choices) -> torch.Tensor:
        self.give(choices)
        return torch.ops.regnet_kernels.network(self.x, self.packed.weights, self.packed.params, self.packed.program).float()

    def give(self, choices: Choices) -> None:
        self.install({layer: choices.get(layer, Choice()) for layer in self.layers})

    def agrees(self, found: torch.Tensor) -> bool:
        return bool((found - self.expected).abs().max() <= TOLERANCE[self.x.dtype] * self.expected.abs().max())


def with_cut(choice: Choice, part: str, cut: tuple[int, int]) -> Choice:
    return choice._replace(**{part: (*cut, getattr(choice, part)[2])})


def neighbours(cut: Cut) -> list[tuple[int, int]]:
    """One step away: twice or half as many blocks, twice or half as many splits, and more of the one for less of the other."""
    if cut.block == 0:
        return []
    blocks = -(-cut.pixels // cut.block)
    steps = [(2, 1), (0.5, 1), (1, 2), (1, 0.5), (2, 0.5), (0.5, 2)]
    counts = {(min(max(int(blocks * b), 1), cut.pixels), min(max(int(cut.splits * s), 1), cut.units)): None for b, s in steps}
    return [(-(-cut.pixels // count), splits) for count, splits in counts if (count, splits) != (blocks, cut.splits)]


def gain(before: list[float], after: list[float]) -> float:
    """The median of after / before if it is a gain of GAIN that all rounds but one have; else 1."""
    ratios = sorted(b / a for a, b in zip(before, after) if a > 0)
    if not ratios or median(ratios) > 1 - GAIN or (len(ratios) > 1 and ratios[-2] >= 1):
        return 1.0
    return median(ratios)


def _kernels_clock(packed: PackedNetwork, x: torch.Tensor) -> Clock:
    """The kernels' own: seconds between the barriers of the threads, the lower quartile of a round's passes."""
    layers = [made.layer for made in table.made_for(packed, x)]
    distinct = list(dict.fromkeys(layers))
    arguments = (x, packed.weights, packed.params, packed.program)
    seconds = torch.ops.regnet_kernels._profile_network(*arguments, 3)[:, 3:].sum(0).min().item()
    passes = min(max(int(ROUND_SECONDS / max(seconds, 1e-6)), 1), PASSES)

    def clock(choices: Choices) -> Seconds:
        rows = torch.ops.regnet_kernels._profile_network(*arguments, passes)
        at, convolutions = [], [0] * len(layers)
        for step, work in rows[:, :2].long().tolist():
            part = PARTS.index("b") if work == SQUEEZE else PARTS.index("r")
            if work in CONVOLUTIONS:  # a, b, c of a group of images, then those of the next
                part = convolutions[step] % 3 if layers[step].kind == BLOCK else 0
                convolutions[step] += 1
            at.append(distinct.index(layers[step]) * len(PARTS) + part)
        sums = torch.zeros(len(distinct) * len(PARTS), passes, dtype=torch.float64).index_add_(0, torch.tensor(at), rows[:, 3:])
        return dict(zip(distinct, map(tuple, sums.quantile(0.25, dim=1).view(-1, len(PARTS)).tolist())))

    return clock


def _entry(choice: Choice, before: list[tuple[float, ...]], after: list[tuple[float, ...]]) -> store.Entry:
    heuristic, tuned = (1e3 * median(map(sum, rounds)) for rounds in (before, after))
    return store.Entry(choice, heuristic if choice == Choice() else tuned, heuristic)


def _totals(rounds: Rounds) -> list[float]:
    """Seconds of the whole network in each round."""
    return [sum(map(sum, one)) for one in zip(*rounds.values())]


def _total(rounds: Rounds) -> float:
    return median(_totals(rounds))

"""Layer shapes as data: every distinct step and op of the named models, from their configurations, without building a weight.

A step is what our kernels run and time at once (the stem, a block, the head); an op is one kernel inside it. Multiply-adds and
bytes are those of the mathematical function: inputs, weights and outputs once each, nothing that an implementation adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from regnet.models import AnyNetConfig, model_config


@dataclass(frozen=True)
class OpShape:
    """One kernel.

    kind: "stem", "1x1", "3x3", "se" or "head". side: of the input map. group_width: 0 for a dense convolution.
    shortcut: "", "residual" or "projection", which reads c_short channels with stride short_stride. gate: the input is scaled
    per image and channel; pool: the sums over the map come out as well. se: c_in means -> c_mid -> c_in gates. head: mean over
    the map, then c_in -> c_out.
    """

    kind: str
    batch: int
    side: int
    c_in: int
    c_out: int
    c_mid: int = 0
    group_width: int = 0
    stride: int = 1
    shortcut: str = ""
    c_short: int = 0
    short_stride: int = 1
    gate: bool = False
    pool: bool = False
    activation: str = "relu"

    @property
    def side_out(self) -> int:
        return 1 if self.kind in ("se", "head") else (self.side - 1) // self.stride + 1

    @property
    def kernel(self) -> int:
        return 3 if self.kind in ("stem", "3x3") else 1

    @property
    def weight_elements(self) -> int:
        """Of all weights and biases."""
        if self.kind == "se":
            return 2 * self.c_in * self.c_mid + self.c_mid + self.c_in
        return self.c_out * (self.kernel**2 * (self.group_width or self.c_in) + self.c_short + 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch, biases, means and scaling not counted."""
        if self.kind == "se":
            return 2 * self.batch * self.c_in * self.c_mid
        per_output = self.kernel**2 * (self.group_width or self.c_in) + self.c_short
        return self.batch * self.side_out**2 * self.c_out * per_output

    def bytes(self, itemsize: int) -> int:
        """Input, weights, output, each once. Means and gates are float32."""
        if self.kind == "se":
            return self.weight_elements * 4 + 2 * self.batch * self.c_in * 4
        pixels, pixels_out = self.batch * self.side**2, self.batch * self.side_out**2
        shortcut = {"": 0, "residual": self.c_out, "projection": self.c_short}[self.shortcut]
        elements = pixels * self.c_in + self.weight_elements + pixels_out * (self.c_out + shortcut)
        sums = self.batch * (self.c_in * self.gate + self.c_out * self.pool)
        return elements * itemsize + sums * 4

    @property
    def fused(self) -> str:
        """What the kernel does beside the convolution, in words."""
        words = []
        if self.shortcut:
            stride = f" stride {self.short_stride}" if self.short_stride > 1 else ""
            words.append(f"projection of {self.c_short}{stride}" if self.shortcut == "projection" else "residual")
        return " + ".join(words + ["gate"] * self.gate + ["pool"] * self.pool)

    def columns(self) -> dict:
        """What identifies it in a results file."""
        names = ("kind", "batch", "side", "c_in", "c_mid", "c_out", "group_width", "stride", "fused", "activation")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class StepShape:
    """What runs at once. kind: "stem", "block" or "head"; side: of the input map; R blocks have group_width = c_mid."""

    kind: str
    batch: int
    side: int
    c_in: int
    c_out: int
    c_mid: int = 0
    group_width: int = 0
    stride: int = 1
    se_width: int = 0
    projection: bool = False
    activation: str = "relu"

    @property
    def side_out(self) -> int:
        return 1 if self.kind == "head" else (self.side - 1) // self.stride + 1

    @cached_property
    def ops(self) -> dict[str, OpShape]:
        """Its kernels in order: {"a", "b", "se", "c"} of a block, {"stem"}, {"head"}."""
        n, act = self.batch, self.activation
        if self.kind != "block":
            act = act if self.kind == "stem" else "none"
            return {self.kind: OpShape(self.kind, n, self.side, self.c_in, self.c_out, stride=self.stride, activation=act)}
        se = self.se_width > 0
        found = {
            "a": OpShape("1x1", n, self.side, self.c_in, self.c_mid, activation=act),
            "b": OpShape(
                "3x3", n, self.side, self.c_mid, self.c_mid, group_width=self.group_width, stride=self.stride, pool=se, activation=act
            ),
        }  # fmt: skip
        if se:
            found["se"] = OpShape("se", n, 1, self.c_mid, self.c_mid, c_mid=self.se_width)
        shortcut = {"shortcut": "residual"}
        if self.projection:
            shortcut = {"shortcut": "projection", "c_short": self.c_in, "short_stride": self.stride}
        found["c"] = OpShape("1x1", n, self.side_out, self.c_mid, self.c_out, gate=se, activation=act, **shortcut)
        return found

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops.values())

    def bytes(self, itemsize: int) -> int:
        """Input, weights and output, each once: what lies between the kernels of a block is not counted."""
        weights = sum(op.weight_elements * (4 if op.kind == "se" else itemsize) for op in self.ops.values())
        maps = self.side**2 * self.c_in + self.side_out**2 * self.c_out
        return weights + self.batch * maps * itemsize

    @property
    def fused(self) -> str:
        return "projection" if self.projection else "residual" if self.kind == "block" else ""

    def columns(self) -> dict:
        """What identifies it in a results file; kind is that of the block: X, Y (with squeeze-and-excite) or R (dense 3x3)."""
        kind = "Y" if self.se_width else "R" if self.group_width == self.c_mid else "X"
        names = ("batch", "side", "c_in", "c_mid", "c_out", "group_width", "stride", "se_width", "fused", "activation")
        return {"kind": kind if self.kind == "block" else self.kind} | {name: getattr(self, name) for name in names}


def network_steps(config: AnyNetConfig, batch: int, resolution: int = 224) -> list[StepShape]:
    """The steps of a network in order. The stem of a ResNet, which our kernels leave to PyTorch, is not among them.

    Raises ValueError for V and VR blocks, for which there is no kernel.
    """
    if config.block_type not in ("X", "R"):
        raise ValueError(f"{config.block_type} blocks have no fused kernel: benchmark networks of X, Y or R blocks")
    side = (resolution - 1) // 2 + 1
    steps = []
    if config.stem_type == "simple":
        steps.append(StepShape("stem", batch, resolution, config.in_chans, config.stem_width, stride=2, activation=config.activation))
    else:
        side = (side - 1) // 2 + 1
    for spec in config.blocks():
        steps.append(StepShape(
            "block", batch, side, spec.w_in, spec.w_out, spec.w_inner, spec.group_width, spec.stride, spec.se_width, spec.has_proj,
            config.activation,
        ))  # fmt: skip
        side = steps[-1].side_out
    if config.num_classes:
        steps.append(StepShape("head", batch, side, config.widths[-1], config.num_classes, activation="none"))
    return steps


@dataclass(frozen=True)
class Use:
    """How the models use a shape. share: of the floor time of all models and batches (each counts alike), 0..1; models: their names."""

    share: float
    models: tuple[str, ...]


def distinct_steps(
    models: Iterable[str], batches: Iterable[int], resolution: int, floor_ms: Callable[[OpShape | StepShape], float], per_op: bool
) -> tuple[dict[StepShape, dict[str, OpShape]], dict[OpShape | StepShape, Use]]:
    """The work of a suite, the steps that are most of the models' floor time first, and how much each shape is used.

    per_op: shares are those of ops (each op belongs to the first step that has it, and a step without an op of its own is left
    out), else those of whole blocks, stem and head left out. floor_ms gives the floor of a shape.
    """
    networks = {(name, batch): network_steps(model_config(name), batch, resolution) for name in models for batch in batches}
    shares: Counter = Counter()
    users: dict[OpShape | StepShape, list[str]] = {}
    for (name, _), steps in networks.items():
        shapes = [op for step in steps for op in step.ops.values()] if per_op else [step for step in steps if step.kind == "block"]
        total = sum(map(floor_ms, shapes))
        for shape in shapes:
            shares[shape] += floor_ms(shape) / total / len(networks)
            users.setdefault(shape, []).append(name)
    uses = {shape: Use(shares[shape], tuple(dict.fromkeys(users[shape]))) for shape in shares}
    steps = {step: None for found in networks.values() for step in found if per_op or step.kind == "block"}

    def share(step: StepShape) -> float:
        return sum(shares[op] for op in step.ops.values()) if per_op else shares[step]

    work: dict[StepShape, dict[str, OpShape]] = {}
    taken: set[OpShape] = set()
    for step in sorted(steps, key=share, reverse=True):
        mine = {name: op for name, op in step.ops.items() if op not in taken} if per_op else step.ops
        if mine:
            work[step] = mine
            taken.update(mine.values())
    return work, uses

"""Name tables: where each format keeps the tensors of a RegNet.

Our own names ("regnet") are the common language: every other format is a one-to-one table to and from them. Sources:
pycls pycls/models/anynet.py, timm timm/models/regnet.py, torchvision models/regnet.py and models/resnet.py,
ClassyVision and VISSL (SEER).
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

STEM_CONV = "stem.conv.weight"
COUNTER = "num_batches_tracked"

# Leaves a layer must have, by the last part of the layer's name. BatchNorm's counter is apart: files from before torch
# 0.4.1 lack it.
LEAVES = {
    "conv": ("weight",),
    "bn": ("weight", "bias", "running_mean", "running_var"),
    "fc": ("weight", "bias"),
    "fc1": ("weight", "bias"),
    "fc2": ("weight", "bias"),
}

# Number fields of a block prefix: what to add to our 0-based stage (i) or block (j) to get the number that stands in
# the name.
_FIELDS = {"i0": 0, "i1": 1, "i2": 2, "j0": 0, "j1": 1}


@dataclass(frozen=True)
class Layout:
    """One format. `blocks` are the spellings of a block's prefix, `parts` and `outer` map our layer names to the
    format's; `aliases` are further spellings that are read, never written. A `read_only` layout can only be converted
    from."""

    name: str
    blocks: tuple[str, ...]
    parts: dict[str, str]
    outer: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    read_only: bool = False

    def spell(self, key: str) -> str | None:
        """Our key -> this format's key; None if the format has no such tensor."""
        layer, _, leaf = key.rpartition(".")
        block = _OURS.match(layer)
        if block is None:
            name = self.outer.get(layer)
            return None if name is None else f"{name}.{leaf}"
        name = self.parts.get(block["part"])
        if name is None:
            return None
        numbers = {f: int(block[f[0]]) + add for f, add in _FIELDS.items()}
        return f"{self.blocks[0].format(**numbers)}.{name}.{leaf}"

    def parse(self, key: str) -> str | None:
        """This format's key -> our key; None if the format has no such tensor."""
        layer, _, leaf = key.rpartition(".")
        ours = self._outer_by_name.get(layer)
        if ours is None:
            ours = self._parse_block(layer)
        if ours is None or leaf not in _leaves(ours):
            return None
        return f"{ours}.{leaf}"

    def is_block_key(self, key: str) -> bool:
        return self._parse_block(key.rpartition(".")[0]) is not None

    def _parse_block(self, layer: str) -> str | None:
        for pattern in self._patterns:
            found = pattern.fullmatch(layer)
            if found is None:
                continue
            numbers = {"i": set(), "j": set()}
            for name, text in found.groupdict().items():
                if name != "part":
                    numbers[name[0]].add(int(text) - _FIELDS[name[:2]])
            part = self._part_by_name.get(found["part"])
            if part is None or len(numbers["i"]) != 1 or min(numbers["i"] | numbers["j"]) < 0:
                continue
            return f"stages.{numbers['i'].pop()}.blocks.{numbers['j'].pop()}.{part}"
        return None

    @cached_property
    def _patterns(self) -> tuple[re.Pattern, ...]:
        return tuple(_pattern(block) for block in self.blocks)

    @cached_property
    def _part_by_name(self) -> dict[str, str]:
        return {name: part for part, name in self.parts.items()} | {
            a: p for a, p in self.aliases.items() if p in self.parts
        }

    @cached_property
    def _outer_by_name(self) -> dict[str, str]:
        return {name: ours for ours, name in self.outer.items()} | {
            a: p for a, p in self.aliases.items() if p in self.outer
        }


_OURS = re.compile(r"stages\.(?P<i>0|[1-9]\d*)\.blocks\.(?P<j>0|[1-9]\d*)\.(?P<part>.+)")


def _pattern(block: str) -> re.Pattern:
    """A block template to a regular expression; a field that comes twice gets the groups i1 and i1_."""
    seen: list[str] = []
    out = ""
    for piece in re.split(r"(\{\w+\})", block):
        if piece.startswith("{"):
            name = piece[1:-1]
            group = name + "_" * seen.count(name)
            seen.append(name)
            out += rf"(?P<{group}>0|[1-9]\d*)"
        else:
            out += re.escape(piece)
    return re.compile(out + r"\.(?P<part>.+)")


def _leaves(layer: str) -> tuple[str, ...]:
    kind = layer.rpartition(".")[2]
    return LEAVES[kind] + ((COUNTER,) if kind == "bn" else ())


_LAYERS = [f"{abc}.{kind}" for abc in "abc" for kind in ("conv", "bn")] + ["se.fc1", "se.fc2", "proj.conv", "proj.bn"]
_NAMED_STEM = {"stem.conv": "stem.conv", "stem.bn": "stem.bn", "head.fc": "head.fc"}

REGNET = Layout("regnet", ("stages.{i0}.blocks.{j0}",), {layer: layer for layer in _LAYERS}, _NAMED_STEM)

PYCLS = Layout(
    "pycls",
    ("s{i1}.b{j1}",),
    {f"{abc}.conv": f"f.{abc}" for abc in "abc"}
    | {f"{abc}.bn": f"f.{abc}_bn" for abc in "abc"}
    | {"se.fc1": "f.se.f_ex.0", "se.fc2": "f.se.f_ex.2", "proj.conv": "proj", "proj.bn": "bn"},
    _NAMED_STEM,
)

TIMM = Layout(
    "timm",
    ("s{i1}.b{j1}",),
    {f"{abc}.{kind}": f"conv{n}.{kind}" for n, abc in enumerate("abc", 1) for kind in ("conv", "bn")}
    | {"se.fc1": "se.fc1", "se.fc2": "se.fc2", "proj.conv": "downsample.conv", "proj.bn": "downsample.bn"},
    _NAMED_STEM,
)

TORCHVISION = Layout(
    "torchvision",
    ("trunk_output.block{i1}.block{i1}-{j0}",),
    {f"{abc}.{kind}": f"f.{abc}.{n}" for abc in "abc" for n, kind in enumerate(("conv", "bn"))}
    | {"se.fc1": "f.se.fc1", "se.fc2": "f.se.fc2", "proj.conv": "proj.0", "proj.bn": "proj.1"},
    {"stem.conv": "stem.0", "stem.bn": "stem.1", "head.fc": "fc"},
)

# ResNet-50 and ResNeXt-50 of torchvision and of timm, which name them alike; pycls names them as it names RegNets.
RESNET = Layout(
    "resnet",
    ("layer{i1}.{j0}",),
    {f"{abc}.conv": f"conv{n}" for n, abc in enumerate("abc", 1)}
    | {f"{abc}.bn": f"bn{n}" for n, abc in enumerate("abc", 1)}
    | {"proj.conv": "downsample.0", "proj.bn": "downsample.1"},
    {"stem.conv": "conv1", "stem.bn": "bn1", "head.fc": "fc"},
)

# ClassyVision's trunk, and the same under VISSL's feature blocks (SEER): res2 holds stage 1. VISSL's linear classifier
# is heads.0.clf.0.
CLASSY = Layout(
    "classy",
    ("trunk_output.block{i1}.block{i1}-{j0}", "_feature_blocks.res{i2}.block{i1}-{j0}"),
    {f"{abc}.{kind}": f"f.{abc}.{n}" for abc in "ab" for n, kind in enumerate(("conv", "bn"))}
    | {"c.conv": "f.c", "c.bn": "f.final_bn", "proj.conv": "proj", "proj.bn": "bn"}
    | {"se.fc1": "f.se.excitation.0", "se.fc2": "f.se.excitation.2"},
    {"stem.conv": "stem.stem.0", "stem.bn": "stem.stem.1", "head.fc": "head.fc"},
    aliases={
        "_feature_blocks.conv1.stem.0": "stem.conv",
        "_feature_blocks.conv1.stem.1": "stem.bn",
        "stem.0": "stem.conv",
        "stem.1": "stem.bn",
        "heads.0.clf.0": "head.fc",
        "fc": "head.fc",
        "f.c.0": "c.conv",
        "f.c.1": "c.bn",
        "proj.0": "proj.conv",
        "proj.1": "proj.bn",
    },
    read_only=True,
)

# The order decides ties: classy reads every torchvision X name too, so it comes last.
LAYOUTS = {layout.name: layout for layout in (PYCLS, TIMM, TORCHVISION, REGNET, RESNET, CLASSY)}
WRITABLE = tuple(name for name, layout in LAYOUTS.items() if not layout.read_only)

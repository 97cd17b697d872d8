"""Swapping in part: runs of blocks inside containers that call their children in order, in a model of any kind.

Found on the original (nothing is changed until all is known), then put into the copy, or into the original itself. A run
b2, b3, b4 becomes one FusedBlocks at b2 and nn.Identity at b3 and b4, so that the names of the rest stay.
"""

from dataclasses import dataclass

import torch
from regnet_kernels import ConvStep
from torch import nn

from regnet.models.anynet import AnyNet, Stage
from regnet.swap.blocks import Match, looks_like_block, read_block, read_stem
from regnet.swap.fold import loaded
from regnet.swap.fused import FusedBlocks
from regnet.swap.networks import Plan, extractors, is_network, read_network
from regnet.swap.pixels import Pixels
from regnet.swap.refusal import Refused, ordered_children, patched_method
from regnet.swap.report import Kept


@dataclass
class Run:
    """Consecutive children of a container that become one FusedBlocks."""

    container: str
    children: list[str]
    matches: list[Match]

    @property
    def names(self) -> list[str]:
        return [join(self.container, child) for child in self.children]

    @property
    def starts_with_stem(self) -> bool:
        return isinstance(self.matches[0].step, ConvStep)


@dataclass
class Whole:
    """A whole RegNet inside a Sequential, which becomes one FusedRegNet."""

    name: str
    model: nn.Module
    plan: Plan


class Search:
    """Walks over a model and collects `runs`, `wholes` and `kept`."""

    def __init__(self, model: nn.Module):
        self.runs: list[Run] = []
        self.wholes: list[Whole] = []
        self.kept: list[Kept] = []
        self._seen: set[int] = set()
        self._visit(model, "")

    def _visit(self, module: nn.Module, path: str) -> None:
        if id(module) in self._seen or isinstance(module, FusedBlocks):
            return
        self._seen.add(id(module))
        if looks_like_block(module):
            self._keep_block(module, path)
        elif type(module) is Stage:
            self._visit_container(module.blocks, join(path, "blocks"), patched_method(module), stage=True)
        elif runs_in_order(module):
            self._visit_container(module, path, stage=is_stage(module))
        else:
            found = len(self.runs)
            stem = _stem_name(module)
            for name, child in module.named_children():
                if name != stem:
                    self._visit(child, join(path, name))
            if stem and len(self.runs) > found:  # a stem alone is not worth an op
                self._add_stem(module, path, stem, found)

    def _visit_container(self, container: nn.Module, path: str, patched: str | None = None, stage: bool = False) -> None:
        patched = patched or patched_method(container)
        broken = f"the `{patched}` of {path or 'the model'} is replaced" if patched else ""
        try:
            children = ordered_children(container)
        except Refused as refused:
            children, broken = list(container.named_children()), refused.reason
        run: list[tuple[str, Match]] = []
        for name, child in [*children, ("", None)]:
            match = None if child is None or broken else self._try_block(child, join(path, name), stage)
            if run and (match is None or _key(match) != _key(run[0][1])):
                self.runs.append(Run(path, [name for name, _ in run], [match for _, match in run]))
                run = []
            if match is not None:
                run.append((name, match))
            elif child is not None and broken and looks_like_block(child):
                self.kept.append(Kept(join(path, name), broken))
            elif child is not None and not self._try_whole(child, join(path, name), container):
                self._visit(child, join(path, name))

    def _try_block(self, child: nn.Module, path: str, stage: bool) -> Match | None:
        """The match of a child; in a stage, one that is no block is reported and left alone."""
        try:
            match = read_block(child)
        except Refused as refused:
            if looks_like_block(child) or stage:
                self.kept.append(Kept(path, refused.reason))
                self._seen.add(id(child))
            return None
        self._seen.add(id(child))
        return match

    def _try_whole(self, child: nn.Module, path: str, container: nn.Module) -> bool:
        if type(container) is not nn.Sequential or patched_method(container) or not is_network(child):
            return False  # another parent may reach into the network, whose parts must then stay in their places
        try:
            plan = read_network(child)
        except Refused:
            return False
        self.wholes.append(Whole(path, child, plan))
        return True

    def _keep_block(self, block: nn.Module, path: str) -> None:
        try:
            read_block(block)
            reason = "it stands alone: only blocks inside a container that runs its children in order are swapped"
        except Refused as refused:
            reason = refused.reason
        self.kept.append(Kept(path, reason))

    def _add_stem(self, parent: nn.Module, path: str, name: str, at: int) -> None:
        try:
            self.runs.insert(at, Run(path, [name], [read_stem(getattr(parent, name))]))
        except Refused as refused:
            self.kept.append(Kept(join(path, name), refused.reason))


def runs_in_order(module: nn.Module) -> bool:
    """A container whose forward is: each child on the output of the one before."""
    return is_stage(module) or (isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward)


def is_stage(module: nn.Module) -> bool:
    """A container that a RegNet keeps its blocks in."""
    return type(module) in loaded("timm.models.regnet", "RegStage") + loaded("torchvision.models.regnet", "AnyStage")


def apply_run(model: nn.Module, run: Run, dtype: torch.dtype, backend: str | None, exact: bool, pixels: Pixels | None) -> None:
    """Put the FusedBlocks of a run into `model`."""
    container = model.get_submodule(run.container)
    steps = [match.step for match in run.matches]
    fused = FusedBlocks(
        steps, run.names, dtype, backend,
        exact=exact, outer_dtype=run.matches[0].dtype, pixels=pixels if run.starts_with_stem else None,
    )  # fmt: skip
    for child in run.children:
        container.add_module(child, nn.Identity().eval())
    container.add_module(run.children[0], fused)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _key(match: Match) -> tuple:
    return match.dtype, match.device


def _stem_name(module: nn.Module) -> str | None:
    """The child of a known network that is called as its stem."""
    networks = (AnyNet, *loaded("timm.models.regnet", "RegNet"), *loaded("torchvision.models.regnet", "RegNet"))
    known = type(module) in networks + extractors() and patched_method(module) is None
    return "stem" if known and hasattr(module, "stem") else None

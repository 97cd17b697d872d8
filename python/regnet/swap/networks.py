"""Reading a whole RegNet of regnet, timm or torchvision: stem, blocks, head, and what its forward returns.

Networks that are known to run their children in order (a classifier, a feature extractor) give a `Plan`. Anything
unexpected raises Refused, and `optimize` goes on to swap the stretches of blocks that it can.
"""

from dataclasses import dataclass, field

from regnet_kernels.steps import HeadStep, Scaled
from torch import nn

from regnet.models.anynet import AnyNet, Head, Stage
from regnet.models.features import FeatureNet
from regnet.swap.blocks import Match, expect_global_pool, read_block, read_stem
from regnet.swap.fold import expect_inert, loaded
from regnet.swap.refusal import Refused, expect, expect_type, expect_untouched, kind, ordered_children


@dataclass
class Plan:
    """What a FusedRegNet is built from."""

    steps: list = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # one a step: the module it came from
    matches: list[Match] = field(default_factory=list)
    output: str = "tensor"  # what forward returns: "tensor", "list" or "dict"
    taps: list[tuple[str, int]] = field(default_factory=list)  # (name, number of steps after which) of each feature map
    tail: nn.Module | None = None  # runs in PyTorch after the steps
    tail_name: str = ""
    tail_reason: str = ""

    def add(self, name: str, match: Match) -> None:
        self.steps.append(match.step)
        self.names.append(name)
        self.matches.append(match)

    def add_head(self, name: str, weight, bias, w_in: int) -> None:
        self.steps.append(HeadStep(weight, bias, w_in))
        self.names.append(name)

    def keep(self, name: str, tail: nn.Module, reason: str) -> None:
        self.tail, self.tail_name, self.tail_reason = tail, name, reason


def is_network(module: nn.Module) -> bool:
    """A classifier or a feature extractor whose forward is known to this file (subclasses included: see `read_network`)."""
    return isinstance(module, (AnyNet, FeatureNet, *_timm_net(), *_torchvision_net())) or (
        isinstance(module, extractors()) and _holds_regnet(module)
    )


def read_network(model: nn.Module) -> Plan:
    """The plan of `model`, or Refused."""
    readers = {AnyNet: _read_anynet, FeatureNet: _read_feature_net}
    readers |= dict.fromkeys(_timm_net(), _read_timm) | dict.fromkeys(_torchvision_net(), _read_torchvision)
    readers |= dict.fromkeys(extractors(), _read_extractor)
    if type(model) not in readers:
        raise Refused(f"{kind(model)} is not itself a RegNet of regnet, timm or torchvision")
    expect_untouched(model, deep=False)
    plan = Plan()
    readers[type(model)](model, plan)
    devices = {str(match.device) for match in plan.matches}
    expect(len(devices) == 1, f"it is spread over {', '.join(sorted(devices))}")
    dtypes = {match.dtype for match in plan.matches}
    expect(len(dtypes) == 1, f"its convolutions are of {', '.join(sorted(map(str, dtypes)))}")
    return plan


def read_head(pool: nn.Module, drop: nn.Module | None, fc: nn.Module, name: str) -> tuple | None:
    """(weight, bias) of a pool-and-Linear head, or (None, None) without a classifier; Refused for others."""
    expect_global_pool(pool, f"{name}.pool")
    expect_inert(drop, f"{name}.drop")
    if type(fc) is nn.Identity:
        return None, None
    expect_type(fc, (nn.Linear,), f"{name}.fc")
    return Scaled(fc.weight.detach()), fc.weight.new_zeros(fc.out_features) if fc.bias is None else fc.bias.detach().double()


def _timm_net() -> tuple[type, ...]:
    return loaded("timm.models.regnet", "RegNet")


def _torchvision_net() -> tuple[type, ...]:
    return loaded("torchvision.models.regnet", "RegNet")


def _stages() -> tuple[type, ...]:
    return loaded("timm.models.regnet", "RegStage") + loaded("torchvision.models.regnet", "AnyStage")


def extractors() -> tuple[type, ...]:
    """Containers that run their children in order and return some of the outputs."""
    return loaded("timm.models._features", "FeatureListNet", "FeatureDictNet") + loaded(
        "torchvision.models._utils", "IntermediateLayerGetter"
    )


def _holds_regnet(module: nn.Module) -> bool:
    return any(isinstance(inner, (Stage, *_stages())) for inner in module.modules())


def _add_stage(plan: Plan, name: str, stage: nn.Module) -> None:
    expect_type(stage, (Stage, *_stages()), name)
    if type(stage) is Stage:
        expect_untouched(stage, name, deep=False)
        name, stage = f"{name}.blocks", stage.blocks
        expect_type(stage, (nn.Sequential,), name)
    expect_untouched(stage, name, deep=False)
    for child, block in ordered_children(stage):
        _add(plan, f"{name}.{child}", read_block, block)


def _add(plan: Plan, name: str, reader, module: nn.Module) -> None:
    try:
        plan.add(name, reader(module))
    except Refused as refused:
        raise Refused(f"{name} is not swapped: {refused.reason}") from None


def _read_anynet(model: AnyNet, plan: Plan) -> None:
    _add(plan, "stem", read_stem, model.stem)
    for index, stage in enumerate(model.stages):
        _add_stage(plan, f"stages.{index}", stage)
    head, width = model.head, plan.matches[-1].step.c[0].shape[0]
    try:
        expect_type(head, (Head,), "head")
        expect_untouched(head, "head")
        plan.add_head("head", *read_head(head.pool, None, head.fc, "head"), width)
    except Refused as refused:
        plan.keep("head", head, refused.reason)


def _read_feature_net(model: FeatureNet, plan: Plan) -> None:
    _add(plan, "stem", read_stem, model.stem)
    ends = [1]
    for index, stage in enumerate(model.stages):
        _add_stage(plan, f"stages.{index}", stage)
        ends.append(len(plan.steps))
    plan.output = "list"
    plan.taps = [(str(level), ends[level]) for level in model.out_indices]


def _read_timm(model: nn.Module, plan: Plan) -> None:
    _add(plan, "stem", read_stem, model.stem)
    for name in ("s1", "s2", "s3", "s4"):
        _add_stage(plan, name, getattr(model, name))
    expect_type(model.final_conv, (nn.Identity,), "final_conv")
    expect_untouched(model.final_conv, "final_conv")
    head, width = model.head, plan.matches[-1].step.c[0].shape[0]
    try:
        expect_type(head, loaded("timm.layers.classifier", "ClassifierHead"), "head")
        expect_untouched(head, "head")
        pool = head.global_pool
        expect_type(pool, loaded("timm.layers.adaptive_avgmax_pool", "SelectAdaptivePool2d"), "head.global_pool")
        if pool.pool_type == "" and type(pool.flatten) is type(head.fc) is nn.Identity:
            expect_inert(head.drop, "head.drop")
            return  # the head of num_classes=0, global_pool="" does nothing
        expect(pool.pool_type == "avg", f"head.global_pool is {pool.pool_type!r}, expected 'avg'")
        expect(type(pool.flatten) is nn.Flatten, "head.global_pool does not flatten")
        expect_type(head.flatten, (nn.Identity,), "head.flatten")
        plan.add_head("head", *read_head(pool.pool, head.drop, head.fc, "head"), width)
    except Refused as refused:
        plan.keep("head", head, refused.reason)


def _read_torchvision(model: nn.Module, plan: Plan) -> None:
    _add(plan, "stem", read_stem, model.stem)
    _read_trunk(model.trunk_output, plan)
    width = plan.matches[-1].step.c[0].shape[0]
    expect_untouched(model.avgpool, "avgpool")
    expect_global_pool(model.avgpool, "avgpool")
    try:
        expect_untouched(model.fc, "fc")
        plan.add_head("fc", *read_head(model.avgpool, None, model.fc, "the head"), width)
    except Refused as refused:
        plan.add_head("avgpool", None, None, width)
        plan.keep("fc", model.fc, refused.reason)


def _read_trunk(trunk: nn.Module, plan: Plan) -> None:
    expect_type(trunk, (nn.Sequential,), "trunk_output")
    expect_untouched(trunk, "trunk_output", deep=False)
    for name, stage in ordered_children(trunk):
        _add_stage(plan, f"trunk_output.{name}", stage)


def _read_extractor(model: nn.Module, plan: Plan) -> None:
    """timm's features_only and torchvision's IntermediateLayerGetter."""
    for name, child in ordered_children(model):
        if name == "stem":
            _add(plan, name, read_stem, child)
        elif name == "trunk_output":
            _read_trunk(child, plan)
        else:
            _add_stage(plan, name, child)
        if name in model.return_layers:
            plan.taps.append((model.return_layers[name], len(plan.steps)))
    expect(bool(plan.taps), "it returns no feature map")
    as_list = type(model) in loaded("timm.models._features", "FeatureListNet")
    plan.output = "list" if as_list else "dict"

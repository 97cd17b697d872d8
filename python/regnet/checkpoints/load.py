"""A checkpoint of any format into a model of any format, wholly or not at all."""

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from regnet.checkpoints.convert import detect_layout, flips_stem, parse_keys, reverse_channels, shape
from regnet.checkpoints.errors import CheckpointError
from regnet.checkpoints.layouts import COUNTER, STEM_CONV, Layout
from regnet.checkpoints.read import read_checkpoint, strip_prefixes


def load_checkpoint(path_or_dict, model: nn.Module, *, ema: bool = False, bgr: bool | None = None) -> nn.Module:
    """Fill `model` from a checkpoint and return it. Strict: every tensor of the checkpoint finds its place, every
    tensor of the model is filled, all shapes agree; else CheckpointError, and the model is untouched.

    path_or_dict: a file, read by `torch.load(weights_only=True)`, or a mapping; pycls, timm, torchvision, regnet or
    classy (SEER) names (also torchvision's and timm's ResNe(X)t names), with wrappers and prefixes as in
    `read_checkpoint`.
    model: a RegNet of regnet, timm or torchvision, or a ResNe(X)t; wrapped by DistributedDataParallel or torch.compile
    too. A model whose keys are the checkpoint's own (timm's Z and V, a patched block) needs no conversion and loads as
    it is.
    ema: take the averaged copy. bgr: reverse the stem's input channels; None does so when exactly one side is pycls.

    Two things, and no others, may differ:
    - a model without a classifier (num_classes=0, features_only) ignores the checkpoint's; its other tensors must all
      agree.
    - BatchNorm's num_batches_tracked: if the checkpoint has none at all (saved before torch 0.4.1) the model keeps its
      own counts and a warning says so; a model without counts (FrozenBatchNorm) ignores them.
    Values are cast to the model's dtype and device. The first offending key is named in the error, with both shapes.
    """
    tensors = read_checkpoint(path_or_dict, ema=ema)
    target = _target(model)
    if set(tensors) == set(target) and not bgr:
        sources, unknown = {key: key for key in tensors}, []
    else:
        origin, goal = detect_layout(tensors), _model_layout(target)
        tensors = _with_stem(tensors, origin, goal, bgr)
        sources, unknown = _match_names(tensors, origin, goal)
    sources, unknown = _allow_differences(sources, unknown, tensors, target)
    _check(sources, unknown, tensors, target)
    names = strip_prefixes(model.state_dict())
    filled = {key: tensors[sources[name]] if name in sources else target[name] for key, name in names.items()}
    model.load_state_dict(filled, strict=True)
    return model


def _target(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"the model's state dict entry {key!r} is a {type(tensor).__name__}, not a tensor: "
                "such a model cannot be filled"
            )
        if tensor.is_meta:
            raise CheckpointError(
                f"the model's {key!r} is on the meta device; give it memory first: model.to_empty(device='cpu')"
            )
    names = strip_prefixes(state)
    return {names[key]: tensor for key, tensor in state.items()}


def _model_layout(target: Mapping[str, torch.Tensor]) -> Layout:
    try:
        return detect_layout(target)
    except CheckpointError as error:
        raise CheckpointError(
            f"the model is not a RegNet of regnet, timm or torchvision ({error}); "
            "load the weights before optimize() or other rewriting"
        ) from error
    except IndexError as error:
        raise CheckpointError("the model has no tensors to fill") from error


def _with_stem(
    tensors: dict[str, torch.Tensor], origin: Layout, goal: Layout, bgr: bool | None
) -> dict[str, torch.Tensor]:
    if not flips_stem(origin, goal, bgr):
        return tensors
    key = next((key for key in tensors if origin.parse(key) == STEM_CONV), None)
    return tensors if key is None else tensors | {key: reverse_channels(tensors[key], key)}


def _match_names(tensors, origin: Layout, goal: Layout) -> tuple[dict[str, str], list[str]]:
    """-> ({the model's key: the checkpoint's}, checkpoint keys without a name in the model's format)."""
    if origin is goal:
        return {key: key for key in tensors}, []
    ours, unknown = parse_keys(tensors, origin)
    unknown += [key for name, key in ours.items() if goal.spell(name) is None]
    return {goal.spell(name): key for name, key in ours.items() if goal.spell(name) is not None}, unknown


def _allow_differences(sources, unknown, tensors, target) -> tuple[dict[str, str], list[str]]:
    """Take out what the docstring of `load_checkpoint` allows; the rest stays for `_check`."""
    if not any(_is_head(key) for key in target):
        sources = {key: old for key, old in sources.items() if not _is_head(key)}
    if not any(key.endswith(COUNTER) for key in target):
        sources = {key: old for key, old in sources.items() if not key.endswith(COUNTER)}
    elif not any(key.endswith(COUNTER) for key in tensors):
        warnings.warn(f"the checkpoint has no {COUNTER}; the model keeps its own counts", stacklevel=3)
    unknown = unknown + [old for key, old in sources.items() if key not in target]
    return sources, [key for key in tensors if key in set(unknown)]


def _is_head(key: str) -> bool:
    return key in ("head.fc.weight", "head.fc.bias", "fc.weight", "fc.bias")


def _check(sources: dict[str, str], unknown: list[str], tensors, target) -> None:
    counters_absent = not any(key.endswith(COUNTER) for key in tensors)
    missing = [key for key in target if key not in sources and not (counters_absent and key.endswith(COUNTER))]
    if unknown:
        key = unknown[0]
        partner = f"; the model's {missing[0]!r} of shape {shape(target[missing[0]])} is not filled" if missing else ""
        raise CheckpointError(
            f"the checkpoint's {key!r} of shape {shape(tensors[key])} has no place in the model"
            f"{partner}{_more(unknown)}"
        )
    if missing:
        key = missing[0]
        raise CheckpointError(
            f"the checkpoint has no tensor for the model's {key!r} of shape {shape(target[key])}; "
            f"it is truncated, or of another model{_more(missing)}"
        )
    wrong = [key for key in target if key in sources and target[key].shape != tensors[sources[key]].shape]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"the checkpoint's {sources[key]!r} has shape {shape(tensors[sources[key]])}, "
            f"the model's {key!r} has {shape(target[key])}: another model or number of classes{_more(wrong)}"
        )
    for key, old in sources.items():
        if target[key].is_floating_point() != tensors[old].is_floating_point() or tensors[old].is_complex():
            raise CheckpointError(
                f"the checkpoint's {old!r} is {tensors[old].dtype}, the model's {key!r} is {target[key].dtype}"
            )


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more such keys)" if len(keys) > 1 else ""

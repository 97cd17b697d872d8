"""regnet.optimize: a RegNet in, the same network on fused kernels out."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from regnet.swap.blocks import looks_like_block, read_block
from regnet.swap.fused import DTYPES, FusedBlocks, FusedRegNet
from regnet.swap.networks import Plan, is_network, read_network
from regnet.swap.pixels import Pixels, read_pixels
from regnet.swap.refusal import Refused, SwapError, kind
from regnet.swap.report import Kept, OptimizeReport
from regnet.swap.stretches import Search, apply_run, join

# What other code reads from a model, taken over from the source by a FusedRegNet.
_ATTRIBUTES = (
    "config", "num_classes", "num_features", "head_hidden_size", "in_chans", "feature_info", "out_indices", "return_layers",
    "pretrained_cfg", "default_cfg", "output_fmt",
)  # fmt: skip


def optimize(
    model: nn.Module, *, dtype: torch.dtype | None = None, backend: str | None = None, exact: bool = False, inplace: bool = False,
    mean: Sequence[float] | Tensor | None = None, std: Sequence[float] | Tensor | None = None,
) -> nn.Module:  # fmt: skip
    """The same network on fused kernels, for inference.

    model: a RegNet X or Y of regnet, timm (also features_only) or torchvision in eval mode, or any model that holds one
        (a detector with a RegNet backbone), on any device.
    dtype: what the swapped parts compute in: torch.float32, torch.float16 (on the CPU computed as float32) or torch.bfloat16;
        None takes the model's.
    backend: forces a backend of regnet_kernels ("triton", "cpu", "eager"); None lets the dispatch pick. A forced backend that
        cannot run raises.
    exact: compute every convolution directly. Otherwise the grouped 3x3 convolutions may go by Winograd: those of stride 1 in float32 by
        F(4x4, 3x3), about twice as fast, each with two to three times the rounding error of a direct one, in bfloat16 by F(2x2, 3x3),
        1.2 to 1.9 times as fast with about 1.4 times the error; wide groups of stride 2 in float32 by F(2, 2) on even and odd pixels,
        1.1 to 1.4 times as fast (regnet_kernels.winograd); and 1x1 convolutions in float32 by pairs, on AMD's CPUs with AVX-512, 1.1 to 1.3
        times as fast with about 1.5 times the error (regnet_kernels.pairs).
    inplace: change `model` itself, and return it, instead of leaving it untouched.
    mean, std: one number a channel, in units of pixel / 255 as torchvision writes them: (0.485, 0.456, 0.406), (0.229, 0.224, 0.225).
        With them the result also takes uint8 images (N, C, H, W) of any strides and gives what `model((x / 255 - mean) / std)` gives;
        floating images are taken as already normalised, as they are without. State dicts leave both out. On a GPU the stem's
        kernel normalises while it reads the image; on the CPU torch does it before the kernels.

    A whole RegNet becomes a FusedRegNet, which runs as one op: it casts its input to `dtype` and answers in `dtype`. With
    inplace=True the object turns into that FusedRegNet: its class and its contents are replaced, so every reference to it
    runs fused, and its former submodules are gone from it. Each weight is freed as soon as it is packed, so that the peak of
    memory is about one copy of them; an interruption (Ctrl-C, no memory) while it packs leaves the model empty.

    Anything else is deep-copied (or, with inplace=True, changed), and each run of consecutive blocks inside a Sequential
    or a stage becomes one FusedBlocks (at the first block's name; the others become nn.Identity), which answers in the dtype
    of its input. A block that is subclassed, hooked, patched or not a RegNet bottleneck stays as it is. BatchNorms are folded
    in float64. The containers are taken to be called as a whole: code that indexes into them finds the fused run.

    Returns a module in eval mode with `.report` (OptimizeReport: what was swapped, what was kept and why).
    Raises SwapError (a ValueError) for a model in training mode, one with nothing to swap, an unknown dtype or backend, a mean
    and std that do not fit the images, or that come with a model whose stem is not swapped (then nothing would normalise);
    TypeError for what is no nn.Module.
    """
    _check(model, dtype)
    pixels = read_pixels(mean, std)
    report = OptimizeReport(model=kind(model), dtype="", backend=backend or "auto")
    fused, reason = None, ""
    try:
        fused = _whole(model, dtype, backend, exact, report, inplace, pixels)
    except Refused as refused:
        reason = refused.reason
    if fused is None:
        fused = _in_part(model, dtype, backend, exact, report, inplace, pixels, reason)
    elif inplace:
        fused = _become(model, fused)
    for module in fused.modules():
        if isinstance(module, FusedBlocks):
            module.warm_up()
    return fused


def _check(model: nn.Module, dtype: torch.dtype | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize takes an nn.Module, got {type(model).__name__}")
    if isinstance(model, FusedBlocks):
        raise SwapError(f"the model is a {type(model).__name__} already; to change its dtype use .to(dtype)")
    if isinstance(model, torch.jit.ScriptModule):
        raise SwapError("the model is a TorchScript module; pass the nn.Module that it was made from")
    if hasattr(model, "_orig_mod"):
        raise SwapError("the model is compiled; pass the module itself (model._orig_mod) and torch.compile the result")
    if model.training:
        raise SwapError("the model is in training mode and optimize folds the BatchNorms of inference; call model.eval() first")
    if dtype is not None and dtype not in DTYPES:
        raise SwapError(f"dtype is {dtype}; expected torch.float32, torch.float16, torch.bfloat16 or None (the model's own)")


def _pick_dtype(own: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    if asked is None and own not in DTYPES:
        raise SwapError(f"the model is {own}, which no kernel computes in; pass dtype=torch.float32")
    return asked or own


def _whole(model: nn.Module, dtype, backend, exact: bool, report: OptimizeReport, inplace: bool, pixels: Pixels | None) -> FusedBlocks:
    """A FusedRegNet of the whole model (or FusedBlocks of a single block), or Refused."""
    if looks_like_block(model):
        match = read_block(model)
        if pixels is not None:
            raise SwapError(f"mean and std are given, but {kind(model)} is a block, which takes feature maps and no images")
        fused = FusedBlocks([match.step], [""], _pick_dtype(match.dtype, dtype), backend, exact=exact)
        report.swapped, report.ops = [""], 1
    else:
        plan = read_network(model)
        # A forced backend may refuse when all is packed, so with one the model keeps its weights until then.
        release = model.__dict__.clear if inplace and backend is None else None
        fused = build_network(model, plan, _pick_dtype(plan.matches[0].dtype, dtype), backend, exact, inplace, pixels, release)
        report.swapped, report.ops = list(plan.names), max(1, len(plan.taps))
        if plan.tail is not None:
            report.kept.append(Kept(plan.tail_name, plan.tail_reason))
    report.whole, report.dtype = True, _dtype_name(fused.dtype)
    fused.report = report
    return fused


def build_network(
    model: nn.Module, plan: Plan, dtype: torch.dtype, backend: str | None, exact: bool, inplace: bool, pixels: Pixels | None,
    release: Callable[[], None] | None = None,
) -> FusedRegNet:  # fmt: skip
    """The FusedRegNet of a plan. `release`: see `layout.pack`."""
    kept = {name: copy.deepcopy(getattr(model, name)) for name in _ATTRIBUTES if hasattr(model, name)}
    tail = plan.tail if inplace or plan.tail is None else copy.deepcopy(plan.tail)
    fused = FusedRegNet(
        plan.steps, plan.names, dtype, backend,
        exact=exact, output=plan.output, taps=plan.taps, trunk_steps=len(plan.matches), tail=tail, pixels=pixels, release=release,
    )
    for name, value in kept.items():
        setattr(fused, name, value)
    return fused


def _become(model: nn.Module, fused: FusedBlocks) -> nn.Module:
    """Turn the object `model` into `fused`."""
    model.__class__ = type(fused)
    model.__dict__.clear()
    model.__dict__.update(fused.__dict__)
    return model


def _in_part(
    model: nn.Module, dtype, backend, exact: bool, report: OptimizeReport, inplace: bool, pixels: Pixels | None, reason: str
) -> nn.Module:
    found = Search(model)
    if is_network(model):
        report.kept.append(Kept("", f"not fused as a whole: {reason}"))
    report.kept += found.kept
    if not found.runs and not found.wholes:
        raise SwapError(_nothing(model, found.kept, reason))
    if pixels is not None:
        _expect_stems(model, found, pixels)
    first = found.runs[0].matches[0] if found.runs else found.wholes[0].plan.matches[0]
    report.dtype = _dtype_name(_pick_dtype(first.dtype, dtype))
    result = model if inplace else copy.deepcopy(model)
    for run in found.runs:
        apply_run(result, run, _pick_dtype(run.matches[0].dtype, dtype), backend, exact, pixels)
        report.swapped += run.names
        report.ops += 1
    for whole in found.wholes:
        own = whole.plan.matches[0].dtype
        fused = build_network(whole.model, whole.plan, _pick_dtype(own, dtype), backend, exact, inplace, pixels)
        fused.outer_dtype = own
        fused.step_names = [join(whole.name, name) for name in fused.step_names]
        parent, _, child = whole.name.rpartition(".")
        result.get_submodule(parent).add_module(child, fused)
        report.swapped += fused.step_names
        report.ops += max(1, len(whole.plan.taps))
        if whole.plan.tail is not None:
            report.kept.append(Kept(join(whole.name, whole.plan.tail_name), whole.plan.tail_reason))
    result.report = report
    return result


def _expect_stems(model: nn.Module, found: Search, pixels: Pixels) -> None:
    """Raise unless a stem is swapped, which normalises; before anything is changed, also for one whose channels do not fit."""
    stems = [run.matches[0].step for run in found.runs if run.starts_with_stem] + [whole.plan.steps[0] for whole in found.wholes]
    for stem in stems:
        pixels.expect_channels(stem.weight.shape[1] * stem.groups)
    if not stems:
        why = next((f" ({kept})" for kept in found.kept if kept.name.rpartition(".")[2] == "stem"), "")
        raise SwapError(f"mean and std are given, but no stem of {kind(model)} is swapped{why}; leave them out and normalise the images")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _nothing(model: nn.Module, kept: list[Kept], reason: str) -> str:
    if not kept:
        why = reason if is_network(model) else "it holds no block of a RegNet of regnet, timm or torchvision"
        return f"nothing to swap in {kind(model)}: {why}"
    shown = "; ".join(str(one) for one in kept[:3])
    more = f"; and {len(kept) - 3} more" if len(kept) > 3 else ""
    return f"nothing to swap in {kind(model)}: {shown}{more}"

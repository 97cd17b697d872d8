"""From one format's names to another's, tensor by tensor, exact to the bit."""

import difflib
from collections.abc import Iterable, Mapping

import torch

from regnet.checkpoints.errors import CheckpointError
from regnet.checkpoints.layouts import COUNTER, LAYOUTS, LEAVES, RESNET, STEM_CONV, WRITABLE, Layout
from regnet.checkpoints.read import read_checkpoint


def detect_format(state: Mapping) -> str:
    """State dict (wrapped or prefixed too) -> "pycls", "timm", "torchvision", "regnet", "resnet" (torchvision's and
    timm's ResNe(X)ts) or "classy" (ClassyVision, VISSL, SEER; read only): the format that explains most keys, so that
    one odd key does not hide it.
    Raises CheckpointError if no key is a block's of any format."""
    return detect_layout(read_checkpoint(state)).name


def convert_state_dict(
    state: Mapping, to: str, source: str | None = None, bgr: bool | None = None, *, ema: bool = False
) -> dict[str, torch.Tensor]:
    """The same tensors under another format's names, in the same order.

    state: a state dict, wrapped or prefixed as `read_checkpoint` takes them. to: "pycls", "timm", "torchvision",
    "regnet" (ours), or "resnet" for ResNe(X)ts. source: the format of `state`; None detects it.
    bgr: whether to reverse the stem's input channels. None does so exactly when one side is pycls, which is trained on
    BGR images.
    BatchNorm's num_batches_tracked is kept where present (on all layers or on none) and never invented.
    A head may be missing (num_classes=0, features_only); every other layer must be whole. Tensors are shared with
    `state`, but for a reversed stem.
    Raises CheckpointError on an unknown or missing key (naming the first), a block the target has no names for, a
    ResNet stem under RegNet names, a BGR stem whose input channels are neither 1 nor 3, an unknown format.
    """
    tensors = read_checkpoint(state, ema=ema)
    target = get_layout(to, writable=True)
    origin = detect_layout(tensors) if source is None else get_layout(source)
    ours, unknown = parse_keys(tensors, origin)
    if unknown:
        raise CheckpointError(_unknown_message(unknown, tensors, origin))
    _check_complete(ours, origin)
    names = {ours_key: target.spell(ours_key) for ours_key in ours}
    homeless = next((key for key, name in names.items() if name is None), None)
    if homeless is not None:
        raise CheckpointError(f"{to} has no tensor for {ours[homeless]!r} of shape {shape(tensors[ours[homeless]])}")
    _check_blocks_exist_in(ours, origin, target)
    out = {names[key]: tensors[old] for key, old in ours.items()}
    _check_stem(out[target.spell(STEM_CONV)], ours[STEM_CONV], target)
    if flips_stem(origin, target, bgr):
        out[target.spell(STEM_CONV)] = reverse_channels(out[target.spell(STEM_CONV)], ours[STEM_CONV])
    return out


def get_layout(name: str, writable: bool = False) -> Layout:
    known = WRITABLE if writable else tuple(LAYOUTS)
    if name not in known:
        raise CheckpointError(f"unknown checkpoint format {name!r}; expected one of {', '.join(known)}")
    return LAYOUTS[name]


def detect_layout(keys: Iterable[str]) -> Layout:
    """The layout that reads most of `keys`, among those that read at least one key of a block."""
    keys = list(keys)
    counts = {name: sum(layout.parse(key) is not None for key in keys) for name, layout in LAYOUTS.items()}
    candidates = [name for name, layout in LAYOUTS.items() if any(layout.is_block_key(key) for key in keys)]
    if not candidates:
        examples = ", ".join(
            f"{layout.name} {layout.spell('stages.0.blocks.0.a.conv.weight')}" for layout in LAYOUTS.values()
        )
        raise CheckpointError(
            f"not a RegNet in any known naming: the first key is {keys[0]!r}; expected a key such as {examples}"
        )
    return LAYOUTS[max(candidates, key=counts.__getitem__)]


def parse_keys(keys: Iterable[str], layout: Layout) -> tuple[dict[str, str], list[str]]:
    """Keys of one format -> ({our key: key}, keys the format does not know). Raises CheckpointError if two keys name
    one tensor."""
    ours: dict[str, str] = {}
    unknown = []
    for key in keys:
        name = layout.parse(key)
        if name is None:
            unknown.append(key)
        elif name in ours:
            raise CheckpointError(f"checkpoint keys {ours[name]!r} and {key!r} name the same tensor; keep one of them")
        else:
            ours[name] = key
    return ours, unknown


def flips_stem(source: Layout, target: Layout, bgr: bool | None) -> bool:
    return (source.name == "pycls") != (target.name == "pycls") if bgr is None else bool(bgr)


def reverse_channels(weight: torch.Tensor, key: str) -> torch.Tensor:
    """weight: (O, C, kh, kw), C = 3 (reversed copy) or 1 (as it is). BGR says nothing about other channel counts:
    CheckpointError."""
    if weight.ndim != 4 or weight.shape[1] not in (1, 3):
        raise CheckpointError(
            f"the stem {key!r} has shape {shape(weight)}; BGR to RGB needs (O, 3, k, k): "
            "pass bgr=False if its channels are in the right order already"
        )
    return weight.flip(1) if weight.shape[1] == 3 else weight


def shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _unknown_message(unknown: list[str], tensors: Mapping, layout: Layout) -> str:
    key = unknown[0]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    known = [layout.spell(name) for name in _layer_keys(tensors, layout)]
    near = difflib.get_close_matches(key, [name for name in known if name not in tensors], n=1, cutoff=0.6)
    hint = f"; did it mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r} of shape {shape(tensors[key])}{more} in a {layout.name} checkpoint{hint}"


def _layer_keys(keys: Iterable[str], layout: Layout) -> list[str]:
    """Our names of all tensors that the layers seen in `keys` should have, layer by layer."""
    layers: dict[str, None] = {"stem.conv": None, "stem.bn": None}
    for key in keys:
        name = layout.parse(key)
        if name is None:
            continue
        parent = name.rpartition(".")[0].rpartition(".")[0]
        pair = {"se": ("fc1", "fc2"), "head": ("fc",)}.get(parent.rpartition(".")[2], ("conv", "bn"))
        for kind in pair:
            layers[f"{parent}.{kind}"] = None
    return [f"{layer}.{leaf}" for layer in layers for leaf in LEAVES[layer.rpartition(".")[2]]]


def _check_complete(ours: Mapping[str, str], layout: Layout) -> None:
    """ours: {our key: key}. Every layer is whole, stages and blocks are numbered without a gap, blocks have a, b, c
    (ours: or a alone)."""
    wanted = _layer_keys(ours.values(), layout)
    blocks = _blocks(ours)
    n_stages = 1 + max((i for i, _ in blocks), default=0)
    for i in range(n_stages):
        n_blocks = 1 + max((j for s, j in blocks if s == i), default=0)
        for j in range(n_blocks):
            parts = blocks.get((i, j), set())
            needed = "abc" if parts & {"b", "c"} or layout.name != "regnet" else "a"
            wanted += [f"stages.{i}.blocks.{j}.{part}.conv.weight" for part in needed]
    missing = next((key for key in wanted if key not in ours), None)
    if missing is None:
        missing = _missing_counter(ours)
    if missing is not None:
        raise CheckpointError(
            f"missing key {layout.spell(missing)!r} in a {layout.name} checkpoint of {len(ours)} tensors: "
            "it is truncated or renamed"
        )


def _missing_counter(ours: Mapping[str, str]) -> str | None:
    """The first BatchNorm without its counter in a checkpoint where others have one."""
    norms = [key.removesuffix("running_var") + COUNTER for key in ours if key.endswith("running_var")]
    missing = [key for key in norms if key not in ours]
    return missing[0] if 0 < len(missing) < len(norms) else None


def _blocks(ours: Iterable[str]) -> dict[tuple[int, int], set[str]]:
    """Our keys -> {(stage, block): {"a", "b", "proj", ...}}, both 0-based."""
    blocks: dict[tuple[int, int], set[str]] = {}
    for key in ours:
        words = key.split(".")
        if words[0] == "stages":
            blocks.setdefault((int(words[1]), int(words[3])), set()).add(words[4])
    return blocks


def _check_blocks_exist_in(ours: Mapping[str, str], source: Layout, target: Layout) -> None:
    if target.name == "regnet":
        return
    for (i, j), parts in _blocks(ours).items():
        if "b" not in parts:
            key = source.spell(f"stages.{i}.blocks.{j}.a.conv.weight")
            raise CheckpointError(
                f"{key!r} belongs to a block of one 3x3 convolution (V or VR); {target.name} has no such block"
            )


def _check_stem(weight: torch.Tensor, key: str, target: Layout) -> None:
    """RegNets (3x3 stem) and ResNets (7x7) have different names in timm and torchvision; ours and pycls' cover both."""
    if weight.ndim != 4:
        raise CheckpointError(f"the stem {key!r} has shape {shape(weight)}; expected (O, C, k, k)")
    resnet = weight.shape[-1] == 7
    if target is RESNET and not resnet:
        raise CheckpointError(
            f"the stem {key!r} has shape {shape(weight)}: not a ResNet's 7x7; use to='timm' or to='torchvision'"
        )
    if target.name in ("timm", "torchvision") and resnet:
        raise CheckpointError(
            f"the stem {key!r} has shape {shape(weight)}: a ResNet's; "
            "use to='resnet', the names that timm and torchvision share"
        )

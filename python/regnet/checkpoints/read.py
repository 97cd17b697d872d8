"""From a file, a wrapper or a prefixed dict to a plain {name: tensor}."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from regnet.checkpoints.errors import CheckpointError

# Where trainers keep the weights: pycls, timm and Lightning, torchvision.
PLAIN_WRAPPERS = ("model_state", "state_dict", "model")
EMA_WRAPPERS = ("ema_state", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "model.", "_orig_mod.")  # DistributedDataParallel, Lightning, torch.compile


def read_checkpoint(source, *, ema: bool = False) -> dict[str, torch.Tensor]:
    """Path or mapping -> {name: tensor}, without wrappers and prefixes, in the checkpoint's own naming.

    source: a path (read by `torch.load(weights_only=True)` onto the CPU) or a mapping, both either a state dict or one
    wrapped under "model_state", "state_dict" or "model". The plain weights are taken; with ema=True the averaged copy
    ("ema_state", "state_dict_ema", "model_ema"). A file whose only weights are an averaged copy gives that copy.
    Prefixes "module.", "model.", "_orig_mod." that all keys share are removed, stacked ones too; "_orig_mod." also
    inside a name.
    Tensors are not copied.
    Raises CheckpointError (damaged file, objects other than tensors, no EMA copy, two keys that become one),
    FileNotFoundError.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _load_file(Path(source))
    elif not isinstance(source, Mapping):
        raise TypeError(f"a checkpoint is a path or a dict of tensors, got {type(source).__name__}")
    state = _tensors(_unwrap(source, ema))
    names = strip_prefixes(state)
    return {names[key]: tensor for key, tensor in state.items()}


def strip_prefixes(keys) -> dict[str, str]:
    """Keys -> {key: key without prefixes}, in order. Raises CheckpointError if two keys would become one."""
    names = {key: key for key in keys}
    while names:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names.values())), None)
        if prefix is None:
            break
        names = {key: name[len(prefix) :] for key, name in names.items()}
    # torch.compile of a submodule leaves its mark inside the name; no format uses that word.
    names = {key: name.replace("._orig_mod.", ".").removeprefix("_orig_mod.") for key, name in names.items()}
    first: dict[str, str] = {}
    for key, name in names.items():
        if name in first:
            raise CheckpointError(
                f"checkpoint keys {first[name]!r} and {key!r} name the same tensor {name!r}; keep one of them"
            )
        first[name] = key
    return names


def _load_file(path: Path):
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path}: safetensors files are not read here; pass safetensors.torch.load_file(path), which is a dict"
        )
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the checkpoint file inside it")
    _check_sums(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # unpickling damaged bytes can raise anything (Python's pickle documentation)
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes): {_why_unreadable(path, error)}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}; "
            "expected a dict of tensors, as torch.save(model.state_dict()) writes"
        )
    return loaded


def _check_sums(path: Path) -> None:
    """torch.load does not check the CRC-32 of the tensors it reads: a file with a hole would load as wrong weights."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # damaged headers: BadZipFile, UnicodeDecodeError, NotImplementedError, ...
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({error}); download or save it again"
        ) from error
    if bad is not None:
        raise CheckpointError(
            f"{path}: the file is damaged (record {bad!r} fails its CRC-32); download or save it again. "
            "Files saved under torch.serialization.set_crc32_options(False) have no sums: "
            "pass torch.load(path, weights_only=True) instead of the path"
        )


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return "the file is truncated or damaged (a zip archive without its directory); download or save it again"
    if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
        return (
            "the file pickles Python objects besides tensors, which are not loaded for safety; "
            "save the state dict alone, torch.save(model.state_dict(), path), and give that file"
        )
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the file is truncated, damaged or not a torch checkpoint ({why})"


def _unwrap(source: Mapping, ema: bool) -> Mapping:
    found_ema = False
    while True:
        if isinstance(source.get("classy_state_dict"), Mapping):
            source = _unwrap_classy(source)
            break
        plain = _first_mapping(source, PLAIN_WRAPPERS)
        averaged = _first_mapping(source, EMA_WRAPPERS)
        if plain is None and averaged is None:
            break
        take_ema = averaged is not None and (ema or plain is None)
        found_ema |= take_ema
        source = averaged if take_ema else plain
    if ema and not found_ema:
        raise CheckpointError(
            f"ema=True, but the checkpoint has no averaged copy under {', '.join(EMA_WRAPPERS)}; "
            f"its keys start {_some(source)}"
        )
    return source


def _first_mapping(source: Mapping, names) -> Mapping | None:
    return next((source[name] for name in names if isinstance(source.get(name), Mapping)), None)


def _unwrap_classy(source: Mapping) -> dict:
    """VISSL: the trunk, and of the heads only a classifier; projection heads and prototypes serve self-supervised
    training alone."""
    try:
        model = source["classy_state_dict"]["base_model"]["model"]
        trunk, heads = model["trunk"], model.get("heads", {})
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            "a classy_state_dict keeps the weights under base_model / model / trunk; this one does not"
        ) from error
    kept = {
        f"heads.{key}": value
        for key, value in heads.items()
        if "projection_head" not in key and "prototypes" not in key
    }
    return dict(trunk) | kept


def _tensors(state: Mapping) -> dict[str, torch.Tensor]:
    # torch's AveragedModel keeps its number of updates beside the weights.
    state = {key: value for key, value in state.items() if not (key == "n_averaged" and len(state) > 1)}
    if not state:
        raise CheckpointError("the checkpoint is empty; expected a dict of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"checkpoint entry {key!r} is a {type(value).__name__}, not a tensor; "
                f"expected a state dict, or one under {', '.join(PLAIN_WRAPPERS + EMA_WRAPPERS)}"
            )
        if value.layout is not torch.strided or value.is_meta:
            raise CheckpointError(
                f"checkpoint tensor {key!r} is {'a meta tensor' if value.is_meta else value.layout}; "
                "expected a dense tensor with data"
            )
    return state


def _some(keys) -> str:
    keys = [repr(key) for key in keys]
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")

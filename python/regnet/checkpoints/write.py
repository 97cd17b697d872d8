"""Writing a checkpoint so that a crash leaves either the old file or the new one."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch

from regnet.checkpoints.convert import convert_state_dict
from regnet.checkpoints.read import read_checkpoint


def write_checkpoint(state: Mapping, path) -> Path:
    """torch.save `state` to `path`: into a new file beside it, synced, then renamed over it. Returns the path. Raises
    OSError."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def convert_checkpoint(
    source, destination, to: str, *, bgr: bool | None = None, ema: bool = False
) -> dict[str, torch.Tensor]:
    """Read `source` (file or dict), convert, write `destination`; the file as `to`'s own loader wants it: pycls' under
    "model_state", the others bare. Returns the converted state dict. Raises as `convert_state_dict` and
    `write_checkpoint`; nothing is written then."""
    state = convert_state_dict(read_checkpoint(source, ema=ema), to, bgr=bgr)
    write_checkpoint({"model_state": state} if to == "pycls" else state, destination)
    return state

"""pycls' published weights, through torch.hub's cache."""

import http.client
import os
import sys
from pathlib import Path

import torch
from torch import nn

from regnet.errors import WeightsUnavailableError
from regnet.models.named import NamedModel

PYCLS_URL = "https://dl.fbaipublicfiles.com/pycls/"
URL_VARIABLE = "REGNET_WEIGHTS_URL"


def load_pretrained(net: nn.Module, model: NamedModel, weights_url: str | None = None) -> None:
    """Load the published ImageNet weights of `model` into `net`, downloading them if they are not in the cache.

    The cache is torch.hub.get_dir()/checkpoints/<file name>. weights_url, or the environment variable REGNET_WEIGHTS_URL,
    replaces pycls' download prefix (a mirror; file:// works). A download that does not load is not kept.
    Raises WeightsUnavailableError if there is no file and no way to get it, and whatever `load_checkpoint` raises.
    """
    from regnet.checkpoints import load_checkpoint

    path, is_fresh = _fetch(model, weights_url or os.environ.get(URL_VARIABLE) or PYCLS_URL)
    try:
        load_checkpoint(path, net)
    except Exception:
        if is_fresh:
            path.unlink()
        raise


def _fetch(model: NamedModel, prefix: str) -> tuple[Path, bool]:
    url = f"{prefix.rstrip('/')}/{model.weights_path}"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / model.weights_path.rsplit("/", 1)[1]
    if path.is_file():
        return path, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise WeightsUnavailableError(
            f"cannot download the weights of {model.name} from {url} ({reason}); put {path.name} into {folder}, "
            f"or set {URL_VARIABLE} to a mirror of {PYCLS_URL}"
        ) from error
    return path, True

"""RegNets on fused kernels: models, checkpoints, complexity, the swap-in and the parity check.

Public names are loaded on first use, so that `import regnet` costs nothing and one broken part does not hide the others.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regnet.checkpoints import convert_state_dict, load_checkpoint
    from regnet.cost import Complexity, complexity
    from regnet.models import AnyNetConfig, RegNetConfig, create_model, list_models
    from regnet.parity import ParityReport, check_parity
    from regnet.swap import optimize

# The functions `complexity` and `optimize` live in modules of other names (cost, swap): a submodule named like a
# function would overwrite it on `regnet` as soon as somebody imported the submodule.
_HOMES = {
    "AnyNetConfig": "regnet.models",
    "RegNetConfig": "regnet.models",
    "create_model": "regnet.models",
    "list_models": "regnet.models",
    "complexity": "regnet.cost",
    "Complexity": "regnet.cost",
    "optimize": "regnet.swap",
    "check_parity": "regnet.parity",
    "ParityReport": "regnet.parity",
    "load_checkpoint": "regnet.checkpoints",
    "convert_state_dict": "regnet.checkpoints",
}
_SUBMODULES = (
    "bench", "checkpoints", "cli", "cost", "design_space", "errors", "models", "parity", "plots", "published", "records", "statistics", "swap",
)  # fmt: skip

try:
    __version__ = importlib.metadata.version("regnet-kernels")
except importlib.metadata.PackageNotFoundError:  # a source tree on PYTHONPATH, not installed
    __version__ = "0+unknown"

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"regnet.{name}")
    else:
        raise AttributeError(f"module 'regnet' has no attribute {name!r}; public names: {', '.join(sorted(_HOMES))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})

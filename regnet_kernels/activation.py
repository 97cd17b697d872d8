"""Activations by name and by the number that the ops' schemas and the packed programs carry."""

import torch
import torch.nn.functional as F

NAMES = ("none", "relu", "silu")


def activation_code(activation: str | int) -> int:
    """0, 1 or 2 for "none", "relu", "silu" (or for such a number). Raises ValueError on anything else."""
    if isinstance(activation, str) and activation in NAMES:
        return NAMES.index(activation)
    if isinstance(activation, int) and not isinstance(activation, bool) and 0 <= activation < len(NAMES):
        return activation
    raise ValueError(f"activation {activation!r} is unknown; use one of {', '.join(map(repr, NAMES))}")


def apply_activation(x: torch.Tensor, code: int) -> torch.Tensor:
    return (x, F.relu, F.silu)[code](x) if code else x

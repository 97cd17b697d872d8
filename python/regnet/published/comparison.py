"""Which RegNet a published model is compared with: the one of equal flops, or of equal activations (the paper's tables 2 to 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from regnet.published.models import PublishedModel

# What a RegNet may cost beside a model of cost 1. Picks what the paper's tables put side by side.
MAY_COST = (0.7, 1.06)
MOBILE_FLOPS = (540e6, 660e6)


class Pair(NamedTuple):
    """A published model and the RegNet that stands beside it."""

    other: PublishedModel
    regnet: PublishedModel


def equal_cost_pairs(
    others: Sequence[PublishedModel], regnets: Sequence[PublishedModel], by: Literal["flops", "acts"] = "flops"
) -> list[Pair]:
    """For each of `others` with a published cost the RegNet of most flops (or acts) within 0.7 to 1.06 times its own.

    Models without such a RegNet are left out.
    """
    pairs = []
    for other in others:
        cost = getattr(other, by)
        fitting = [model for model in regnets if cost and MAY_COST[0] <= getattr(model, by) / cost <= MAY_COST[1]]
        if fitting:
            pairs.append(Pair(other, max(fitting, key=lambda model: getattr(model, by))))
    return pairs


def mobile_regime(models: Sequence[PublishedModel]) -> list[PublishedModel]:
    """The mobile models and the RegNets of about 600 MF, by falling error."""
    low, high = MOBILE_FLOPS
    chosen = [
        model for model in models if model.family == "mobile" or (model.family.startswith("RegNet") and low <= model.flops <= high)
    ]
    return sorted(chosen, key=lambda model: -model.error)

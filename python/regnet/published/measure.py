"""Complexity and latency of a published model on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict

from regnet.published.models import PublishedModel

ROUNDS = 3
METHOD = (
    "random weights with measured BatchNorm statistics and a random image, float32, torch.inference_mode; ours: "
    "regnet.optimize (RegNet and ResNe(X)t); eager: PyTorch, channels_last (all); blocks of timed calls in turn, medians with the "
    "20th and 80th percentile"
)


def why_not(model: PublishedModel) -> str | None:
    """Why a model cannot be built here, or None if it can."""
    if model.regnet is None and model.timm is None:
        return "no implementation here: only its published error is known"
    if model.timm is not None and importlib.util.find_spec("timm") is None:
        return "needs timm: pip install 'regnet-kernels[bench]'"
    return None


def cost(model: PublishedModel) -> dict[str, int]:
    """flops, params and acts of one image of the published resolution, counted here."""
    from regnet.cost import complexity

    if model.config is not None:
        return asdict(complexity(model.config, model.resolution))
    import timm
    import torch

    with torch.device("meta"):
        network = timm.create_model(model.timm)
    return asdict(complexity(network, model.resolution))


def latency(
    model: PublishedModel,
    batch: int = 1,
    *,
    resolution: int | None = None,
    rounds: int = ROUNDS,
    block_seconds: float = 0.2,
    tick: Callable[[str], None] | None = None,
) -> dict[str, dict]:
    """Milliseconds a batch: {"ours": {median_ms, p20_ms, p80_ms, best_ms, calls}, "eager": {...}}, without "ours" for other families.

    resolution: None for the published one. tick is called after each block of calls (rounds a peer). Raises RuntimeError where
    memory does not suffice.
    """
    import torch

    import regnet
    from regnet.bench.timing import interleave

    side = resolution or model.resolution
    network = _random(model)
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        calls = {}
        if model.regnet is not None:
            optimized = regnet.optimize(network)
            calls["ours"] = lambda: optimized(x)
        eager = network.to(memory_format=torch.channels_last)
        channels_last = x.contiguous(memory_format=torch.channels_last)
        calls["eager"] = lambda: eager(channels_last)
        timings = interleave(calls, rounds=rounds, block_seconds=block_seconds, tick=tick)
    return {name: asdict(timing) for name, timing in timings.items()}


def peers(model: PublishedModel) -> int:
    """How many times are measured: ours and eager, or eager alone."""
    return 2 if model.regnet is not None else 1


def _random(model: PublishedModel):
    import torch

    from regnet.bench.sources import randomize

    torch.manual_seed(0)
    if model.config is not None:
        from regnet.models import AnyNet

        network = AnyNet(model.config)
    else:
        import timm

        network = timm.create_model(model.timm)
    network.eval()
    randomize(network, None)
    return network

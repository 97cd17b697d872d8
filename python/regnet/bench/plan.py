"""What a benchmark run shall do, checked before anything starts, and how it keeps within its time limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from regnet.bench.peers import Peer, choose_peers
from regnet.bench.sources import canonical_name, missing_source
from regnet.bench.timing import BLOCK_SECONDS

MODELS = ("regnety_400mf", "regnetx_400mf", "regnetx_1.6gf", "regnety_1.6gf", "regnety_3.2gf")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """One run. Raises ValueError on construction for anything that cannot be run.

    compile_for: "first" compiles each model from the first source only (both sources run one architecture, and a compilation
    takes 20-40 s a model and batch size), "all" from every source. time_limit: seconds, 0 for none.
    """

    models: tuple[str, ...] = MODELS
    sources: tuple[str, ...] = ("timm", "torchvision")
    batches: tuple[int, ...] = (1, 16)
    peers: tuple[str, ...] | None = None
    resolution: int = 224
    dtype: str = "float32"
    threads: int = field(default_factory=torch.get_num_threads)
    rounds: int = 4
    block_seconds: float = BLOCK_SECONDS
    images: Path | None = None
    checkpoint: Path | None = None
    pretrained: bool = False
    backend: str | None = None
    seed: int = 0
    compile_for: str = "first"
    time_limit: float = 540.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(canonical_name(name) for name in self.models))
        for what, values in (("model", self.models), ("source", self.sources), ("batch size", self.batches)):
            if not values:
                raise ValueError(f"no {what} to run: name at least one")
        for source in self.sources:
            missing_source(source)
        choose_peers(None if self.peers is None else list(self.peers))
        for what, value in (("batch size", min(self.batches)), ("threads", self.threads), ("rounds", self.rounds)):
            if value < 1:
                raise ValueError(f"{what} {value}: expected 1 or more")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.compile_for not in ("first", "all"):
            raise ValueError(f"compile_for {self.compile_for!r}: expected first or all")
        if self.time_limit < 0 or self.block_seconds <= 0:
            raise ValueError("time limits must be positive (time_limit 0 means none)")
        if self.checkpoint is not None and (len(self.models) > 1 or self.pretrained):
            raise ValueError("a checkpoint holds one model: give one --models name and no --pretrained")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def configurations(self) -> list[tuple[str, str, int]]:
        """(model, source, batch) in the order in which they run."""
        return [(m, s, b) for m in self.models for s in self.sources for b in self.batches]

    def chosen_peers(self) -> list[Peer]:
        return choose_peers(None if self.peers is None else list(self.peers))


class Budget:
    """Decides, from the seconds left, what still fits: compilations go first, then whole configurations."""

    FIRST_GUESS_COMPILE = 45.0
    SETUP_SECONDS = 5.0
    OVER_FLOOR = 4.0  # a peer's typical time over the floor

    def __init__(self, limit: float, clock=time.monotonic) -> None:
        self._limit, self._clock, self._start = limit, clock, clock()
        self._slowest_compile = 0.0

    def elapsed(self) -> float:
        return self._clock() - self._start

    def left(self) -> float:
        return self._limit - self.elapsed() if self._limit else float("inf")

    def fits_compile(self, rest_seconds: float) -> bool:
        """Whether another compilation fits, with `rest_seconds` of work (see `estimate`) still to come."""
        return self.left() > (self._slowest_compile or self.FIRST_GUESS_COMPILE) + rest_seconds

    def note_compile(self, seconds: float) -> None:
        self._slowest_compile = max(self._slowest_compile, seconds)

    def estimate(self, floor_ms: float, peers: int, plan: Plan) -> float:
        """Seconds that one configuration takes without its compilation."""
        calls = plan.rounds * 3 + 4
        block = max(plan.rounds * plan.block_seconds * 1.3, calls * self.OVER_FLOOR * floor_ms / 1e3)
        return self.SETUP_SECONDS + peers * block

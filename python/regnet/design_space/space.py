"""What every design space offers: membership, size, and sampling in bounded memory.

A sampler is made of proposals, which a `Source` draws, and of the exact test of each (constraints and window). Rejecting draws of
the space's own distribution is the plain sampler; the samplers by cells propose from the parts of the space that can hold a valid
network, in the same proportions, so that they give the same distribution (docs/design_spaces.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from regnet.design_space.constraints import CostLimit
from regnet.design_space.cost_arrays import complexity_arrays
from regnet.design_space.draws import Draws, Sample, Uniforms
from regnet.design_space.windows import Range, Window
from regnet.errors import ConfigError

PROPOSALS = 16384  # at a time
HOPELESS = 100_000_000  # proposals without a single valid one, after which a window counts as empty
METHODS = ("cells", "rejection")


class Size(NamedTuple):
    """paper: the paper's figure, or None where it gives none. exact: the number of raw settings, or None where a rule can only be
    tested and not counted. counts: what `exact` counts, in words."""

    paper: float | None
    exact: int | None
    counts: str


class Source(Protocol):
    """Proposals. `tried` counts those drawn so far."""

    tried: int

    def propose(self, uniforms: Uniforms) -> tuple[object, object]:
        """Settings and their Networks, some PROPOSALS of them or fewer; all that need no more test than `Space` makes."""


class Space:
    """Base of the spaces; `name`, `template`, `constraints`, `stages` are theirs."""

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        flops: Range = None,
        params: Range = None,
        acts: Range = None,
        resolution: int | tuple[int, int] = 224,
        method: str = "cells",
    ) -> Sample:
        """n configurations drawn from the space's distribution, given that they lie in the window; duplicates may occur.

        flops, params, acts: closed ranges (low, high) at `resolution`, in units of one. method: "cells" or "rejection"; the same
        distribution, "rejection" draws until enough are valid. The same arguments give the same list on every machine, and a
        shorter sample is the beginning of a longer one. `.draws` of the result holds the raw settings.

        Raises ConfigError for a bad argument and where no network lies in the window.
        """
        draws = self.sample_arrays(n, seed, flops=flops, params=params, acts=acts, resolution=resolution, method=method)
        return Sample(self.configs(draws), draws)

    def sample_arrays(
        self,
        n: int,
        seed: int = 0,
        *,
        flops: Range = None,
        params: Range = None,
        acts: Range = None,
        resolution: int | tuple[int, int] = 224,
        method: str = "cells",
        progress: Callable[[int], None] | None = None,
    ) -> Draws:
        """The draws of `sample` as arrays. progress(k): called after each k further draws."""
        parts = []
        for part in self.iter_arrays(n, seed, flops=flops, params=params, acts=acts, resolution=resolution, method=method):
            parts.append(part)
            if progress is not None:
                progress(len(part))
        return Draws.concatenate(parts)

    def iter_arrays(
        self,
        n: int | None = None,
        seed: int = 0,
        *,
        flops: Range = None,
        params: Range = None,
        acts: Range = None,
        resolution: int | tuple[int, int] = 224,
        method: str = "cells",
    ) -> Iterator[Draws]:
        """The draws of `sample` in parts of some thousand; without end for n=None. Memory does not grow with n."""
        window = Window(flops, params, acts, resolution)
        if n is not None and (n != int(n) or n < 1):
            raise ConfigError(f"n={n} is no sample size; use a whole number of 1 or more")
        if seed != int(seed) or seed < 0:
            raise ConfigError(f"seed={seed} is no seed; use a whole number of 0 or more")
        if method not in METHODS:
            raise ConfigError(f"method={method!r} is unknown; use one of {', '.join(map(repr, METHODS))}")
        source = self.source(window, method)
        return self._iterate(source, window, n, Uniforms(int(seed)))

    def source(self, window: Window, method: str = "cells") -> Source:
        """Proposals for a window; see `Source`."""
        raise NotImplementedError

    def configs(self, draws: Draws) -> list:
        """One configuration a row."""
        raise NotImplementedError

    def contains(self, config) -> bool:
        """Whether some setting of the space gives exactly this network."""
        raise NotImplementedError

    def size(self) -> Size:
        """The paper's figure and the exact number of raw settings."""
        raise NotImplementedError

    def describe(self) -> str:
        """Name, parameters and constraints, a line each."""
        raise NotImplementedError

    def keep(self, settings, networks, window: Window) -> Draws:
        """Those of the proposals that fulfil every constraint and the window, with their complexity."""
        held = np.ones(len(settings), bool)
        for constraint in self.constraints:
            if hasattr(constraint, "holds"):
                held &= constraint.holds(settings)
        settings, networks = settings[held], networks[held]
        costs = complexity_arrays(networks, self.template, window.resolution)
        held = window.holds(costs)
        limits = [constraint for constraint in self.constraints if isinstance(constraint, CostLimit)]
        if limits:
            at_224 = costs if window.resolution in (224, (224, 224)) else complexity_arrays(networks, self.template)
            for limit in limits:
                held = held & limit.test(at_224["flops"], at_224["params"], at_224["acts"])
        draws = Draws(settings, networks, **costs)
        return draws if held is True else draws[held]

    def _iterate(self, source: Source, window: Window, n: int | None, uniforms: Uniforms) -> Iterator[Draws]:
        given = 0
        while n is None or given < n:
            draws = self.keep(*source.propose(uniforms), window)
            if n is not None:
                draws = draws[: n - given]
            given += len(draws)
            if len(draws):
                yield draws
            elif given == 0 and source.tried > HOPELESS:
                raise ConfigError(f"none of {source.tried:,} networks of {self.name} has {window}; use a wider window")

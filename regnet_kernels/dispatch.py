"""The one place where a backend is chosen, can be forced, and is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .backends import cpu, cuda, eager, gpu, triton
from .problem import BackendError, Problem

BACKENDS = {backend.NAME: backend for backend in (gpu, cuda, triton, cpu, eager)}  # in the order of preference

# op name -> the function that turns the public function's arguments into a Problem; filled by the ops' modules
_DESCRIBE: dict[str, Callable[..., Problem]] = {}


@dataclass(frozen=True)
class Explanation:
    """problem: what was asked; chosen: the backend that runs it; reasons: why each other one does not; layers: of a network on a
    GPU, what runs each of its layers (backends/gpu)."""

    problem: Problem
    chosen: str
    reasons: dict[str, str]
    layers: tuple[gpu.Explained, ...] = ()

    def __str__(self) -> str:
        problem = self.problem
        lines = [f"{problem.op} on {problem.device} in {str(problem.dtype).removeprefix('torch.')}: {self.chosen}"]
        lines += [f"  {name}: {reason}" for name, reason in self.reasons.items() if name != self.chosen]
        lines += [f"  {line}" for line in gpu.table(self.layers)]
        return "\n".join(lines)


def choose(problem: Problem, backend: str | None = None) -> str:
    """The name of the backend that runs `problem`: the forced one, else the first that can.

    Raises ValueError on an unknown name and BackendError when the forced backend cannot run the problem.
    """
    if backend is not None:
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is unknown; use one of {', '.join(map(repr, BACKENDS))} or None")
        reason = BACKENDS[backend].why_not(problem)
        if reason:
            raise BackendError(f"backend={backend!r} cannot run {problem.op}: {reason}")
        return backend
    if problem.device.type == "cpu" and cpu.misconfigured():
        raise BackendError(f"{problem.op}: {cpu.misconfigured()}")
    for name, candidate in BACKENDS.items():
        if not candidate.why_not(problem) and not _on_request(name, problem) and not gpu.passed_over(name, problem):
            return name
    raise AssertionError("the eager backend runs everything")


def _on_request(name: str, problem: Problem) -> str:
    """Why a backend that could run `problem` does so only when it is forced, else ""."""
    interpreted = name in (gpu.NAME, triton.NAME) and problem.device.type == "cpu"
    return f"Triton's interpreter is for tests; backend={name!r} forces it" if interpreted else ""


def explain(op: str | Callable, *args, **kwargs) -> Explanation:
    """Which backend would run a public function with these arguments, and why each other one would not.

    op: "conv_bn_act", "squeeze_excite", "se_gate", "network" or "bottleneck", or the function itself. The arguments are
    checked as the function does it, and nothing is computed. Prints as a small table; for a network on a GPU, layer by layer.
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    if name not in _DESCRIBE:
        raise ValueError(f"explain knows no op {name!r}; use one of {', '.join(sorted(_DESCRIBE))}")
    backend = kwargs.pop("backend", None)
    problem = _DESCRIBE[name](*args, **kwargs)
    chosen = choose(problem, backend)
    reasons = {}
    for other, candidate in BACKENDS.items():
        if other != chosen:
            passed_over = f"backend={backend!r} was asked for" if backend else f"{chosen} goes first"
            reasons[other] = (candidate.why_not(problem) or _on_request(other, problem)
                              or (not backend and gpu.passed_over(other, problem)) or passed_over)
    return Explanation(problem, chosen, reasons, gpu.explain(problem, chosen))


def describes(name: str) -> Callable:
    """Registers the decorated function as the one that turns op `name`'s arguments into a Problem."""
    def register(function):
        _DESCRIBE[name] = function
        return function
    return register

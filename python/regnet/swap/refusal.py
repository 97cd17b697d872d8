"""Saying no: a module is swapped only when it runs exactly what its class is known to run.

A subclass, a hook, a parametrization, a method replaced on the instance or on the class: each may change the result, so each
is a reason to leave the module as it is. `Refused` carries that reason; the report shows it.
"""

from torch import nn

from regnet.errors import RegNetError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TRUSTED = ("torch", "torchvision", "timm", "regnet")  # packages whose own `forward` is known


class SwapError(RegNetError, ValueError):
    """A model, a dtype or a backend that `optimize` cannot work with; the text says why and what to do."""


class Refused(Exception):
    """Why a module is not swapped. Internal: it ends as a line of the report."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def kind(module: object) -> str:
    """The class of a module as the report names it: `timm.models.regnet.Bottleneck` -> `timm Bottleneck`."""
    cls = type(module)
    package = cls.__module__.partition(".")[0]
    return f"{package} {cls.__qualname__}" if package in ("timm", "torchvision", "regnet") else cls.__qualname__


def expect(condition: bool, reason: str) -> None:
    """Raise Refused(reason) unless `condition` holds."""
    if not condition:
        raise Refused(reason)


def expect_type(module: object, types: tuple[type, ...], what: str) -> None:
    """Refuse anything whose type is not exactly one of `types`: a subclass may compute something else."""
    if type(module) not in types:
        expected = " or ".join(sorted({cls.__name__ for cls in types}))
        raise Refused(f"{what} is {kind(module)}, expected {expected}")


def expect_untouched(module: nn.Module, what: str = "", deep: bool = True) -> None:
    """Refuse `module` if it (or, for `deep`, anything inside it) is hooked or patched."""
    for path, inner in module.named_modules() if deep else (("", module),):
        where = ".".join(part for part in (what, path) if part) or "it"
        if any(getattr(inner, hooks, None) for hooks in _HOOKS):
            raise Refused(f"{where} has hooks, which a fused kernel would not call")
        patched = patched_method(inner)
        if patched:
            raise Refused(f"{where} has its `{patched}` replaced")


def patched_method(module: nn.Module) -> str | None:
    """The name of a method replaced on the instance, or of a `forward` replaced on the class from outside; else None."""
    cls = type(module)
    for name in vars(module):
        if callable(getattr(cls, name, None)):
            return name
    home = getattr(cls.forward, "__module__", None) or ""
    own = cls.__module__.partition(".")[0] not in _TRUSTED  # a class of the user's: its forward is its own
    return None if own or home.partition(".")[0] in _TRUSTED else "forward"


def ordered_children(container: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that a container's forward runs one after the other.

    A Sequential or a ModuleDict runs a child that it holds twice twice; others walk over `children()`, which would name it
    once, and stop doing so when one of the two places is filled anew: Refused.
    """
    items = [(name, child) for name, child in container._modules.items() if child is not None]
    if not isinstance(container, (nn.Sequential, nn.ModuleDict)) and len({id(child) for _, child in items}) < len(items):
        raise Refused(f"{kind(container)} holds one module in two places")
    return items

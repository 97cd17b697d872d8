"""What `optimize` did: the modules it swapped, and those it kept with the reason."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Kept:
    """A module that runs as before. `name` is its path in the model, "" the model itself."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(the model)'}: {self.reason}"


@dataclass
class OptimizeReport:
    """`swapped`: paths of the modules that run fused; `kept`: those that do not, and why; `ops`: fused ops in one forward."""

    model: str
    dtype: str
    backend: str
    whole: bool = False
    ops: int = 0
    swapped: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Plain lists and strings, as for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        how = "as a whole" if self.whole else "in part"
        ops = f"{self.ops} op" if self.ops == 1 else f"{self.ops} ops"
        lines = [f"{self.model}, fused {how}: {len(self.swapped)} modules in {ops}, {self.dtype}, backend {self.backend}"]
        lines += [f"  swapped  {line}" for line in _wrap([name or "(the model)" for name in self.swapped])]
        lines += [f"  kept     {kept}" for kept in self.kept]
        return "\n".join(lines)


def _wrap(names: list[str], width: int = 100) -> list[str]:
    """The names, comma-separated, in lines of at most `width` characters."""
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + len(name) + 2 <= width:
            lines[-1] += f", {name}"
        else:
            lines.append(name)
    return lines

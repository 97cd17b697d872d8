"""Plain torch: the reference of every op. Runs everything, on every device, at plain torch's speed."""

from ..problem import Problem

NAME = "eager"


def why_not(problem: Problem) -> str:
    return ""

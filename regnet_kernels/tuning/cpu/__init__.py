"""Choices for the CPU kernels that were measured on this machine, in place of the heuristics'. Nothing is tuned unasked.

    from regnet_kernels.tuning import cpu
    cpu.tune(packed, x)                  # measure the layers of a packed network on x, and keep the better choices
    print(*cpu.layers(packed, x), sep="\\n")   # what each layer does on x, and whether it is tuned or the heuristics'

    identity    what a measurement is valid for: CPU, instruction set, the kernels' library
    layer       a layer and what can be chosen for it, as csrc/cpu/choices.h has them
    store       the file of one identity, shared by processes
    table       what of it the kernels know; read once a process, before the first network
    tuner       the search

`regnet tune` does this for named models (docs/tuning.md). The files are where those of the cards are (tuning/__init__.py).
"""

from .identity import CpuIdentity, identity
from .layer import Choice, Cut, Layer, Made
from .store import Entry, cache_file
from .table import clear, entries, forget, layers, load
from .tuner import Outcome, Tuned, tune

__all__ = ["Choice", "CpuIdentity", "Cut", "Entry", "Layer", "Made", "Outcome", "Tuned", "cache_file", "clear", "entries", "forget",
           "identity", "layers", "load", "tune"]

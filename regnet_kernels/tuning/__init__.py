"""Configurations of the Triton kernels that were measured on this card, in place of the heuristics'. Nothing is tuned unasked. Of the
CPU's kernels: tuning.cpu.

    from regnet_kernels import tuning
    with tuning.watch() as launches:           # which configuration each launch takes, and whence: "tuned" or "heuristic"
        fused(images)
    print(*launches, sep="\n")
    tuning.tune(shape, torch.float16)          # measure one launch on the current card and keep the best configuration

    identities  what a measurement is valid for: card, driver, torch, Triton, the kernels' sources
    store       the file of one identity, shared by processes
    table       what of it is in memory; the choice made at each launch
    launches    a launch made again from its shape
    tuner       the search
    files       what both stores do with files
    cpu         the same for the CPU's kernels: another search, of other choices

The files are in REGNET_KERNELS_CACHE_DIR, else regnet_kernels in the user's cache folder. With no file there, or another
identity, the heuristics choose; an empty folder there forces them.
"""

from . import cpu
from .identities import Identity, identity
from .store import LaunchError, TuningError, cache_dir, cache_file
from .table import Choice, forget, watch
from .tuner import Tuned, tune

__all__ = ["Choice", "Identity", "LaunchError", "Tuned", "TuningError", "cache_dir", "cache_file", "cpu", "forget", "identity", "tune", "watch"]

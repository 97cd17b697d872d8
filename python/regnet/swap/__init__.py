"""The swap-in: `optimize` reads the blocks of a model, folds and packs them, and puts fused modules in their place.

refusal (when not to) -> fold (convolution and BatchNorm) -> blocks, networks (what a module is) -> pixels (normalising images),
fused (what replaces a module) -> stretches (in part) -> entry (optimize) and report.
"""

from regnet.swap.entry import optimize
from regnet.swap.fused import FusedBlocks, FusedRegNet
from regnet.swap.refusal import SwapError
from regnet.swap.report import Kept, OptimizeReport

__all__ = ["FusedBlocks", "FusedRegNet", "Kept", "OptimizeReport", "SwapError", "optimize"]

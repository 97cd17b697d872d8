"""Check a build of the kernels: shapes that occur, tolerances with their reasons, comparison against a float64 oracle.

    from regnet_kernels import testing
    report = testing.check_backend("cpu")      # every op over the catalogue; raises on the first that is off
"""

from .check_backend import BackendReport, check_backend
from .make import make_block, make_conv, make_squeeze_excite
from .oracle import Errors, assert_close_to_oracle, relative_error, widen
from .poison import poison_memory, poisoned_memory
from .shapes import BLOCK_SHAPES, CONV_SHAPES, SE_SHAPES, BlockShape, ConvShape, SeShape
from .tolerances import DTYPES, EAGER_FACTOR, FLOOR, WINOGRAD_FACTOR, factor_for

__all__ = ["BLOCK_SHAPES", "CONV_SHAPES", "DTYPES", "EAGER_FACTOR", "FLOOR", "SE_SHAPES", "WINOGRAD_FACTOR", "BackendReport", "BlockShape",
           "ConvShape", "Errors", "SeShape", "assert_close_to_oracle", "check_backend",
           "factor_for", "make_block", "make_conv",
           "make_squeeze_excite", "poison_memory", "poisoned_memory", "relative_error", "widen"]

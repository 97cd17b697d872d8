"""One call that checks a backend of an installed build over the whole catalogue."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..ops.conv_bn_act import conv_bn_act
from ..ops.network import bottleneck
from ..ops.squeeze_excite import squeeze_excite
from ..packing import pack_network
from .make import make_block, make_conv, make_squeeze_excite
from .oracle import Errors, assert_close_to_oracle, widen
from .poison import poisoned_memory
from .shapes import BLOCK_SHAPES, CONV_SHAPES, SE_SHAPES
from .tolerances import DTYPES, factor_for


class BackendReport(NamedTuple):
    """results: (op, dtype, shape, errors) of each comparison; all were within their bounds."""

    backend: str
    results: list[tuple[str, torch.dtype, tuple, Errors]]

    def __str__(self) -> str:
        lines = [f"{self.backend}: {len(self.results)} comparisons with float64, all within their bounds; worst:"]
        for key in sorted({(op, str(dtype)) for op, dtype, _, _ in self.results}):
            worst = max((r for r in self.results if (r[0], str(r[1])) == key), key=lambda r: r[3].actual)
            lines.append(f"  {key[0]:15} {key[1].removeprefix('torch.'):9} {worst[3].actual:.2e} (eager {worst[3].eager:.2e})")
        return "\n".join(lines)


def check_backend(backend: str | None = None, device: str = "cpu", dtypes: tuple[torch.dtype, ...] = DTYPES) -> BackendReport:
    """Run conv_bn_act, squeeze_excite and bottleneck on `backend` (None: what dispatch picks) over the shape catalogue
    and compare with float64. Raises AssertionError that names the op, dtype and worst element of the first failure."""
    results = []
    for dtype in dtypes:
        for shape in CONV_SHAPES:
            args, kwargs = make_conv(shape, dtype, device)
            results.append(("conv_bn_act", dtype, shape, _compare(conv_bn_act, backend, args, kwargs, str(shape))))
        for shape in SE_SHAPES:
            args = make_squeeze_excite(shape, dtype, device)
            results.append(("squeeze_excite", dtype, shape, _compare(squeeze_excite, backend, args, {}, str(shape))))
        packed_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        for shape in BLOCK_SHAPES:
            x, step = make_block(shape, dtype, device)
            wide = pack_network(pack_network([step], packed_dtype).unpack(), torch.float64)
            oracle = bottleneck(x.double(), wide, backend="eager")
            for exact in (False, True):
                packed = pack_network([step], packed_dtype, exact=exact)
                with poisoned_memory(device):
                    actual = bottleneck(x, packed, backend=backend)
                errors = assert_close_to_oracle(actual, oracle, bottleneck(x, packed, backend="eager"), factor=factor_for(packed),
                                                what=f"bottleneck {shape}, exact={exact}")
                results.append(("bottleneck", dtype, shape, errors))
    return BackendReport(backend or "dispatched", results)


def _compare(op, backend, args, kwargs, what) -> Errors:
    with poisoned_memory(args[0].device):
        actual = op(*args, **kwargs, backend=backend)
    exact = op(*widen(args), **widen(kwargs), backend="eager")
    return assert_close_to_oracle(actual, exact, op(*args, **kwargs, backend="eager"), what=f"{op.__name__} {what}")

"""What a class of cards can do, for estimates: the best known card of each architecture, from its maker's datasheet. Nothing here
was measured."""

from __future__ import annotations

from typing import NamedTuple


class Rates(NamedTuple):
    """bandwidth: GB/s of device memory; peak: TFLOP/s, 16-bit, dense, float32 accumulation; clock: GHz, boost."""

    card: str
    bandwidth: float
    peak: float
    clock: float


RATES = {
    "sm_80": Rates("A100 SXM 80 GB", 2039, 312, 1.41),
    "sm_86": Rates("RTX A6000", 768, 155, 1.80),
    "sm_89": Rates("RTX 4090", 1008, 165, 2.52),
    "sm_90": Rates("H100 SXM 80 GB", 3352, 989, 1.83),
    "sm_100": Rates("B200", 8000, 2250, 1.85),
    "sm_120": Rates("RTX 5090", 1792, 210, 2.41),
    "gfx942": Rates("MI300X", 5300, 1307, 2.10),
}
FALLBACK = {"sm_87": "sm_86", "sm_103": "sm_100", "sm_121": "sm_120"}


def rates(arch: str) -> Rates:
    """Of an architecture; of the A100, whose balance favours neither side, for one that is unknown."""
    return RATES.get(FALLBACK.get(arch, arch), RATES["sm_80"])

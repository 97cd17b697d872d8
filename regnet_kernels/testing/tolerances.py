"""How far from the exact result an op may be, by dtype, and why."""

import torch

from ..packing import PackedNetwork

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# No worse than twice what eager PyTorch loses in the same dtype: another order of summation moves the error about, and
# a maximum over few elements is a noisy figure, but a kernel that drops precision (a float16 accumulator, say) is off
# by far more than twice.
EAGER_FACTOR = 2.0

# For packed networks with Winograd steps: F(4x4, 3x3) in float32 is off by about 2.5 times a direct convolution's error
# (winograd.py), on top of the factor above.
WINOGRAD_FACTOR = 2.5 * EAGER_FACTOR

# Added to that, relative to the largest exact value, because eager can be exact by luck (one input channel, a 1x1 map).
FLOOR = {
    # 8 ulps of 2^-23. One accumulator over K products drifts by about sqrt(K / 2) half-ulps (32 for the longest sum here,
    # K = 9 * 232), of which a third is seen on average; eager's libraries split the sum and drift less. An exp good to
    # 1-2 ulps in SiLU and sigmoid is covered too.
    torch.float32: 8 * 2.0**-23,
    # The result is rounded once to 8 significant bits: half an ulp, 2^-8 of the largest value in its binade.
    torch.bfloat16: 2.0**-8,
    # Likewise for 11 significant bits.
    torch.float16: 2.0**-11,
    # Gradient checks of the references.
    torch.float64: 4 * 2.0**-52,
}


def factor_for(packed: PackedNetwork) -> float:
    """The multiple of eager's error that a packed network may show."""
    # in bfloat16 a layer by F(2x2) errs 1.4 times as much as a direct one, but eager rounds more often: no more than eager in all
    float32 = packed.weights.dtype == torch.float32
    return WINOGRAD_FACTOR if float32 and any(spec.winograd for spec in packed.specs) else EAGER_FACTOR

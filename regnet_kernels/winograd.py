"""Which 3x3 convolutions of a packed network may go by Winograd's F(4x4, 3x3), as csrc/cpu/winograd_kernels.h computes it.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), with the interpolation points
0, +-1/sqrt(2), +-sqrt(2) and infinity in place of 0, +-1, +-2: in float32 the largest error of a convolution against
float64 falls from about 9 times a direct one's to about 2.5 times (24 channels), the operations stay as many. The kernel transforms the
plain packed weights itself.
"""

import torch


def suits(dtype: torch.dtype, stride: int, group_width: int) -> bool:
    """May a grouped 3x3 go by Winograd? In float32, with stride 1 and groups of a multiple of 8 channels."""
    return dtype == torch.float32 and stride == 1 and group_width % 8 == 0

"""Which 3x3 convolutions of a packed network may go by Winograd (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
arXiv 1509.09308): F(4x4, 3x3) in float32, as csrc/cpu/winograd_kernels.h computes it, F(2x2, 3x3) in bfloat16, as winograd_bf16_kernels.h
does.

F(4x4) has the interpolation points 0, +-1/sqrt(2), +-sqrt(2) and infinity in place of 0, +-1, +-2: in float32 the largest error of a
convolution against float64 falls from about 9 times a direct one's to about 2.5 times (24 channels), the operations stay as many. The
kernel transforms the plain packed weights itself.

Of stride 2, float32 goes in tiles of 2x2 outputs with additions alone for transforms (csrc/cpu/winograd_strided_kernels.h): 25 products
for 36, with about the error of a direct convolution.

F(2x2) has the points 0, +-1 and infinity. Its transformed weights are packed beside the plain ones, rounded to bfloat16 once; so is its
transformed input. One layer errs about 1.4 times as much as a direct one in bfloat16; by F(4x4) it would be 4.5 times.
"""

import torch

# By dtype and stride. Of stride 2 groups of 8 and 16 gain nothing, in bfloat16 those of 8; there the transformed weights take 1.8 times the
# memory of the plain ones.
WIDTHS = {(torch.float32, 1): (8, 1 << 20), (torch.float32, 2): (24, 1 << 20), (torch.bfloat16, 1): (16, 264)}


def suits(dtype: torch.dtype, stride: int, group_width: int) -> bool:
    """May a grouped 3x3 go by Winograd? In float32 with stride 1 or 2 and in bfloat16 with stride 1, groups of a multiple of 8 channels."""
    narrowest, widest = WIDTHS.get((dtype, stride), (1, 0))
    return group_width % 8 == 0 and narrowest <= group_width <= widest


def transform_weights(weight: torch.Tensor, together: int = 1) -> torch.Tensor:
    """weight: (C, g, 3, 3) of a convolution with C / g groups -> (C / g / together * 16, together g, g), float64: for each `together`
    groups and each of the 4x4 positions of F(2x2, 3x3) the matrix output x input channel, outputs of these groups in turn."""
    transform = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    spread = torch.einsum("ix,ocxy,jy->ijoc", transform, weight.double(), transform)
    channels, width = weight.shape[:2]
    spread = spread.reshape(16, channels // width // together, together, width, width)
    return spread.permute(1, 0, 3, 2, 4).reshape(-1, together * width, width)

"""The weights of a 3x3 convolution in the form of Winograd's F(4x4, 3x3), as csrc/cpu/winograd_kernels.h reads them.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), with the interpolation points
0, +-1/sqrt(2), +-sqrt(2) and infinity in place of 0, +-1, +-2: in float32 the largest error of a convolution against
float64 falls from about 9 times a direct one's to about 2.5 times (24 channels), the operations stay as many.
"""

import torch

POINTS = (0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))  # beside 0 and infinity
WIDEST_GROUP = 128  # the transformed weights take four times the memory of the plain ones; of wider groups, gigabytes


def suits(dtype: torch.dtype, stride: int, group_width: int) -> bool:
    """Is a grouped 3x3 packed for Winograd as well? Stride 1; not in float64. In bfloat16 its products are computed in float32 (those of
    bfloat16 would lose their accuracy in the transforms), so at half the rate: it gains a little for groups of 48 to 80 only."""
    widths = {torch.float32: (8, WIDEST_GROUP), torch.bfloat16: (48, 80)}.get(dtype)
    return widths is not None and stride == 1 and group_width % 8 == 0 and widths[0] <= group_width <= widths[1]


def transform_weights(weight: torch.Tensor, together: int = 1) -> torch.Tensor:
    """weight: (C, g, 3, 3) of a convolution with C / g groups -> (C / g / together * 36, together g, g): for each `together` groups
    and each of the 6x6 positions the matrix output x input channel, outputs of these groups in turn. Computed in float64, returned
    in it."""
    transform = _matrix().to(weight.device)
    spread = torch.einsum("ix,ocxy,jy->ijoc", transform, weight.double(), transform)
    channels, width = weight.shape[:2]
    spread = spread.reshape(36, channels // width // together, together, width, width)
    return spread.permute(1, 0, 3, 2, 4).reshape(-1, together * width, width)


def _matrix() -> torch.Tensor:
    rows = [[1.0, 0.0, 0.0]]
    for point in POINTS:
        others = [0.0, *(other for other in POINTS if other != point)]
        scale = 1.0
        for other in others:
            scale *= point - other
        rows.append([1 / scale, point / scale, point**2 / scale])
    rows.append([0.0, 0.0, 1.0])
    # the input transform of the first row carries the product of the squared points, which is 1
    return torch.tensor(rows, dtype=torch.float64)

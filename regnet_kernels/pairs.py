"""Which channels of a 1x1 are multiplied in pairs, as csrc/cpu/pair_kernels.h does it (S. Winograd, "A New Algorithm for Inner Product",
IEEE Transactions on Computers, 1968):

    x1 w1 + x2 w2 = (x1 + w2)(x2 + w1) - x1 x2 - w1 w2 = (x1 - w2)(w1 - x2) + x1 x2 + w1 w2.

The sum of w1 w2 over the pairs is one number for each output channel, packed beside the weights, that of x1 x2 one for each pixel.
"""

import torch

RUN, TAIL = 48, 24  # channels: of a run the first third is paired with the second, the last third goes plainly; one shorter run at the end


def pair_sums(matrix: torch.Tensor) -> torch.Tensor:
    """matrix: (O, K) -> (O,) float64, the sums of w1 w2 over the pairs of each row, every other one with a minus sign."""
    rows, channels = matrix.shape
    runs, rest = divmod(channels, RUN)
    sums = matrix.new_zeros(rows, dtype=torch.float64)
    for start, count, length in ((0, runs, RUN), (runs * RUN, rest // TAIL, TAIL)):
        if count:
            thirds = matrix[:, start:start + count * length].reshape(rows, count, 3, length // 3)
            signs = 1.0 - 2.0 * (torch.arange(length // 3, dtype=torch.float64, device=matrix.device) % 2)
            sums += (thirds[:, :, 0].double() * thirds[:, :, 1].double()).sum(1) @ signs
    return sums


def magnitude(square_mean: float) -> float:
    """The root of a mean square, 1 for 0 and for what is not finite: the size to which pixels are brought."""
    return square_mean**0.5 if 0 < square_mean < float("inf") else 1.0

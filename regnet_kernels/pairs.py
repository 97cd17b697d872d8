"""Which channels of a 1x1 are multiplied in pairs (no kin of the pairs of words in panels.py), as csrc/cpu/pair_kernels.h does it (S. Winograd, "A New Algorithm for Inner Product",
IEEE Transactions on Computers, 1968):

    x1 w1 + x2 w2 = (x1 + w2)(x2 + w1) - x1 x2 - w1 w2 = (x1 - w2)(w1 - x2) + x1 x2 + w1 w2.

The sum of w1 w2 over the pairs is one number for each output channel, packed beside the weights, that of x1 x2 one for each pixel.
"""

import numpy as np
import torch

RUN, TAIL = 48, 24  # channels: of a run the first third is paired with the second, the last third goes plainly; one shorter run at the end


def pair_sums(matrix: torch.Tensor) -> torch.Tensor:
    """matrix: (O, K) -> (O,) float64, the sums of w1 w2 over the pairs of each row, every other one with a minus sign."""
    rows, channels = matrix.shape
    runs, rest = divmod(channels, RUN)
    # by numpy: thousands of small products, for each of which torch would wake its threads (of 19 million weights 0.1 s, so 1 s)
    values, sums = matrix.detach().cpu().numpy(), np.zeros(rows)
    for start, count, length in ((0, runs, RUN), (runs * RUN, rest // TAIL, TAIL)):
        if count:
            thirds = values[:, start:start + count * length].reshape(rows, count, 3, length // 3)
            signs = 1.0 - 2.0 * (np.arange(length // 3) % 2)
            sums += np.einsum("orj,orj,j->o", thirds[:, :, 0], thirds[:, :, 1], signs)
    return torch.from_numpy(sums).to(matrix.device)


def square_sum(matrix: torch.Tensor) -> float:
    """matrix: (O, K) -> the sum of the squares of all elements, roughly (in the matrix's dtype)."""
    values = matrix.detach().cpu().numpy()
    return float(np.einsum("ij,ij->", values, values))


def magnitude(square_mean: float) -> float:
    """The root of a mean square, 1 for 0 and for what is not finite: the size to which pixels are brought."""
    return square_mean**0.5 if 0 < square_mean < float("inf") else 1.0

"""Fill memory that will be reused with NaN, so that a kernel which reads what it never wrote shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def poison_memory(device: torch.device | str = "cpu", sizes: tuple[int, ...] = (1 << 10, 1 << 14, 1 << 18),
                  copies: int = 4) -> None:
    """Allocate `copies` float32 blocks of each size (in elements), fill them with NaN and free them again."""
    blocks = [torch.full((size,), float("nan"), device=device) for size in sizes for _ in range(copies)]
    del blocks


@contextlib.contextmanager
def poisoned_memory(device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, every fresh floating tensor that torch hands out is full of NaN, and freed memory is poisoned beforehand."""
    was_filled, was_deterministic = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    poison_memory(device)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warning)
        torch.utils.deterministic.fill_uninitialized_memory = was_filled

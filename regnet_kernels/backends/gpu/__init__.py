"""A network packed by `pack_plain` on a GPU, each layer by the backend that suits it: Triton, CUDA C++, or cuDNN through torch.

    layers    a network as layers, each a shape of backends/triton/shapes.py
    choice    who can run a layer, who runs it, and why not the others
    network   the steps, run
    cudnn     the layers in torch's own operations

The package imports without Triton; the kernels are imported on the first call.
"""

from __future__ import annotations

import importlib

import torch


def run(x: torch.Tensor, weights: torch.Tensor, params: torch.Tensor, program: list[int], mean: torch.Tensor | None = None,
        scale: torch.Tensor | None = None, layers: str = "") -> torch.Tensor:
    """The op regnet_kernels::network_plain, its arguments checked before. layers: forced backends, see `choice.parse`."""
    return importlib.import_module(".network", __name__).run(x, weights, params, program, mean, scale, layers)

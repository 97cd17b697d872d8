"""How far an output lies from the float64 truth, and whether it names the same class."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from regnet.parity import check_parity


def parity_record(model: nn.Module, optimized: nn.Module, images: np.ndarray, truth: np.ndarray) -> dict:
    """`regnet.check_parity` on images (N, 3, H, W), summed up: worst block, logits beside eager's, limit, verdict; and the
    share of images whose top-1 class is that of the float64 logits `truth` (N, classes)."""
    x = torch.from_numpy(images)
    report = check_parity(model, optimized, x)
    logits = next(row for row in report.rows if row.kind == "logits")
    agreement = as_numpy(optimized(x)).argmax(1) == truth.argmax(1)
    return {
        "images": len(images),
        "worst_block_rel_err": max(row.rel_err for row in report.rows if row is not logits),
        "ours_rel_err": logits.rel_err,
        "eager_rel_err": logits.eager_rel_err,
        "limit": logits.limit,
        "top1_agreement": float(agreement.mean()),
        "passed": report.passed,
    }


@torch.inference_mode()
def float64_output(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) float32 -> (N, ...) float64, such as the logits (N, classes): the same weights in double precision, image by image."""
    double = copy.deepcopy(model).double()
    return np.concatenate([double(torch.from_numpy(images[i : i + 1]).double()).numpy() for i in range(len(images))])


def relative_error(output: object, truth: np.ndarray) -> float:
    """max |output - truth| / max |truth|; raises ValueError for another shape. NaN and inf come out as inf."""
    found = as_numpy(output)
    if found.shape != truth.shape:
        raise ValueError(f"output of shape {found.shape}, expected {truth.shape}")
    error = float(np.abs(found - truth).max() / np.abs(truth).max())
    return error if np.isfinite(error) else float("inf")


def as_numpy(output: object) -> np.ndarray:
    """Any peer's output -> float64 numpy."""
    if isinstance(output, torch.Tensor):
        output = output.detach().double().numpy()
    return np.asarray(output, dtype=np.float64)

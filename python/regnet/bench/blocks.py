"""One block at a time, called as a module: ours beside eager, torch.compile, ONNX Runtime and OpenVINO.

Ours and PyTorch's get their input in channels_last, as inside a network; ONNX Runtime and OpenVINO get NCHW and convert on the way in
and out, which a whole network does once for all of its blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from regnet.bench.accuracy import float64_output, relative_error
from regnet.bench.peers import PEERS, WRONG_BEYOND, Peer, Subject, one_line
from regnet.bench.shapes import StepShape
from regnet.bench.timing import SETTLE_SECONDS, interleave
from regnet.models import BlockSpec
from regnet.models.blocks import make_block

BLOCK_PEERS: dict[str, Peer] = {name: PEERS[name] for name in ("ours", "channels_last", "compile", "onnxruntime", "openvino")}


def random_block(shape: StepShape, seed: int = 0) -> nn.Module:
    """The block in eval mode, with random weights and BatchNorm statistics that a wrong folding could not survive."""
    torch.manual_seed(seed)
    spec = BlockSpec(0, 0, shape.c_in, shape.c_mid, shape.c_out, shape.stride, shape.group_width, shape.se_width)
    block = make_block(spec, "X", shape.activation)
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.2)
        nn.init.normal_(norm.running_mean, 0.0, 0.2)
        nn.init.uniform_(norm.running_var, 0.7, 1.4)
    return nn.Sequential(block).eval()


@torch.inference_mode()
def measure_block(
    shape: StepShape, peers: Sequence[Peer], dtype: torch.dtype, threads: int, rounds: int, block_seconds: float, seed: int = 0
) -> list[dict]:
    """Rows (without figures that follow from others) of one block, for each peer in turn.

    A peer that fails or computes something else gets a row with no time and the reason as its note; a failure of ours is raised.
    """
    with torch.inference_mode(False):
        block = random_block(shape, seed).requires_grad_(False)
    x = torch.randn(shape.batch, shape.c_in, shape.side, shape.side).numpy()
    truth = float64_output(block, x)
    calls, notes, errors = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="regnet-bench-") as folder:
        subject = Subject(block, threads, dtype, Path(folder), shape.side, in_chans=shape.c_in, channels_last=True)
        for peer in peers:
            try:
                call = peer.prepare(subject, x)
                errors[peer.name] = error = relative_error(call(), truth)
            except Exception as failure:
                if peer.name == "ours":
                    raise
                notes[peer.name] = f"failed: {one_line(failure)}"
                continue
            if error <= WRONG_BEYOND[dtype]:
                calls[peer.name] = call
            elif peer.name == "ours":
                raise RuntimeError(f"our kernels are off by {error:.1e} (relative) from float64 in {shape}: nothing to time")
            else:
                notes[peer.name] = f"wrong result: relative error {error:.1e} against float64"
        timings = interleave(calls, rounds=rounds, block_seconds=block_seconds, settle_seconds=SETTLE_SECONDS)
    rows = []
    for peer in peers:
        times = asdict(timings[peer.name]) if peer.name in timings else {"median_ms": None}
        common = shape.columns() | {"gflop": 2e-9 * shape.macs, "bytes": shape.bytes(dtype.itemsize)}
        rows.append(common | {"peer": peer.name, "note": notes.get(peer.name, ""), "rel_err": errors.get(peer.name)} | times)
    return rows

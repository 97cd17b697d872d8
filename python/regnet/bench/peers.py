"""Who runs beside us: each peer turns the same model and the same numpy batch into a call without arguments.

Every peer gets its input in the layout it likes best before the clock starts, the same number of threads, and float32 (or
bfloat16) arithmetic set explicitly. A peer that cannot run says why; it is never dropped in silence.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

Call = Callable[[], object]
# A peer that is further than this from the expected output (relative) computes something else; its time would mean nothing.
WRONG_BEYOND = {torch.float32: 1e-3, torch.bfloat16: 0.25}


@dataclass
class Subject:
    """The model that every peer runs: eager, float32, eval mode; `folder` takes the files that peers write on the way."""

    model: nn.Module
    threads: int
    dtype: torch.dtype
    folder: Path
    resolution: int
    backend: str | None = None
    in_chans: int = 3
    channels_last: bool = False  # the layout in which ours gets its input

    @cached_property
    def onnx_file(self) -> Path:
        """The model as an ONNX file with a free batch size; written once, used by ONNX Runtime and OpenVINO."""
        path = self.folder / "model.onnx"
        example = torch.randn(2, self.in_chans, self.resolution, self.resolution)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The TorchScript exporter: the same graph as the newer exporter's once the runtimes have optimised it (BatchNorm
            # folded, equal latencies), in 1 s instead of 5-10 s a model.
            torch.onnx.export(
                self.model, (example,), str(path), dynamo=False,
                input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )  # fmt: skip
        return path

    @cached_property
    def optimized(self) -> nn.Module:
        """Our swap-in of the model."""
        import regnet

        dtype = None if self.dtype == torch.float32 else self.dtype
        return regnet.optimize(self.model, dtype=dtype, backend=self.backend)

    def tensor(self, batch: np.ndarray) -> torch.Tensor:
        """(N, 3, H, W) numpy float32 -> the same as a tensor of the run's dtype."""
        return torch.from_numpy(batch).to(self.dtype)

    def eager(self) -> nn.Module:
        """The model in the run's dtype."""
        return self.model if self.dtype == torch.float32 else copy.deepcopy(self.model).to(self.dtype)


@dataclass(frozen=True)
class Peer:
    """name: on the command line and in files; label: in text and plots; heading: of a narrow column; missing(dtype): why it cannot run, or None."""

    name: str
    label: str
    heading: str
    prepare: Callable[..., Call]  # of a model: (Subject, numpy batch); of an op: (module, inputs)
    needs: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    def missing(self, dtype: torch.dtype) -> str | None:
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if absent:
            return f"not installed: {', '.join(absent)} (pip install 'regnet-kernels[bench]')"
        if dtype not in self.dtypes:
            return f"does not run in {str(dtype).removeprefix('torch.')} on a CPU"
        return None


def choose_peers(names: Sequence[str] | None, known: Mapping[str, Peer] | None = None) -> list[Peer]:
    """Peers by name, in the order of the table `known` (PEERS), `ours` always among them; all of them for None. Raises ValueError for an
    unknown name."""
    known = PEERS if known is None else known
    if names is None:
        return list(known.values())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown peer {unknown[0]!r}: expected some of {', '.join(known)}")
    return [peer for peer in known.values() if peer.name in names or peer.name == "ours"]


def one_line(error: Exception, most: int = 200) -> str:
    """The error as a reason in a list."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= most else text[: most - 3] + "..."


def _ours(subject: Subject, batch: np.ndarray) -> Call:
    model, x = subject.optimized, subject.tensor(batch)
    if subject.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return lambda: model(x)


def _eager(subject: Subject, batch: np.ndarray) -> Call:
    model, x = subject.eager(), subject.tensor(batch)
    return lambda: model(x)


def _eager_channels_last(subject: Subject, batch: np.ndarray) -> Call:
    model = copy.deepcopy(subject.model).to(dtype=subject.dtype, memory_format=torch.channels_last)
    x = subject.tensor(batch).contiguous(memory_format=torch.channels_last)
    return lambda: model(x)


def compiled(model: nn.Module, *inputs: torch.Tensor | None) -> Call:
    """model(*inputs) through torch.compile with freezing, compiled now. Call it in inference mode, with weights as they shall stay."""
    import torch._inductor.config as inductor

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime", of no interest on a CPU
    made = torch.compile(model, dynamic=False)
    with inductor.patch(freezing=True):
        made(*inputs)
    return lambda: made(*inputs)


def forget_compiled() -> None:
    """Before the compilations of another subject: else a second batch size would be compiled with a dynamic shape. What was compiled
    before would be compiled again on its next call, without freezing."""
    import torch._dynamo

    torch._dynamo.reset()


def _compiled(subject: Subject, batch: np.ndarray) -> Call:
    forget_compiled()
    model = copy.deepcopy(subject.model).to(dtype=subject.dtype, memory_format=torch.channels_last)
    return compiled(model, subject.tensor(batch).contiguous(memory_format=torch.channels_last))


def _onnxruntime(subject: Subject, batch: np.ndarray) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", len(batch))
    session = onnxruntime.InferenceSession(str(subject.onnx_file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: batch}
    return lambda: session.run(None, feed)[0]


def _openvino(subject: Subject, batch: np.ndarray) -> Call:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(subject.onnx_file))
    model.reshape(list(batch.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": subject.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32" if subject.dtype == torch.float32 else "bf16",
    }
    compiled = core.compile_model(model, "CPU", settings)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if subject.dtype == torch.bfloat16 and precision != "bf16":
        raise RuntimeError(f"OpenVINO runs in {precision} here: this CPU has no bfloat16 arithmetic")
    request = compiled.create_infer_request()
    return lambda: request.infer({0: batch}, share_inputs=True, share_outputs=True)[0]


FLOAT32 = (torch.float32,)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", "regnet_kernels", "ours", _ours),
        Peer("eager", "eager", "eager", _eager),
        Peer("channels_last", "eager channels_last", "channels\nlast", _eager_channels_last),
        Peer("compile", "torch.compile, freezing", "compile\nfreezing", _compiled),
        Peer("onnxruntime", "ONNX Runtime", "ONNX\nRuntime", _onnxruntime, needs=("onnx", "onnxruntime"), dtypes=FLOAT32),
        Peer("openvino", "OpenVINO", "Open\nVINO", _openvino, needs=("onnx", "openvino")),
    )
}

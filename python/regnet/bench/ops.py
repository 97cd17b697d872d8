"""One kernel at a time: ours by the clock inside a packed step, beside the same function of PyTorch through oneDNN.

The peers of an op compute it from the very tensors that our step has at that place: the same weights (BatchNorm folded), the same
input. Their composition is compared with our step's output, so that all time the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from regnet_kernels import BlockStep, ConvStep, HeadStep, PackedNetwork, pack_network
from torch import Tensor, nn

from regnet.bench.accuracy import as_numpy, relative_error
from regnet.bench.peers import PEERS, WRONG_BEYOND, Call, Peer, compiled, forget_compiled, one_line
from regnet.bench.profile import profile, seconds_by_op
from regnet.bench.shapes import OpShape, StepShape
from regnet.bench.timing import CALLS_AT_LEAST, CALLS_AT_MOST, block_size, summarize, timed_block

CONVOLUTIONS = ("stem", "1x1", "3x3")
ACTIVATIONS = {"relu": F.relu_, "silu": lambda x: F.silu(x, inplace=True), "none": lambda x: x}


class Conv(nn.Module):
    """Convolution with bias and activation; what `shape` says of gate, shortcut and pool around it."""

    def __init__(self, shape: OpShape, weight: Tensor, bias: Tensor, projection: Tensor | None = None):
        super().__init__()
        self.shape = shape
        groups = shape.c_in // (shape.group_width or shape.c_in)
        self.conv = _conv(weight, bias, shape.stride, groups)
        self.projection = None if projection is None else _conv(projection, None, shape.short_stride, 1)

    def forward(self, x: Tensor, gate: Tensor | None = None, shortcut: Tensor | None = None):
        y = self.conv(x if gate is None else x * gate)
        if shortcut is not None:
            y = y + (shortcut if self.projection is None else self.projection(shortcut))
        y = ACTIVATIONS[self.shape.activation](y)
        return (y, y.mean((2, 3))) if self.shape.pool else y


class Squeeze(nn.Module):
    """Means (N, M) -> gates (N, M, 1, 1)."""

    def __init__(self, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor):
        super().__init__()
        self.fc1, self.fc2 = _linear(w1, b1), _linear(w2, b2)

    def forward(self, means: Tensor) -> Tensor:
        return self.fc2(F.relu_(self.fc1(means))).sigmoid()[:, :, None, None]


class Head(nn.Module):
    """(N, C, H, W) -> (N, classes)."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.fc = _linear(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Step:
    """A step with random weights in `dtype`: packed for our kernels, and as one module an op, with the inputs that each has there."""

    def __init__(self, shape: StepShape, dtype: torch.dtype, seed: int = 0):
        self.shape, self.dtype = shape, dtype
        self._random = torch.Generator().manual_seed(seed)
        self.modules: dict[str, nn.Module] = {}
        step = {"stem": self._stem, "block": self._block, "head": self._head}[shape.kind]()
        self.packed: PackedNetwork = pack_network([step], dtype)
        for module in self.modules.values():
            module.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)
        x = torch.randn(shape.batch, shape.c_in, shape.side, shape.side, generator=self._random)
        self.x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        self.inputs: dict[str, tuple[Tensor, ...]] = {}

    @torch.inference_mode()
    def run_modules(self) -> Tensor:
        """The step's output from its ops one after the other; fills `inputs`."""
        shape, x = self.shape, self.x
        if shape.kind != "block":
            self.inputs = {shape.kind: (x,)}
            return self.modules[shape.kind](x)
        self.inputs["a"] = (x,)
        self.inputs["b"] = (self.modules["a"](x),)
        middle, gate = self.modules["b"](*self.inputs["b"]), None
        if shape.se_width:
            middle, means = middle
            self.inputs["se"] = (means,)
            gate = self.modules["se"](means)
        self.inputs["c"] = (middle, gate, x)
        return self.modules["c"](*self.inputs["c"])

    def _weight(self, *size: int) -> Tensor:
        """Of a variance that keeps the size of activations."""
        return torch.randn(*size, generator=self._random) * math.sqrt(2 / math.prod(size[1:]))

    def _bias(self, size: int) -> Tensor:
        return 0.1 * torch.randn(size, generator=self._random)

    def _stem(self) -> ConvStep:
        shape = self.shape
        weight, bias = self._weight(shape.c_out, shape.c_in, 3, 3), self._bias(shape.c_out)
        self.modules["stem"] = Conv(shape.ops["stem"], weight, bias)
        return ConvStep(weight, bias, shape.stride, 1, activation=shape.activation)

    def _head(self) -> HeadStep:
        weight, bias = self._weight(self.shape.c_out, self.shape.c_in), self._bias(self.shape.c_out)
        self.modules["head"] = Head(weight, bias)
        return HeadStep(weight, bias)

    def _block(self) -> BlockStep:
        shape = self.shape
        c, m, o, g, s = shape.c_in, shape.c_mid, shape.c_out, shape.group_width, shape.se_width
        a = (self._weight(m, c, 1, 1), self._bias(m))
        b = (self._weight(m, g, 3, 3), self._bias(m))
        c_pair = (self._weight(o, m, 1, 1), self._bias(o))
        projection = self._weight(o, c, 1, 1) if shape.projection else None
        se = (self._weight(s, m), self._bias(s), self._weight(m, s), self._bias(m)) if s else None
        self.modules = {"a": Conv(shape.ops["a"], *a), "b": Conv(shape.ops["b"], *b)}
        if se:
            self.modules["se"] = Squeeze(*se)
        self.modules["c"] = Conv(shape.ops["c"], *c_pair, projection)
        return BlockStep(a, b, c_pair, None if projection is None else (projection, None), se, shape.stride, g, shape.activation)


def _conv(weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> nn.Conv2d:
    out, per_group, kernel, _ = weight.shape
    made = nn.Conv2d(per_group * groups, out, kernel, stride, kernel // 2, groups=groups, bias=bias is not None)
    made.weight.data = weight.clone()
    if bias is not None:
        made.bias.data = bias.clone()
    return made


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight.data, made.bias.data = weight.clone(), bias.clone()
    return made


def _eager(module: nn.Module, inputs: Sequence) -> Call:
    return lambda: module(*inputs)


def _compiled(module: nn.Module, inputs: Sequence) -> Call:
    return compiled(module, *inputs)


def _onednn(module: nn.Module, inputs: Sequence) -> Call:
    """The ops to which Inductor lowers a frozen convolution, called without it: weights in oneDNN's own layout, activation and
    residual inside."""
    shape = module.shape
    x, gate, shortcut = (*inputs, None, None)[:3]
    attribute = {"relu": "relu", "silu": "swish", "none": "none"}[shape.activation]
    gated = x if gate is None else x * gate
    main = _prepacked(module.conv, gated)
    if shortcut is not None:
        side = None if module.projection is None else _prepacked(module.projection, shortcut)
        binary = torch.ops.mkldnn._convolution_pointwise.binary

        def call():
            other = shortcut if side is None else torch.ops.mkldnn._convolution_pointwise.default(shortcut, *side, "none", [], "")
            return binary(x if gate is None else x * gate, other, *main, "add", 1.0, attribute, [], "")
    else:
        conv = torch.ops.mkldnn._convolution_pointwise.default

        def call():
            y = conv(x if gate is None else x * gate, *main, attribute, [], "")
            return (y, y.mean((2, 3))) if shape.pool else y

    return call


def _prepacked(conv: nn.Conv2d, x: Tensor) -> tuple:
    """Weight, bias, padding, stride, dilation, groups of `_convolution_pointwise`."""
    window = (conv.padding, conv.stride, conv.dilation, conv.groups)
    weight = torch._C._nn.mkldnn_reorder_conv2d_weight(conv.weight.to_mkldnn(), *window, x.shape)
    return (weight, conv.bias, *window)


OP_PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        PEERS["ours"],
        Peer("channels_last", "eager channels_last", "channels\nlast", _eager),
        Peer("onednn", "oneDNN with packed weights", "oneDNN\npacked", _onednn),
        Peer("compile", "torch.compile, freezing", "compile\nfreezing", _compiled),
    )
}


def peers_of(op: OpShape, peers: Sequence[Peer]) -> list[Peer]:
    """Those that can run an op of its kind, ours aside."""
    return [peer for peer in peers if peer.name != "ours" and (peer.name != "onednn" or op.kind in CONVOLUTIONS)]


@torch.inference_mode()
def measure_step(
    shape: StepShape, wanted: dict[str, OpShape], peers: Sequence[Peer], dtype: torch.dtype, rounds: int, block_seconds: float,
    seed: int = 0,
) -> list[dict]:
    """Rows (without figures that follow from others) of the ops `wanted` of a step, for ours and each peer, in turn.

    A peer that fails or computes something else gets a row with no time and the reason as its note. Raises RuntimeError where our own
    output is wrong.
    """
    forget_compiled()
    step = Step(shape, dtype, seed)
    error = _our_error(step)
    calls, notes, errors = {}, {}, {}
    for name, op in wanted.items():
        expected = as_numpy(_first(step.modules[name](*step.inputs[name])))
        for peer in peers_of(op, peers):
            try:
                call = peer.prepare(step.modules[name], step.inputs[name])
                errors[name, peer.name] = off = relative_error(_first(call()), expected)
            except Exception as failure:
                notes[name, peer.name] = f"failed: {one_line(failure)}"
                continue
            if off > WRONG_BEYOND[dtype]:
                notes[name, peer.name] = f"wrong result: relative error {off:.1e} against eager"
            else:
                calls[name, peer.name] = call
    sizes = {key: block_size(call, block_seconds) for key, call in calls.items()}
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    ours: dict[str, list[float]] = {name: [] for name in wanted}
    algorithms, count = {}, _our_calls(step, block_seconds)
    for _ in range(rounds):
        for name, (seconds, algorithm) in seconds_by_op(shape, profile(step.packed, step.x, 1 + count)).items():
            if name in wanted:
                ours[name] += seconds[1:].tolist()
                algorithms[name] = algorithm
        for key, call in calls.items():
            samples[key] += timed_block(call, sizes[key])
    rows = []
    for name, op in wanted.items():
        common = op.columns() | {"gflop": 2e-9 * op.macs, "bytes": op.bytes(dtype.itemsize)}
        mine = asdict(summarize(ours[name])) | {"algorithm": algorithms[name], "rel_err": error}
        rows.append(common | {"peer": "ours", "note": ""} | mine)
        for peer in peers_of(op, peers):
            key = name, peer.name
            times = asdict(summarize(samples[key])) if key in calls else {"median_ms": None}
            rows.append(common | {"peer": peer.name, "rel_err": errors.get(key), "note": notes.get(key, "")} | times)
    return rows


def _our_error(step: Step) -> float:
    """Our step against its ops in PyTorch: this fills the inputs of the ops."""
    expected = as_numpy(step.run_modules())
    found = torch.ops.regnet_kernels.network(step.x, step.packed.weights, step.packed.params, step.packed.program)
    error = relative_error(found, expected)
    if error > WRONG_BEYOND[step.dtype]:
        raise RuntimeError(f"our kernels are off by {error:.1e} (relative) from PyTorch in {step.shape}: nothing to time")
    return error


def _our_calls(step: Step, block_seconds: float) -> int:
    seconds = sum(phase.seconds[1] for phase in profile(step.packed, step.x, 2))
    return min(CALLS_AT_MOST, max(CALLS_AT_LEAST, int(block_seconds / max(seconds, 1e-9))))


def _first(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def call_costs(peers: Sequence[Peer], dtype: torch.dtype, seconds: float = 0.1) -> dict[str, float]:
    """Milliseconds that a peer's call costs without its work: the median for a 1x1 of 8 channels and one pixel. Ours has none here,
    since its ops are timed inside a call. A peer that fails is left out."""
    shape = StepShape("block", 1, 1, 8, 8, 8, 8)
    forget_compiled()
    step = Step(shape, dtype)
    step.run_modules()
    found = {}
    for peer in peers_of(shape.ops["a"], peers):
        try:
            call = peer.prepare(step.modules["a"], step.inputs["a"])
            found[peer.name] = summarize(_many(call, seconds)).median_ms
        except Exception:  # its rows say why
            continue
    return found


def _many(call: Callable[[], object], seconds: float) -> list[float]:
    samples: list[float] = []
    while sum(samples) < seconds:
        samples += timed_block(call, 50)
    return samples

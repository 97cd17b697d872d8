"""The modules that run packed steps: FusedBlocks (one stretch of a network) and FusedRegNet (a whole one)."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import regnet_kernels
import torch
from regnet_kernels import quick
from regnet_kernels.packing import CONV
from regnet_kernels.steps import channels
from torch import Tensor, nn

from regnet.swap.layout import Packed, is_plain, pack, packed, panel_dtype
from regnet.swap.pixels import Pixels
from regnet.swap.refusal import SwapError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PIXEL_BUFFERS = ("pixel_mean", "pixel_scale")


class FusedBlocks(nn.Module):
    """A stretch of steps that runs as one op: `regnet_kernels::network` on the CPU, `network_plain` on a GPU.

    x: (N, C, H, W) of any floating dtype -> (N, C', H', W') channels_last, or (N, classes) if the last step is a head. The
    input is cast to `dtype`, in which the steps compute; the result is of `dtype`, or of the input's own dtype where
    `outer_dtype` is set (a stretch inside a network that goes on in PyTorch in that dtype).

    Where `pixels` is set and the first step is a stem, x may be uint8: the stem gets (x / 255 - mean) / std. On a GPU its
    kernel does that while it reads the image, in float32; elsewhere torch does it first. A floating x comes normalised.

    Buffers: `weights` (1-D) and `params` (1-D, float32 always), in a packed format of regnet_kernels, the CPU's or the GPU's
    (layout.py); with `pixels` also `pixel_mean`, `pixel_scale` (C,), which the state dict leaves out; attributes `program`
    (list of ints), `step_names` (the source module of each step), `dtype`, `backend`, `exact` (no Winograd). Casting the module
    (`.to(dtype)`, `.half()`, `.bfloat16()`) and moving it between CPU and GPU pack the weights anew. The state dict carries the
    program, so that loading blobs of another network fails and loading those of another dtype or packed for another device packs
    them anew.
    Weights are buffers: the input gets gradients, they do not.
    """

    def __init__(
        self, steps: list, step_names: Iterable[str], dtype: torch.dtype, backend: str | None, *, exact: bool = False,
        outer_dtype: torch.dtype | None = None, pixels: Pixels | None = None, release: Callable[[], None] | None = None,
    ):  # fmt: skip
        super().__init__()
        if pixels is not None:
            pixels.expect_channels(channels(steps[0])[0])
        self.step_names = list(step_names)
        self.backend = backend
        self.exact = exact
        self.outer_dtype = outer_dtype
        self.pixels = pixels
        self.register_buffer("weights", None)
        self.register_buffer("params", None)
        self._adopt(pack(steps, dtype, _device_of(steps), backend, exact, release), dtype)
        for name, values in zip(_PIXEL_BUFFERS, (None, None) if pixels is None else pixels.tensors(self.weights.device)):
            self.register_buffer(name, values, persistent=False)
        if backend is not None:  # say now, not at the first image, that it is unknown or cannot run
            probe = torch.empty((1, self.packed.c_in, 8, 8), dtype=dtype, device=self.weights.device)
            regnet_kernels.explain("network", probe, self.packed, backend=backend)
        self.eval()

    @property
    def packed(self) -> Packed:
        """The steps as a packed network that shares the buffers."""
        return packed(self.weights, self.params, self.program)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """One image through the CPU's kernels, so that the first call finds threads, code and weights where it needs them. A whole
        network's has the usual size, and brings in working memory, whose huge pages can take the system 10 ms."""
        if self._programs is not None:
            side = 224 if self.packed.specs[0].kind == CONV else 32
            self._run(torch.zeros((1, self.packed.c_in, side, side), dtype=self.dtype))

    def run_steps(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Steps start .. stop - 1 on x, in one op."""
        return self._run(x, start, stop)

    def forward(self, x: Tensor) -> Tensor:
        return self._answer(self._run(x), x.dtype)

    def _run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        blobs = self._buffers
        if self._programs is not None and x.dtype == self.dtype and quick.suits(x, blobs["weights"], blobs["params"]):
            program = self._programs.get((start, stop))
            if program is None:
                with torch.inference_mode(False):  # an ordinary tensor, which copies and pickles
                    program = self._programs[start, stop] = torch.tensor(self._program(start, stop))
            return quick.network(x, blobs["weights"], blobs["params"], program)
        return self._dispatch(x, self._program(start, stop), images=start == 0)

    def _program(self, start: int, stop: int | None) -> list[int]:
        return self.program if stop is None else _sub_program(self.program, start, stop)

    def _dispatch(self, x: Tensor, program: list[int], images: bool) -> Tensor:
        pixels = {}
        if images and x.dtype == torch.uint8 and self.pixels is not None:
            if is_plain(program):
                pixels = {"mean": self.pixel_mean, "scale": self.pixel_scale}
            else:  # contiguous: with the channels outside torch is fastest
                x = x.to(torch.float32, memory_format=torch.contiguous_format)
                x = x.sub_(self.pixel_mean[:, None, None]).mul_(self.pixel_scale[:, None, None])
        if not pixels:
            x = self._cast(x)
        if self.backend is None:
            op = torch.ops.regnet_kernels.network_plain if is_plain(program) else torch.ops.regnet_kernels.network
            return op(x, self.weights, self.params, program, **pixels)
        return regnet_kernels.network(x, packed(self.weights, self.params, program), backend=self.backend, **pixels)

    def _answer(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if self.outer_dtype is None:
            return y
        return y.to(dtype if dtype.is_floating_point else self.outer_dtype)

    def _cast(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            or_else = "; optimize(model, mean=..., std=...) makes a network that takes uint8" if self.pixels is None else ", or uint8 images"
            raise SwapError(f"the input is {x.dtype}; expected floating images, normalised as in training (x.float() / 255, ...){or_else}")
        return x.to(self.dtype)

    def _adopt(self, network: Packed, dtype: torch.dtype) -> None:
        """Take over blobs and program; `dtype` is what the steps compute in."""
        self.weights, self.params = network.weights.detach(), network.params.detach()
        self.program, self.dtype = network.program, dtype
        # (start, stop): the program of these steps as a tensor, for calls that need neither dispatch nor a gradient
        self._programs = {} if self.backend is None and quick.available and self.weights.is_cpu and not is_plain(self.program) else None

    def _apply(self, fn, recurse=True):
        # nn.Module would cast both buffers; params stay float32 and the layout of weights depends on the dtype.
        wanted = fn(torch.empty(0, dtype=self.dtype, device=self.weights.device)).dtype
        if wanted not in DTYPES:
            raise SwapError(f"a fused network cannot be cast to {wanted}; expected one of {', '.join(map(str, DTYPES))}")
        before = self.weights.device.type
        moved = packed(*(_move(fn, blob) for blob in (self.weights, self.params)), self.program)
        crossed = before != moved.weights.device.type and "cuda" in (before, moved.weights.device.type)
        if crossed or moved.dtype != (wanted if is_plain(self.program) else panel_dtype(wanted)):
            moved = pack(moved.unpack(), wanted, moved.weights.device, self.backend, self.exact)
        self._adopt(moved, wanted)
        if self.outer_dtype is not None:
            self.outer_dtype = fn(torch.empty(0, dtype=self.outer_dtype, device=self.weights.device)).dtype
        if self.pixels is not None:
            self.pixel_mean, self.pixel_scale = (_move(fn, blob) for blob in (self.pixel_mean, self.pixel_scale))
        for child in self.children():
            child._apply(fn)
        return self

    def get_extra_state(self) -> Tensor:
        """The program as an int64 tensor: how the blobs of a state dict are to be read."""
        return torch.tensor(self.program, dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: `_load_from_state_dict` has compared the program before it took the blobs."""

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        names = [prefix + name for name in ("weights", "params", "_extra_state")]
        if all(name in state_dict for name in names):
            weights, params, program = (state_dict[name] for name in names)
            try:
                given = packed(weights, params, program.tolist())
                _expect_same_steps(given, self.packed)
            except ValueError as error:
                error_msgs.append(f"{prefix or 'the fused network'}: {error}")
                return
            if (given.dtype, given.program) != (self.weights.dtype, self.program):
                given = pack(given.unpack(), self.dtype, self.weights.device, self.backend, self.exact)
            state_dict = {**state_dict, names[0]: given.weights, names[1]: given.params}
        elif names[0] in state_dict or names[1] in state_dict:
            error_msgs.append(f"{prefix or 'the fused network'}: weights, params and _extra_state (the program) belong together")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def extra_repr(self) -> str:
        first, last, count = self.step_names[0] or "block", self.step_names[-1], len(self.step_names)
        what = f"{first} .. {last}: {count} steps" if count > 1 else f"{first}: 1 step"
        pixels = "" if self.pixels is None else f", uint8 images by mean={self.pixels.mean}, std={self.pixels.std}"
        return f"{what}, {str(self.dtype).removeprefix('torch.')}, backend={self.backend or 'auto'}{pixels}"


class FusedRegNet(FusedBlocks):
    """A whole RegNet as one op: images (N, in_chans, H, W), floating or, with `pixels`, uint8 -> what the source model returned.

    A classifier gives logits (N, num_classes), or (N, num_features) without classes. A feature extractor gives the same
    list or dict of feature maps as its source, one op for each stretch between two maps. A head that no
    kernel runs (`tail`: max pooling, a classifier of the user's) follows in PyTorch.
    Attributes that other code reads from a model (`num_classes`, `num_features`, `feature_info`, `pretrained_cfg`, ...) are
    taken over. `.report` tells what was swapped.
    """

    def __init__(self, steps, step_names, dtype, backend, *, output="tensor", taps=(), trunk_steps=0, tail=None, **options):
        super().__init__(steps, step_names, dtype, backend, **options)
        self.output, self.taps, self.trunk_steps = output, list(taps), trunk_steps
        self.tail = tail if tail is None else tail.to(dtype)

    def forward(self, x: Tensor):
        if self.output != "tensor":
            return self._features(x)
        y = self._run(x)
        return self._answer(y if self.tail is None else self.tail(y), x.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map (N, C, H', W') of a classifier."""
        self._expect_classifier("forward_features")
        return self.run_steps(x, 0, self.trunk_steps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the last feature map to logits, or to the pooled features (N, C) for pre_logits=True."""
        self._expect_classifier("forward_head")
        x = self._cast(x)
        if len(self.step_names) > self.trunk_steps:
            if pre_logits:
                return x.mean((2, 3), dtype=torch.float32).to(self.dtype)
            x = self.run_steps(x, self.trunk_steps, len(self.step_names))
        elif pre_logits and self.tail is not None:
            return self.tail(x, pre_logits=True)
        return x if self.tail is None else self.tail(x)

    def _features(self, x: Tensor):
        at, dtype, features = 0, x.dtype, OrderedDict()
        for name, stop in self.taps:
            x, at = self.run_steps(x, at, stop), stop
            features[name] = self._answer(x, dtype)
        return list(features.values()) if self.output == "list" else features

    def _expect_classifier(self, what: str) -> None:
        if self.output != "tensor":
            raise SwapError(f"{what}: this network returns feature maps and has no head; call it to get them")


def _sub_program(program: list[int], start: int, stop: int) -> list[int]:
    """Steps start .. stop - 1 of a program (its offsets are absolute)."""
    header, size = 2, (len(program) - 2) // program[1]
    return [program[0], stop - start, *program[header + start * size : header + stop * size]]


def _device_of(steps: list) -> torch.device:
    """Where the steps' tensors are."""
    step = steps[0]
    return (step.a[0] if isinstance(step, regnet_kernels.BlockStep) else step.weight).device


def _move(fn, blob: Tensor) -> Tensor:
    """What `fn` does to a tensor, short of a cast."""
    moved = fn(blob)
    return moved if moved.dtype == blob.dtype else blob.to(moved.device)


def _expect_same_steps(given: Packed, own: Packed) -> None:
    if len(given) != len(own):
        raise ValueError(f"the state dict holds {len(given)} steps, this network {len(own)}; load the state of the same model")
    for index, pair in enumerate(zip(given.specs, own.specs)):
        # where the sections lie, and whether there is a Winograd form or sums for pairs, is not what the network computes
        a, b = ({k: v for k, v in spec._asdict().items() if k not in ("winograd", "pairs") and not k.endswith("_offset")} for spec in pair)
        wrong = next((key for key in b if key in a and a[key] != b[key]), "")
        if wrong:
            values = f"{wrong} {a[wrong]}, this network's has {b[wrong]}"
            raise ValueError(f"step {index} of the state dict has {values}; load the state of the same model")

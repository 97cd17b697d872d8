"""network: a stretch of a RegNet (stem, blocks, head) in one call, from packed weights; bottleneck: blocks alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import dispatch, quick
from ..activation import activation_code
from ..packing import BLOCK, CONV, HEAD, PackedNetwork, program_specs, unpack_network
from ..plain import PlainNetwork, is_plain
from ..problem import Problem
from ..steps import BlockStep, ConvStep, Step
from . import conv_bn_act as conv
from . import squeeze_excite as se
from .check import check_dtype, check_same_device, check_tensor
from .library import accumulator_dtype, as_channels_last, autocast_enabled, call, define, lower, without_autocast


def network(x: torch.Tensor, packed: PackedNetwork | PlainNetwork, *, backend: str | None = None,
            mean: torch.Tensor | None = None, scale: torch.Tensor | None = None, layers: str = "") -> torch.Tensor:
    """Run the packed steps on x.

    x: (N, C, H, W), any strides, any N, H and W; float32 or float16 for weights packed in float32 (float16 is computed
    as float32), bfloat16 for weights packed in bfloat16. packed: from `pack_network`, on the device of x; or, for GPUs, from
    `pack_plain`, and then x has the dtype of the weights.
    backend: None lets the dispatch pick; "eager", "cpu", "gpu" or "triton" forces one.
    layers: on a GPU, a text such as "grouped=cuda,gate=triton" or "cudnn" that forces the backend of layers by their kind; without
    it the variable REGNET_KERNELS_LAYERS says, else each layer's is chosen (`explain` shows it).
    mean, scale: (C,) float32 each, on the device of x: then x is uint8 and the first step, a convolution, gets (x - mean) * scale;
    on a GPU that is done while the image is read, elsewhere in torch before the kernels.
    Returns (N, C', H', W'), channels_last, or (N, classes) when the last step is a head; dtype of x (under autocast, and for uint8,
    the dtype that was packed for). Differentiable once, with respect to x and the blobs. Raises ValueError or TypeError on
    arguments that do not fit, BackendError when a forced backend cannot run them.
    """
    return _run("network", x, packed, backend, layers, mean, scale)


def bottleneck(x: torch.Tensor, packed: PackedNetwork | PlainNetwork, *, backend: str | None = None, layers: str = "") -> torch.Tensor:
    """Run one or more packed bottleneck blocks (1x1, grouped 3x3, squeeze-excite, 1x1, shortcut) on x.

    As `network`, for a packed network made of block steps only (ValueError otherwise). Returns (N, C', H', W').
    """
    return _run("bottleneck", x, packed, backend, layers)


def reference(x, weights, params, program):
    """The op in plain torch: unpacks the weights and runs the steps one after the other."""
    check(x, weights, params, program)
    y = x.float() if x.dtype == torch.float16 else x
    for step in unpack_network(weights, params, program):
        y = run_step(y, step)
    y = as_channels_last(y) if y.dim() == 4 else y.contiguous()
    return y.to(x.dtype)


def run_step(x: torch.Tensor, step: Step) -> torch.Tensor:
    """One step in plain torch: in the dtype of x, but convolution steps and the squeeze in float32."""
    if isinstance(step, ConvStep):
        wide = x.to(step.weight.dtype)
        return _conv(wide, (step.weight, step.bias), step.activation, step.stride, step.padding, step.groups).to(x.dtype)
    if isinstance(step, BlockStep):
        t = _conv(x, step.a, step.activation)
        t = _conv(t, step.b, step.activation, step.stride, 1, t.shape[1] // step.group_width)
        if step.se is not None:
            t = se.reference(t, *step.se)
        shortcut = x if step.proj is None else _conv(x, step.proj, "none", step.stride)
        return _conv(t, step.c, step.activation, residual=shortcut)
    mean = x.mean((2, 3), dtype=accumulator_dtype(x.dtype)).to(x.dtype)
    return mean if step.weight is None else F.linear(mean, step.weight, step.bias.to(x.dtype))


def check(x, weights, params, program) -> tuple[int, ...]:
    """Raises on arguments that do not fit; returns the shape of the output."""
    check_tensor("x", x, 4, "(N, C, H, W)")
    check_dtype("x", x)
    wanted = {torch.float16: torch.float32}.get(x.dtype, x.dtype)
    if weights.dtype != wanted or params.dtype != accumulator_dtype(weights.dtype):
        raise TypeError(f"x is {x.dtype}, weights is {weights.dtype}, params is {params.dtype}; expected weights {wanted} "
                        f"and params {accumulator_dtype(wanted)}: cast x, or pack with dtype={wanted}")
    check_same_device(x=x, weights=weights, params=params)
    return output_shape(x, program_specs(program))


def check_pixels(x, mean, scale, starts_with_conv: bool) -> None:
    """Raises unless x is uint8 with a mean and a scale for each channel, and a convolution comes first."""
    if mean is None or scale is None:
        raise ValueError("one of mean and scale is given; uint8 images need both")
    if x.dtype != torch.uint8:
        raise TypeError(f"x is {x.dtype}; mean and scale normalise uint8 images, floating ones come normalised")
    for name, values in (("mean", mean), ("scale", scale)):
        check_tensor(name, values, 1, "(C,)", (x.shape[1],), torch.float32)
    if not starts_with_conv:
        raise ValueError("mean and scale are for images, which a convolution reads; the first step is a block or a head")


def normalised(x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(x - mean) * scale in float32, contiguous: with the channels outside, whatever strides x has, torch is fastest."""
    wide = x.to(torch.float32, memory_format=torch.contiguous_format)
    return wide.sub_(mean[:, None, None]).mul_(scale[:, None, None])


def output_shape(x: torch.Tensor, specs) -> tuple[int, ...]:
    """Of the steps on x; raises ValueError where channels do not fit or a map would be empty."""
    n, c, h, w = x.shape
    for index, spec in enumerate(specs):
        if c != spec.c_in:
            got = f"x has {c} channels" if index == 0 else f"the step before gives {c} channels"
            raise ValueError(f"{got}, but step {index} takes {spec.c_in}")
        if spec.kind == HEAD:
            return (n, spec.c_out or spec.c_in)
        c, h, w = spec.c_out, _side(h, spec), _side(w, spec)
        if h < 1 or w < 1:
            raise ValueError(f"the map {tuple(x.shape[2:])} is too small: step {index} would put out {h}x{w} pixels")
    return (n, c, h, w)


def _side(size: int, spec) -> int:
    return (size + 2 * spec.padding - spec.kernel) // spec.stride + 1


def _conv(x, pair, activation="none", stride=1, padding=0, groups=1, residual=None):
    weight, bias = pair
    return conv.reference(x, weight, bias, residual, None, stride, padding, groups, activation_code(activation), False)[0]


def _fake(x, weights, params, program):
    return empty_output(x, check(x, weights, params, program))


def empty_output(x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
    """A map (channels_last) or a matrix of x's device, and of `dtype` or x's own."""
    form = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=form)


def autocast(dtype, x, weights, params, program, *pixels):
    """x in the dtype that the weights were packed for, whatever dtype autocast asks for; uint8 images as they are."""
    return lower(x, weights.dtype), weights, params, program, *pixels


def _run(op, x, packed, backend, layers, mean=None, scale=None):
    args = _arguments(op, x, packed, mean, scale)
    plain = is_plain(args[3])
    if x.is_cpu and not torch.compiler.is_compiling():
        quick.load_tuning()
    chosen = dispatch.choose(_problem(op, *args, layers=layers), backend)
    if layers and chosen != "gpu":
        raise ValueError(f"layers={layers!r} is for networks that run layer by layer on a GPU; this one runs on {chosen}")
    if chosen == "eager":
        with without_autocast(x):
            return (network_plain.reference if plain else reference)(*args)
    return call("network_plain" if plain else "network", backend)(*args, **({"layers": layers} if layers else {}))


def _arguments(op, x, packed, mean=None, scale=None):
    if not isinstance(packed, (PackedNetwork, PlainNetwork)):
        raise TypeError(f"packed is a {type(packed).__name__}; expected what pack_network returns")
    if op == "bottleneck" and any(spec.kind != BLOCK for spec in packed.specs):
        kinds = {CONV: "conv", BLOCK: "block", HEAD: "head"}
        raise ValueError(f"bottleneck takes block steps only, got {[kinds[spec.kind] for spec in packed.specs]}; "
                         "use network(), or packed.slice(i, j)")
    plain, pixels = is_plain(packed.program), ()
    if mean is not None or scale is not None:
        check_tensor("x", x, 4, "(N, C, H, W)")
        check_pixels(x, mean, scale, starts_with_conv=packed.specs[0].kind == CONV)
        check_same_device(x=x, mean=mean, scale=scale)
        x, pixels = (x, (mean, scale)) if plain else (normalised(x, mean, scale).to(packed.dtype), ())
    args = (x, packed.weights, packed.params, packed.program, *pixels)
    if isinstance(x, torch.Tensor) and autocast_enabled(x):
        args = autocast(None, *args)
    (network_plain.check if plain else check)(*args)
    return args


def _problem(op, x, weights, params, program, *pixels, layers="") -> Problem:
    dtype, plain = weights.dtype if pixels else x.dtype, is_plain(program)
    return Problem(op, x.device, dtype, weights.dtype, x.shape[1], layout="plain" if plain else "panels", layers=layers,
                   specs=network_plain.program_specs(program) if plain else (), sizes=(x.shape[0], *x.shape[2:]))


@dispatch.describes("network")
def _describe(x, packed, *, mean=None, scale=None, layers="") -> Problem:
    return _problem("network", *_arguments("network", x, packed, mean, scale), layers=layers)


@dispatch.describes("bottleneck")
def _describe_bottleneck(x, packed, *, layers="") -> Problem:
    return _problem("bottleneck", *_arguments("bottleneck", x, packed), layers=layers)


from . import network_plain  # noqa: E402  (it needs run_step of this file)

define("network", "(Tensor x, Tensor weights, Tensor params, int[] program) -> Tensor", reference, _fake, autocast)

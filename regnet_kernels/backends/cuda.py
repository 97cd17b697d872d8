"""The CUDA backend: which problems its kernels can run, and why not the others; the op they register for; the packing.

Today: the grouped 3x3 convolution with folded BatchNorm, activation and the sums for a squeeze (csrc/cuda/gconv3x3.cuh), and the
squeeze-excite's gate (csrc/cuda/se_gate.cuh). The module imports without CUDA and without `_cuda.so`: then `why_not` says what
is missing.
"""

from __future__ import annotations

from functools import cache

import torch

from .._extension import CUDA
from ..problem import Problem
from . import hopper
from .triton.shapes import GateShape, GroupedShape, Shape

NAME = "cuda"
OP = "regnet_kernels::_gconv3x3_cuda"
WGMMA_OP = "regnet_kernels::_gconv3x3_wgmma"
GATE_OP = "regnet_kernels::_se_gate_cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST_CAPABILITY = (8, 0)  # cp.async, mma on bfloat16
MOST_GATE_NUMBERS = 48 * 1024 // 4 - 6  # means and hidden units of an image: gate_fits in se_gate_plan.h
INT_MAX = 2**31 - 1
_LAYERS_ONLY = " of its own (layers='grouped=cuda,gate=cuda' forces those of its layers)"

_library = torch.library.Library("regnet_kernels", "FRAGMENT")
_library.define("_gconv3x3_cuda(Tensor x, Tensor weight, Tensor bias, int stride, int activation, bool pool) -> (Tensor, Tensor)",
                tags=(torch.Tag.pt2_compliant_tag,))
_library.define("_gconv3x3_wgmma(Tensor x, Tensor weight, Tensor bias, int stride, int activation, bool pool, int height, int width, "
                "int together, int groups, int stages) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,))
_library.define("_se_gate_cuda(Tensor sums, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int count, bool transposed) -> Tensor",
                tags=(torch.Tag.pt2_compliant_tag,))


def why_not(problem: Problem) -> str:
    """Why the CUDA kernels can't run `problem`, as one line; "" if they can. What the problem lacks comes before what the
    machine lacks."""
    return why_not_anywhere(problem) or why_not_here(problem.device)


def why_not_anywhere(problem: Problem) -> str:
    """The part of `why_not` that does not depend on the machine."""
    if problem.device.type != "cuda":
        return f"the tensors are on {problem.device}, these kernels run on CUDA devices"
    if problem.op == "se_gate":
        return _why_not_gate(problem)
    if problem.op != "conv_bn_act":
        layers = _LAYERS_ONLY if problem.layout else ""
        return f"{problem.op} has no CUDA kernel{layers}; se_gate has one, and conv_bn_act for the grouped 3x3"
    if problem.dtype not in DTYPES:
        return f"x is {problem.dtype}; the kernel computes float32, float16 and bfloat16"
    if tuple(problem.kernel) != (3, 3) or problem.padding != 1 or problem.stride not in (1, 2):
        return (f"the kernel is {problem.kernel[0]}x{problem.kernel[1]} with stride={problem.stride}, padding={problem.padding}; "
                "it must be 3x3 with stride 1 or 2, padding 1")
    if problem.c_in != problem.c_out:
        return f"there are {problem.c_in} inputs and {problem.c_out} outputs; the kernel needs as many outputs as inputs"
    width = problem.c_in // problem.groups
    if width == 0 or width % 8:
        return f"the group width is {width}; the kernel needs a multiple of 8"
    for name in ("residual", "gate"):
        if getattr(problem, name):
            return f"a {name} is not fused into the CUDA kernel yet"
    if problem.pool and problem.dtype == torch.float32:
        return "the sums of a pool come from the 16-bit kernels only, x is torch.float32"
    return ""


def _why_not_gate(problem: Problem) -> str:
    if problem.dtype != torch.float32:
        return f"sums is {problem.dtype}; the kernel computes float32"
    return _why_not_sizes(problem.c_in, problem.squeeze)


def _why_not_sizes(channels: int, squeeze: int) -> str:
    fits = channels + squeeze <= MOST_GATE_NUMBERS
    return "" if fits else f"{channels} channels and {squeeze} hidden units do not fit into shared memory; at most {MOST_GATE_NUMBERS} do"


def why_not_layer(shape: Shape, dtype: torch.dtype) -> str:
    """Why no CUDA kernel runs a layer of a network, whose weights are of `dtype`, whatever the machine; "" if one does."""
    if isinstance(shape, GateShape):
        wrong = "" if dtype in DTYPES else f"the weights are {dtype}; the kernel reads float32, float16 and bfloat16"
        return wrong or _why_not_sizes(shape.channels, shape.squeeze)
    if not isinstance(shape, GroupedShape):
        return "CUDA C++ has kernels for the grouped 3x3 and the gate"
    if shape.rows * shape.stride**2 > INT_MAX:
        return f"x has more than {INT_MAX} pixels"
    channels, groups = shape.channels, shape.channels // shape.group_width
    return why_not_anywhere(Problem("conv_bn_act", torch.device("cuda"), dtype, None, channels, channels, (3, 3), shape.stride, 1, groups,
                                    pool=bool(shape.pool)))


def why_not_here(device: torch.device | None = None) -> str:
    """Why this build and this machine can't run the CUDA kernels on `device`; "" if they can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA; install a build with CUDA"
    if torch.version.hip:
        return f"torch {torch.__version__} is built for AMD's cards; these kernels are for NVIDIA's"
    if not CUDA.loaded:
        return f"{CUDA.state}: {CUDA.reason}"
    if not torch.cuda.is_available():
        return "torch finds no usable CUDA device; see nvidia-smi and CUDA_VISIBLE_DEVICES"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"{device} has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
    return ""


def conv_bn_act(x, weight, bias, residual, gate, stride, padding, groups, activation, pool):
    """The op regnet_kernels::conv_bn_act on CUDA, its arguments as in the schema; only for what `why_not` lets through.

    Returns (y, sums), sums (N, C) float32, or of shape (0,) without `pool`. A weight in channels_last memory is read as it is.
    """
    if bias is None:
        bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=x.device)
    y, sums = _grouped(x, _aligned(weight.permute(0, 2, 3, 1)), _aligned(bias), stride, activation, pool)
    return y, sums.sum(1) if pool else sums


def se_gate(sums, w1, b1, w2, b2, count):
    """The op regnet_kernels::se_gate: `gate` of sums (N, C) and w2 (C, S), all float32."""
    return gate(sums[:, None].contiguous(), _aligned(w1), b1.contiguous(), _aligned(w2), _aligned(b2), count)


def grouped(x, w, bias, *, stride=1, activation=0, pool=False):
    """A layer of a network; arguments and results as of backends/triton/grouped.py."""
    y, sums = _grouped(x, w, bias, stride, activation, pool)
    return y, sums if pool else None


def _grouped(x, w, bias, stride, activation, pool):
    """`gconv3x3`, or `wgmma` where it runs."""
    tile = _hopper_tile(x, w.shape[3], stride, pool)
    if tile is None:
        return gconv3x3(x, w, bias, stride, activation, pool)
    return wgmma(x, w, bias, stride, activation, pool, tile)


def _hopper_tile(x: torch.Tensor, group_width: int, stride: int, pool: bool) -> hopper.Tile | None:
    """How the kernel for Hopper cuts a layer; None where it does not run it, or not here."""
    if x.device.type != "cuda" or x.dtype == torch.float32 or x.numel() == 0:
        return None
    capability, multiprocessors = _card(x.device)
    if capability != hopper.CAPABILITY:
        return None
    n, c, height, width = x.shape
    return hopper.tile(n, (height - 1) // stride + 1, (width - 1) // stride + 1, c, group_width, stride, pool, multiprocessors)


@cache
def _card(device: torch.device) -> tuple[tuple[int, int], int]:
    return torch.cuda.get_device_capability(device), torch.cuda.get_device_properties(device).multi_processor_count


def wgmma(x, weight, bias, stride, activation, pool, tile):
    """As `gconv3x3`, by the kernel for compute capability 9.0, float16 and bfloat16 only. tile: a hopper.Tile; sums has as many tiles as
    cover a map."""
    return torch.ops.regnet_kernels._gconv3x3_wgmma(x, weight, bias, stride, activation, pool, *tile)


def gate(sums, w1, b1, w2, b2, count, *, transposed=False):
    """sigmoid(w2 relu(w1 (sum over tiles of sums / count) + b1) + b2) -> (N, C) of the dtype of w1, in one launch.

    sums: (N, tiles, C) float32, of either backend's grouped convolution; w1: (S, C); w2: (C, S), or (S, C) if `transposed`, of the
    dtype of w1, float32, float16 or bfloat16; b1: (S,), b2: (C,) float32; all contiguous on CUDA, w1, w2 and b2 16-byte aligned.
    Computes in float32. The same input gives the same bits on every run. Raises RuntimeError where C + S exceeds some 12,000.
    """
    return torch.ops.regnet_kernels._se_gate_cuda(sums, w1, b1, w2, b2, count, transposed)


def gconv3x3(x, weight, bias, stride, activation, pool=False):
    """activation(3x3 convolution of x with padding 1, + bias), one kernel.

    x: (N, C, H, W) float32, float16 or bfloat16 on CUDA, channels_last preferred (else copied); weight: (C, 3, 3, group_width), of the
    same dtype; bias: (C,) float32, both contiguous and 16-byte aligned; stride 1 or 2; activation 0 none, 1 relu, 2 silu. Returns
    y (N, C, Ho, Wo), channels_last, and sums: with pool those of y, not yet rounded, of each of `tiles(...)` tiles, (N, tiles, C)
    float32, else of shape (0,). Raises RuntimeError on arguments that do not fit, on float32 with pool, and on maps of 2^31 pixels
    or more.
    """
    return torch.ops.regnet_kernels._gconv3x3_cuda(x, weight, bias, stride, activation, pool)


def tiles(images: int, height: int, width: int, stride: int) -> int:
    """How many tiles an image is cut into where their sums are wanted (plan_pixels in gconv3x3_plan.h; constants as there)."""
    if images == 0:
        return 0
    block, most_halo, most_images = 128, 576, 2
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    best = None
    for tile_width in range(1, min(out_width, block) + 1):
        halo_width = (tile_width - 1) * stride + 3
        if most_halo // halo_width < 3:
            break
        tile_height = min(out_height, block // tile_width, (most_halo // halo_width - 3) // stride + 1)
        tile_height = -(-out_height // -(-out_height // tile_height))
        halo, together = halo_width * ((tile_height - 1) * stride + 3), 1
        if (tile_height, tile_width) == (out_height, out_width):
            together = min(images, block // (tile_width * tile_height), most_halo // halo, most_images)
        count = -(-out_height // tile_height) * -(-out_width // tile_width)
        work = count * -(-images // together) * (block + together * halo)
        if best is None or work < best[0]:
            best = work, count
    return best[1]


@torch.library.register_fake(OP, lib=_library)
def _fake(x, weight, bias, stride, activation, pool):
    images, channels, height, width = x.shape
    torch._check(weight.dtype == x.dtype, lambda: f"weight must have the dtype of x ({x.dtype}), got {weight.dtype}")
    fits = weight.dim() == 4 and tuple(weight.shape[:3]) == (channels, 3, 3)
    torch._check(fits, lambda: f"weight must be ({channels}, 3, 3, group_width), got {tuple(weight.shape)}")
    shape = (images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
    sums = (images, tiles(images, height, width, stride), channels) if pool else (0,)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, torch.empty(sums, dtype=torch.float32, device=x.device)


@torch.library.register_fake(WGMMA_OP, lib=_library)
def _wgmma_fake(x, weight, bias, stride, activation, pool, height, width, together, groups, stages):
    images, channels = x.shape[:2]
    down, across = (x.shape[2] - 1) // stride + 1, (x.shape[3] - 1) // stride + 1
    sums = (images, -(-down // height) * -(-across // width), channels) if pool else (0,)
    y = torch.empty((images, channels, down, across), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, torch.empty(sums, dtype=torch.float32, device=x.device)


@torch.library.register_fake(GATE_OP, lib=_library)
def _gate_fake(sums, w1, b1, w2, b2, count, transposed):
    return torch.empty((sums.shape[0], sums.shape[2]), dtype=w1.dtype, device=sums.device)


def _aligned(tensor):
    """`tensor`, contiguous and 16-byte aligned; a copy only where it must be."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _without_backward(op, instead):
    def backward(ctx, *grads):
        raise RuntimeError(f"{op} has no backward; differentiate {instead} instead")

    torch.library.register_autograd(op, backward, lib=_library)


_without_backward(OP, "regnet_kernels::conv_bn_act")
_without_backward(WGMMA_OP, "regnet_kernels::conv_bn_act")
_without_backward(GATE_OP, "regnet_kernels::se_gate")

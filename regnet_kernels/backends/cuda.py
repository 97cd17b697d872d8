"""The CUDA backend: which problems its kernels can run, and why not the others; the op they register for; the packing.

Today: the grouped 3x3 convolution with folded BatchNorm, activation and the sums for a squeeze (csrc/cuda/gconv3x3.cuh), and the
squeeze-excite's gate (csrc/cuda/se_gate.cuh). The module imports without CUDA and without `_cuda.so`: then `why_not` says what
is missing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._extension import CUDA
from ..problem import Problem

NAME = "cuda"
OP = "regnet_kernels::_gconv3x3_cuda"
GATE_OP = "regnet_kernels::_se_gate_cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST_CAPABILITY = (8, 0)  # cp.async, mma on bfloat16
MAX_GATE_CHANNELS = 8192  # leaves a third of the shared memory that se_gate.cuh takes to the hidden layer

_library = torch.library.Library("regnet_kernels", "FRAGMENT")
_library.define("_gconv3x3_cuda(Tensor x, Tensor weight, Tensor bias, int stride, int activation, bool pool) -> (Tensor, Tensor)",
                tags=(torch.Tag.pt2_compliant_tag,))
_library.define("_se_gate_cuda(Tensor sums, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int count) -> Tensor",
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
        return f"{problem.op} has no CUDA kernel yet; se_gate has one, and conv_bn_act for the grouped 3x3"
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
    if problem.c_in > MAX_GATE_CHANNELS:
        return f"there are {problem.c_in} channels; the kernel takes at most {MAX_GATE_CHANNELS}"
    return ""


def why_not_here(device: torch.device | None = None) -> str:
    """Why this build and this machine can't run the CUDA kernels on `device`; "" if they can."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA; install a build with CUDA"
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

    Returns (y, sums), sums (N, C) float32, or of shape (0,) without `pool`. Packs the weight in each call; who calls often keeps
    `pack(weight)` and calls `gconv3x3`.
    """
    if bias is None:
        bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=x.device)
    y, sums = gconv3x3(x, pack(weight), bias.contiguous(), stride, activation, pool)
    return y, sums.sum(1) if pool else sums


def se_gate(sums, w1, b1, w2, b2, count):
    """The squeeze-excite's gate in one launch: sigmoid(w2 relu(w1 (sum over tiles of sums / count) + b1) + b2) -> (N, C) float32.

    sums: (N, C), or (N, tiles, C) as `gconv3x3` gives it; w1 (S, C), b1 (S,), w2 (C, S), b2 (C,); all float32 on CUDA. The same
    input gives the same bits on every run. Raises RuntimeError where C + S exceeds some 12,000.
    """
    sums = sums if sums.dim() == 3 else sums[:, None]
    w1, w2 = (w if w.data_ptr() % 16 == 0 else w.clone() for w in (w1.contiguous(), w2.contiguous()))
    return torch.ops.regnet_kernels._se_gate_cuda(sums.contiguous(), w1, b1.contiguous(), w2, b2.contiguous(), count)


def gconv3x3(x, packed, bias, stride, activation, pool=False):
    """activation(3x3 convolution of x with padding 1, + bias), one kernel.

    x: (N, C, H, W) float32, float16 or bfloat16 on CUDA, channels_last preferred (else copied); packed: `pack(weight)`, of the
    same dtype; bias: (C,) float32; stride 1 or 2; activation 0 none, 1 relu, 2 silu. Returns y (N, C, Ho, Wo), channels_last, and
    sums: with pool those of y, not yet rounded, of each of `tiles(...)` tiles, (N, tiles, C) float32, else of shape (0,).
    Raises RuntimeError on arguments that do not fit, on float32 with pool, and on maps of 2^31 pixels or more.
    """
    return torch.ops.regnet_kernels._gconv3x3_cuda(x, packed, bias, stride, activation, pool)


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


def pack(weight):
    """The kernel's order of a grouped 3x3 weight: (C, group_width, 3, 3) -> (groups, elements of a group), same dtype.

    float32: (9 taps, inputs, outputs). 16 bits: for each part (up to 64 outputs), for each chunk of 16 inputs and each tap, then,
    if the number of 8-channel units is odd, for the last 8 inputs and each pair of taps (the tenth is zero): blocks of
    16 x 8 numbers in the order in which the 32 lanes of mma.m16n8k16 hold them (PTX manual), one for each 8 outputs.
    """
    channels, width = weight.shape[:2]
    if tuple(weight.shape[2:]) != (3, 3) or width % 8 or channels % width:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; expected (C, group_width, 3, 3), group_width a multiple of 8 that divides C"
        )
    groups = channels // width
    taps = weight.reshape(groups, width, width, 9)  # group, output, input, tap
    if weight.dtype == torch.float32:
        return taps.permute(0, 3, 2, 1).reshape(groups, -1)
    parts, tiles = parts_and_tiles(width)
    taps = F.pad(taps, (0, 0, 0, 0, 0, parts * tiles * 8 - width))
    # group, part, tile, column of the tile, input, tap
    taps = _interleave(taps.unflatten(1, (parts, tiles * 8)), tiles).unflatten(2, (tiles, 8))
    whole = width // 16 * 16
    # Inputs of a chunk: half h of the 16, then lane % 4, then one of two neighbours.
    pieces = []
    if whole:  # g p j c (k h t e) tap -> g p k tap j c t h e
        chunk16 = taps[:, :, :, :, :whole].unflatten(4, (-1, 2, 4, 2))
        pieces.append(chunk16.permute(0, 1, 4, 8, 2, 3, 6, 5, 7).flatten(2))
    if width % 16:  # g p j c (t e) (s h) -> g p s j c t h e
        chunk8 = F.pad(taps[:, :, :, :, whole:], (0, 1)).unflatten(5, (5, 2)).unflatten(4, (4, 2))
        pieces.append(chunk8.permute(0, 1, 6, 2, 3, 4, 7, 5).flatten(2))
    return torch.cat(pieces, dim=2).reshape(groups, -1)


def parts_and_tiles(group_width):
    """A group's outputs are computed by `parts` blocks of `tiles` * 8 channels, tiles <= 8 (plan_channels in gconv3x3_plan.h)."""
    units = group_width // 8
    parts = -(-units // 8)
    return parts, -(-units // parts)


def _interleave(taps, tiles):
    """Orders a part's outputs (axis 2, tiles * 8) by tile and column: `channel_of` in gconv3x3.cuh, the other way around."""
    pieces, first = [], 0
    for together in [4] * (tiles // 4) + [2] * (tiles % 4 // 2) + [1] * (tiles % 2):
        piece = taps[:, :, first : first + together * 8].unflatten(2, (4, together, 2))
        pieces.append(piece.transpose(2, 3).flatten(2, 4))
        first += together * 8
    return torch.cat(pieces, dim=2)


def _packed_elements(dtype, group_width):
    if dtype == torch.float32:
        return 9 * group_width * group_width
    units = group_width // 8
    parts, tiles = parts_and_tiles(group_width)
    return (units // 2 * 9 + units % 2 * 5) * 128 * parts * tiles


@torch.library.register_fake(OP, lib=_library)
def _fake(x, weight, bias, stride, activation, pool):
    images, channels, height, width = x.shape
    torch._check(weight.dtype == x.dtype, lambda: f"weight must have the dtype of x ({x.dtype}), got {weight.dtype}")
    torch._check(channels % weight.shape[0] == 0, lambda: f"{weight.shape[0]} packed groups don't divide {channels} channels")
    elements = _packed_elements(x.dtype, channels // weight.shape[0])
    torch._check(weight.shape[1] == elements, lambda: f"a packed group needs {elements} elements, got {weight.shape[1]}; use pack()")
    shape = (images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
    sums = (images, tiles(images, height, width, stride), channels) if pool else (0,)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, torch.empty(sums, dtype=torch.float32, device=x.device)


@torch.library.register_fake(GATE_OP, lib=_library)
def _gate_fake(sums, w1, b1, w2, b2, count):
    return torch.empty((sums.shape[0], sums.shape[2]), dtype=torch.float32, device=sums.device)


def _without_backward(op, instead):
    def backward(ctx, *grads):
        raise RuntimeError(f"{op} has no backward; differentiate {instead} instead")

    torch.library.register_autograd(op, backward, lib=_library)


_without_backward(OP, "regnet_kernels::conv_bn_act")
_without_backward(GATE_OP, "regnet_kernels::se_gate")

"""Triton's interpreter made exact for bfloat16, and watched: every address in bounds, every result written exactly once.

TRITON_INTERPRET=1 must be in the environment before the first kernel is called. Triton (3.6 to 3.8 at least) keeps bfloat16
as 16-bit integers there, multiplies those in `tl.dot` and truncates where it should round; and it reads and writes wherever
a pointer points.

    triton_interpreter.install()
    with triton_interpreter.watch() as launches:
        y = conv_bn_act(x, weight, backend="triton")      # on CPU tensors
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


def install() -> None:
    """Patch the interpreter of this process. Raises RuntimeError where there is none."""
    import triton
    import triton.language as tl
    from triton.runtime import interpreter

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("Triton does not interpret in this process; set TRITON_INTERPRET=1 before it is imported")
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    if getattr(builder, "_regnet_kernels", False):
        return
    plain_cast = builder.cast_impl

    def numbers(operand):
        is_bfloat16 = operand.dtype.scalar == tl.bfloat16
        return widen_bfloat16(operand.data) if is_bfloat16 else operand.data.astype(np.float32)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        """Products and sums in float32, as tensor cores do it."""
        return handle((numbers(a) @ numbers(b)).astype(d.data.dtype) + d.data, d.dtype.scalar)

    def cast_impl(self, source, to):
        known, wanted = source.dtype.scalar, to.scalar
        if tl.bfloat16 not in (known, wanted) or known == wanted:
            return plain_cast(self, source, to)
        values = numbers(source)
        data = round_to_bfloat16(values) if wanted == tl.bfloat16 else values.astype(interpreter._get_np_dtype(wanted))
        return handle(data, wanted)

    plain_patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor, scope):
        """Triton 3.6 makes an index of an array of one element and one dimension, which NumPy 2.4 refuses."""
        plain_patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    builder.create_dot, builder.cast_impl, builder._regnet_kernels = create_dot, cast_impl, True
    interpreter._patch_lang_tensor = patch_lang_tensor


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 codes -> the same numbers as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 codes, to nearest, ties to even; NaN stays NaN."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


class _Launch:
    """The memory of one launch: the tensors that it was given, and how often each of their elements was written."""

    def __init__(self, name: str, tensors: list[torch.Tensor]):
        self.name = name
        self.spans = {}
        for tensor in tensors:
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) if tensor.numel() else -1
            first = tensor.data_ptr()
            self.spans[first] = max(first + (last + 1) * tensor.element_size(), self.spans.get(first, 0))
        self.written: dict[int, np.ndarray] = {}

    def touch(self, addresses: np.ndarray, size: int, writes: bool) -> None:
        left = np.ones(addresses.shape, bool)
        for first, stop in self.spans.items():
            here = left & (addresses >= first) & (addresses + size <= stop)
            left &= ~here
            if writes and here.any():
                counts = self.written.setdefault(first, np.zeros((stop - first) // size, np.int32))
                np.add.at(counts, (addresses[here] - first) // size, 1)
        if left.any():
            what = "writes to" if writes else "reads"
            raise IndexError(f"{self.name} {what} {int(left.sum())} of {left.size} addresses outside of all its tensors")

    def check(self) -> None:
        for counts in self.written.values():
            if (counts != 1).any():
                raise AssertionError(f"{self.name} writes {int((counts == 0).sum())} of {counts.size} elements never and "
                                     f"{int((counts > 1).sum())} more than once")


@contextlib.contextmanager
def watch() -> Iterator[list[str]]:
    """Inside, a kernel that reads or writes outside of the tensors of its launch, or writes any tensor but every element of
    it exactly once, raises. Yields the names of the kernels, in the order of their launches."""
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    plain = builder.create_masked_load, builder.create_masked_store, executor.__call__
    names: list[str] = []
    current: list[_Launch] = []

    def touch(pointers, mask, writes):
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        wanted = np.broadcast_to(mask.data, pointers.data.shape)
        current[-1].touch(pointers.data[wanted].astype(np.int64), size, writes)

    def load(self, pointers, mask, *rest):
        touch(pointers, mask, writes=False)
        return plain[0](self, pointers, mask, *rest)

    def store(self, pointers, value, mask, *rest):
        touch(pointers, mask, writes=True)
        return plain[1](self, pointers, value, mask, *rest)

    def call(self, *args, **kwargs):
        name = self.fn.__name__
        names.append(name)
        current.append(_Launch(name, [arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.Tensor)]))
        try:
            plain[2](self, *args, **kwargs)
            current[-1].check()
        finally:
            current.pop()

    builder.create_masked_load, builder.create_masked_store, executor.__call__ = load, store, call
    try:
        yield names
    finally:
        builder.create_masked_load, builder.create_masked_store, executor.__call__ = plain

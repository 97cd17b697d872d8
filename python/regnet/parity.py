"""check_parity: how far a fused model is from the model it was made from, block by block and at the output.

The truth is a float64 copy of the reference. Beside our error stands that of eager PyTorch, which computes in the same
dtype: a fused model is as good as the original when its error is of the same size.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from regnet_kernels.packing import CONV, HEAD
from torch import Tensor, nn

from regnet.errors import RegNetError
from regnet.swap import FusedBlocks

# A row passes when our error is at most FACTOR times eager's, plus what rounding alone may add where eager happens to be
# nearly exact: FLOOR_EPS units of the dtype that results are stored in, and SUM_EPS units of float32, in which every dtype
# is summed. Summing K terms in another order moves the result by about sqrt(K) / 2 units times the spread of the terms; the
# longest sums of the named networks have thousands of terms, and 8 units cover what was seen over them.
FACTOR, FLOOR_EPS, SUM_EPS = 2.0, 2.0, 8.0


def error_limit(eager_rel_err: float, dtype: torch.dtype) -> float:
    """The largest relative error that passes beside eager's, for results stored in `dtype`."""
    return FACTOR * eager_rel_err + FLOOR_EPS * torch.finfo(dtype).eps + SUM_EPS * torch.finfo(torch.float32).eps


class ParityError(RegNetError, ValueError):
    """Models or inputs that cannot be compared; the text says why."""


@dataclass(frozen=True)
class ParityRow:
    """One comparison. Errors are max|y - truth| / max|truth|; `passed`: rel_err <= limit."""

    name: str
    kind: str  # "stem", "block", "logits" or "features"
    shape: tuple[int, ...]
    rel_err: float
    eager_rel_err: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.rel_err <= self.limit  # False for nan


@dataclass(frozen=True)
class ParityReport:
    """The rows of a check; str() is an aligned table, to_dict() plain values."""

    dtype: str
    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        """Every row within its limit (`error_limit`)."""
        return all(row.passed for row in self.rows)

    @property
    def max_rel_err(self) -> float:
        """The largest of our errors; nan if one is."""
        return float(torch.tensor([row.rel_err for row in self.rows], dtype=torch.float64).max())

    def to_dict(self) -> dict:
        rows = [{**asdict(row), "shape": list(row.shape), "passed": row.passed} for row in self.rows]
        return {"dtype": self.dtype, "passed": self.passed, "max_rel_err": self.max_rel_err, "rows": rows}

    def __str__(self) -> str:
        header = ("module", "what", "output", "ours", "eager", "limit", "")
        body = [
            (row.name, row.kind, "x".join(map(str, row.shape)), f"{row.rel_err:.2e}", f"{row.eager_rel_err:.2e}",
             f"{row.limit:.2e}", "ok" if row.passed else "FAIL")
            for row in self.rows
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(header, *body)]
        pads = (str.ljust,) * 3 + (str.rjust,) * 3 + (str.ljust,)
        aligned = ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths)) for line in (header, *body)]
        failed = sum(not row.passed for row in self.rows)
        verdict = f"{failed} of {len(self.rows)} rows fail" if failed else f"all {len(self.rows)} rows pass"
        title = f"relative error against float64, computing in {self.dtype}"
        return "\n".join([title, *(line.rstrip() for line in aligned), f"{verdict}; largest error {self.max_rel_err:.2e}"])


@torch.no_grad()
def check_parity(reference: nn.Module, optimized: nn.Module, x) -> ParityReport:
    """Compare `optimized` = regnet.optimize(reference) with the model it came from.

    reference: the original model (unchanged: use a copy after inplace=True); it is copied to float64 and to the dtype that
        `optimized` computes in, and not touched itself.
    x: an image batch (N, C, H, W), or whatever else the model takes; floating tensors are rounded to that dtype first, so
        that the rounding of the input counts for neither side. uint8 images where `optimized` takes them (mean=, std=): it gets
        them as they are, the reference gets them normalised in float64 and rounded like floating ones. The rows of modules stay
        with floating inputs, so that a fault of normalising shows at the outputs alone.

    Each swapped module is compared on its own: it gets the input that the eager model had there, and its truth is the
    float64 module on the same input, so that an error shows where it is made. The last rows compare the outputs of the
    whole models. Raises ParityError if `optimized` holds no fused module, its module names are not those of `reference`, x
    holds no image, or holds uint8 images that `optimized` does not take.
    """
    fused = [module for module in optimized.modules() if isinstance(module, FusedBlocks)]
    if not fused:
        raise ParityError(f"{type(optimized).__name__} holds no fused module; pass what regnet.optimize returned")
    if optimized is reference:
        raise ParityError("reference and optimized are one object; after optimize(..., inplace=True) pass a copy made before")
    given, x = x, _normalised(x, fused)
    images = _named_tensors(x).values()
    if not images or any(image.numel() == 0 for image in images):
        raise ParityError("x holds no image; parity needs at least one")
    dtype = fused[0].dtype
    x = _cast(x, dtype)
    eager, exact = (copy.deepcopy(reference).eval().to(kind) for kind in (dtype, torch.float64))
    steps = _swapped_steps(fused, eager)
    theirs, inputs = _run_and_record(eager, list(steps), x)
    rows = []
    for name, (what, run) in steps.items():
        if name in inputs:  # a stage beyond the last feature map asked for never runs
            seen, (module, oracle) = inputs[name], (model.get_submodule(name) for model in (eager, exact))
            rows.append(_row(name, what, run(seen), module(seen), oracle(seen.double()), dtype))
    truth, theirs = _named_tensors(exact(_cast(x, torch.float64))), _named_tensors(theirs)
    ours = _named_tensors(optimized(_cast(_cast(given, dtype), _input_dtype(optimized, dtype))))
    if not truth.keys() == ours.keys() == theirs.keys():
        raise ParityError(f"the outputs differ in structure: {list(truth)} of the reference, {list(ours)} of the optimized model")
    for name, value in truth.items():
        what = "logits" if value.dim() == 2 else "features"
        rows.append(_row(what + name, what, ours[name], theirs[name], value, dtype))
    return ParityReport(str(dtype).removeprefix("torch."), tuple(rows))


def _swapped_steps(fused: Sequence[FusedBlocks], reference: nn.Module) -> dict:
    """{module name: (what it is, function that runs our step of it)}; heads are seen in the logits."""
    steps = {}
    for part in fused:
        for index, (name, spec) in enumerate(zip(part.step_names, part.packed.specs)):
            if spec.kind == HEAD:
                continue
            try:
                reference.get_submodule(name)
            except AttributeError:
                wrong = f"the reference has no module {name!r}, which the optimized model replaced"
                raise ParityError(f"{wrong}; pass the model that it was made from") from None
            steps[name] = ("stem" if spec.kind == CONV else "block", partial(part.run_steps, start=index, stop=index + 1))
    return steps


def _run_and_record(model: nn.Module, names: list[str], x) -> tuple:
    """(output, {name: the input of the first call of the module})."""
    inputs: dict[str, Tensor] = {}

    def record(name, module, args):
        inputs.setdefault(name, args[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(record, name)) for name in names]
    try:
        return model(x), inputs
    finally:
        for handle in handles:
            handle.remove()


def _row(name: str, what: str, ours: Tensor, theirs: Tensor, truth: Tensor, dtype: torch.dtype) -> ParityRow:
    eager = _rel_err(theirs, truth)
    return ParityRow(name, what, tuple(truth.shape), _rel_err(ours, truth), eager, error_limit(eager, dtype))


def _rel_err(y: Tensor, truth: Tensor) -> float:
    if y.shape != truth.shape:
        return float("inf")
    scale = truth.abs().max()
    return float((y.double() - truth).abs().max() / (scale if scale > 0 else 1.0))


def _named_tensors(value, name: str = "") -> dict[str, Tensor]:
    """The floating tensors in nested lists, tuples and dicts, by their place: "", "[0]", "['boxes']"."""
    if isinstance(value, Tensor):
        return {name: value} if value.is_floating_point() else {}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {place: tensor for key, inner in items for place, tensor in _named_tensors(inner, f"{name}[{key!r}]").items()}


def _normalised(x, fused: Sequence[FusedBlocks]):
    """x with its uint8 images as the reference takes them, in float64."""
    pixels = next((part.pixels for part in fused if part.pixels is not None), None)

    def normalise(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.uint8:
            return tensor
        if pixels is None:
            raise ParityError("x is torch.uint8, but the optimized model was made without mean= and std=, so it takes floating images only")
        return pixels.normalise(tensor)

    return _map(normalise, x)


def _cast(value, dtype: torch.dtype):
    """`value` with its floating tensors cast."""
    return _map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, value)


def _map(change: Callable[[Tensor], Tensor], value):
    """`value` with `change` applied to the tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(change, inner) for key, inner in value.items()}
    return type(value)(_map(change, inner) for inner in value) if isinstance(value, (list, tuple)) else value


def _input_dtype(optimized: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """A model that was swapped in part takes images of the dtype of what runs in PyTorch."""
    if isinstance(optimized, FusedBlocks):
        return dtype
    return next((p.dtype for p in optimized.parameters() if p.is_floating_point()), dtype)

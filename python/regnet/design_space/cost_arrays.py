"""flops, params and acts of many networks at once: the integers of `regnet.complexity`, from arrays.

The cost of a stage is linear in the width that comes in and in the width of its first squeeze, which is all that ties the stages
together; the samplers use that (`StageTerms`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regnet.cost import Complexity
from regnet.design_space.networks import Networks, Template
from regnet.errors import ConfigError

METRICS = ("flops", "params", "acts")
CHUNK = 8192  # rows at a time: the temporaries of a chunk stay in the second-level cache


@dataclass(frozen=True)
class StageTerms:
    """One metric of one stage = own + w_in per_w_in + se_in per_se_in + (proj_own + w_in proj_per_w_in, where there is a projection).

    se_in: width of the first block's squeeze. Arrays or integers. A stride other than 1 always projects: then the projection is in
    `own` and `per_w_in`, and the last two are 0.
    """

    own: np.ndarray
    per_w_in: np.ndarray | int = 0
    per_se_in: np.ndarray | int = 0
    proj_own: np.ndarray | int = 0
    proj_per_w_in: np.ndarray | int = 0

    def total(self, w_in, w_out, se_in):
        """The metric of the stage for incoming widths `w_in`."""
        found = self.own + w_in * self.per_w_in
        if isinstance(self.per_se_in, np.ndarray) or self.per_se_in:
            found = found + se_in * self.per_se_in
        if isinstance(self.proj_own, np.ndarray) or self.proj_own:
            found = found + (w_in != w_out) * (self.proj_own + w_in * self.proj_per_w_in)
        return found


def complexity_arrays(networks: Networks, template: Template, resolution: int | tuple[int, int] = 224) -> dict[str, np.ndarray]:
    """{"flops", "params", "acts"}: (n,) int64, equal to `regnet.complexity` of each network. Memory: the results and little more."""
    frame = Frame(template, networks.widths.shape[1], resolution)
    found = {metric: np.empty(len(networks), np.int64) for metric in METRICS}
    for start in range(0, len(networks), CHUNK):
        rows = slice(start, start + CHUNK)
        columns = [
            [np.ascontiguousarray(array[rows, stage]) for stage in range(frame.stages)]
            for array in (networks.depths, networks.widths, networks.inner_widths, networks.group_widths)
        ]
        for metric, values in frame.totals(*columns).items():
            found[metric][rows] = values
    return found


class Frame:
    """Stem, head and map sizes of a template's networks at a resolution: what is the same for all, and each stage's terms."""

    def __init__(self, template: Template, stages: int, resolution: int | tuple[int, int] = 224):
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        if min(height, width) < 1:
            raise ConfigError(f"resolution {resolution} must be at least 1")
        self.template, self.stages, self.strides = template, stages, template.stage_strides(stages)
        size = _strided((height, width), 2)
        kernel = 7 if template.stem_type == "resnet" else 3
        weights = kernel * kernel * template.in_chans * template.stem_width
        area = size[0] * size[1]
        flops, params, acts = weights * area, weights + 2 * template.stem_width, template.stem_width * area
        if template.stem_type == "resnet":
            size = _strided(size, 2)
            acts += template.stem_width * size[0] * size[1]
        self.stem = Complexity(flops, params, acts)
        self.areas = [size[0] * size[1]]
        for stride in self.strides:
            size = _strided(size, stride)
            self.areas.append(size[0] * size[1])

    def squeeze_width(self, width):
        """round(se_ratio * width), half to even; 0 without squeeze-and-excite."""
        return np.rint(self.template.se_ratio * width).astype(np.int64) if self.template.se_ratio else 0

    def outside(self, metric: str, last_width):
        """Stem and head: `last_width` is the width of the last stage."""
        found, classes = getattr(self.stem, metric), self.template.num_classes
        if not classes:
            return found + 0 * last_width
        return found + (classes if metric == "acts" else classes * last_width + classes)

    def totals(self, depths, widths, inner_widths, group_widths, metrics=METRICS) -> dict[str, np.ndarray]:
        """Each metric of whole networks; the arguments are lists of arrays, one a stage."""
        found = {metric: self.outside(metric, widths[-1]) for metric in metrics}
        w_in, se_in = self.template.stem_width, self.squeeze_width(np.int64(self.template.stem_width))
        for stage in range(self.stages):
            terms = self.stage_terms(stage, depths[stage], widths[stage], inner_widths[stage], group_widths[stage])
            for metric in metrics:
                found[metric] = found[metric] + terms[metric].total(w_in, widths[stage], se_in)
            w_in, se_in = widths[stage], self.squeeze_width(widths[stage])
        return found

    def stage_terms(self, stage: int, depth, width, inner, group) -> dict[str, StageTerms]:
        """The terms of each metric of stage `stage` (arrays of one shape)."""
        area_in, area = self.areas[stage], self.areas[stage + 1]
        block_type, more = self.template.block_type, depth - 1
        if block_type in ("V", "VR"):
            nine, square = 9 * width, 9 * width * width
            found = {
                "flops": StageTerms(more * (square * area), nine * area),
                "params": StageTerms(2 * width * depth + more * square, nine),
                "acts": StageTerms(depth * (width * area)),
            }
        else:
            grouped, pointwise = 9 * (inner * group), inner * width
            block = grouped + pointwise
            flops = area * (block + more * (block + pointwise))
            params = block + more * (block + pointwise) + depth * (4 * inner + 2 * width)
            acts = inner * area_in + area * ((inner + width) + more * (2 * inner + width))
            squeezes = squeeze_acts = per_se = 0
            if self.template.se_ratio:
                se_width, per_se = self.squeeze_width(width), 2 * inner + 1
                squeezes = inner + more * (se_width * per_se + inner)
                squeeze_acts = inner + more * (se_width + inner)
            found = {
                "flops": StageTerms(flops + squeezes, inner * area_in, per_se),
                "params": StageTerms(params + squeezes, inner, per_se),
                "acts": StageTerms(acts + squeeze_acts, 0, 1 if self.template.se_ratio else 0),
            }
        if block_type == "V":
            return found
        projections = {"flops": (0 * width, width * area), "params": (2 * width, width), "acts": (width * area, 0)}
        for metric, (own, per_w_in) in projections.items():
            terms = found[metric]
            if self.strides[stage] != 1:
                found[metric] = StageTerms(terms.own + own, terms.per_w_in + per_w_in, terms.per_se_in)
            else:
                found[metric] = StageTerms(terms.own, terms.per_w_in, terms.per_se_in, own, per_w_in)
        return found


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1

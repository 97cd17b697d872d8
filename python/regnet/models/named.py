"""The published models: parameters, the names that others use for them, and where pycls keeps their weights.

Parameters and weight paths: facebookresearch/pycls, configs/dds_baselines and pycls/models/model_zoo.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

from regnet.models.config import AnyNetConfig, RegNetConfig


@dataclass(frozen=True)
class NamedModel:
    """A published model. `aliases` mean its own widths, `torchvision_aliases` torchvision's rounding of them."""

    name: str
    config: RegNetConfig | AnyNetConfig
    weights_path: str  # below pycls' download prefix
    aliases: tuple[str, ...]
    torchvision_aliases: tuple[str, ...] = ()


class _Row(NamedTuple):
    name: str
    timm: str
    torchvision: str | None
    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    pycls_id: str


_REGNETS = (
    _Row("regnetx_200mf", "regnetx_002", None, 13, 24, 36.44, 2.49, 8, "160905981"),
    _Row("regnetx_400mf", "regnetx_004", "regnet_x_400mf", 22, 24, 24.48, 2.54, 16, "160905967"),
    _Row("regnetx_600mf", "regnetx_006", None, 16, 48, 36.97, 2.24, 24, "160906442"),
    _Row("regnetx_800mf", "regnetx_008", "regnet_x_800mf", 16, 56, 35.73, 2.28, 16, "160906036"),
    _Row("regnetx_1.6gf", "regnetx_016", "regnet_x_1_6gf", 18, 80, 34.01, 2.25, 24, "160990626"),
    _Row("regnetx_3.2gf", "regnetx_032", "regnet_x_3_2gf", 25, 88, 26.31, 2.25, 48, "160906139"),
    _Row("regnetx_4.0gf", "regnetx_040", None, 23, 96, 38.65, 2.43, 40, "160906383"),
    _Row("regnetx_6.4gf", "regnetx_064", None, 17, 184, 60.83, 2.07, 56, "161116590"),
    _Row("regnetx_8.0gf", "regnetx_080", "regnet_x_8gf", 23, 80, 49.56, 2.88, 120, "161107726"),
    _Row("regnetx_12gf", "regnetx_120", None, 19, 168, 73.36, 2.37, 112, "160906020"),
    _Row("regnetx_16gf", "regnetx_160", "regnet_x_16gf", 22, 216, 55.59, 2.1, 128, "158460855"),
    _Row("regnetx_32gf", "regnetx_320", "regnet_x_32gf", 23, 320, 69.86, 2.0, 168, "158188473"),
    _Row("regnety_200mf", "regnety_002", None, 13, 24, 36.44, 2.49, 8, "176245422"),
    _Row("regnety_400mf", "regnety_004", "regnet_y_400mf", 16, 48, 27.89, 2.09, 8, "160906449"),
    _Row("regnety_600mf", "regnety_006", None, 15, 48, 32.54, 2.32, 16, "160981443"),
    _Row("regnety_800mf", "regnety_008", "regnet_y_800mf", 14, 56, 38.84, 2.4, 16, "160906567"),
    _Row("regnety_1.6gf", "regnety_016", "regnet_y_1_6gf", 27, 48, 20.71, 2.65, 24, "160906681"),
    _Row("regnety_3.2gf", "regnety_032", "regnet_y_3_2gf", 21, 80, 42.63, 2.66, 24, "160906834"),
    _Row("regnety_4.0gf", "regnety_040", None, 22, 96, 31.41, 2.24, 64, "160906838"),
    _Row("regnety_6.4gf", "regnety_064", None, 25, 112, 33.22, 2.27, 72, "160907112"),
    _Row("regnety_8.0gf", "regnety_080", "regnet_y_8gf", 17, 192, 76.82, 2.19, 56, "161160905"),
    _Row("regnety_12gf", "regnety_120", None, 19, 168, 73.36, 2.37, 112, "160907100"),
    _Row("regnety_16gf", "regnety_160", "regnet_y_16gf", 18, 200, 106.23, 2.48, 112, "161303400"),
    _Row("regnety_32gf", "regnety_320", "regnet_y_32gf", 20, 232, 115.89, 2.53, 232, "161277763"),
)

# timm has its own name for torchvision's rounding only where that changes the network.
_TIMM_TORCHVISION = {"regnetx_004": "regnetx_004_tv", "regnety_008": "regnety_008_tv", "regnety_080": "regnety_080_tv"}


def _regnet(row: _Row) -> NamedModel:
    is_y = row.name.startswith("regnety")
    config = RegNetConfig(row.depth, row.w_0, row.w_a, row.w_m, row.group_width, se_ratio=0.25 if is_y else 0.0)
    letter, size = ("Y" if is_y else "X"), row.name.split("_")[1]
    spellings = {row.name.replace(".", "_"), row.name.replace(".0gf", "gf"), row.name.replace(".0gf", "gf").replace(".", "_")}
    return NamedModel(
        row.name,
        config,
        f"dds_baselines/{row.pycls_id}/RegNet{letter}-{size.upper()}_dds_8gpu.pyth",
        (row.timm, *sorted(spellings - {row.name})),
        tuple(name for name in (row.torchvision, _TIMM_TORCHVISION.get(row.timm)) if name),
    )


def _resnet(block_type: str, ratio: float, group_widths: tuple[int, ...] | None) -> AnyNetConfig:
    return AnyNetConfig(
        depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048), strides=(1, 2, 2, 2), bottleneck_ratios=ratio, group_widths=group_widths,
        block_type=block_type, stem_type="resnet", stem_width=64,
    )


NAMED_MODELS = (
    *map(_regnet, _REGNETS),
    NamedModel("resnet_50", _resnet("R", 4.0, None), "dds_baselines/161235311/R-50-1x64d_dds_8gpu.pyth", ("resnet50",)),
    NamedModel(
        "resnext_50", _resnet("X", 2.0, (4, 8, 16, 32)), "dds_baselines/161167411/X-50-32x4d_dds_8gpu.pyth",
        ("resnext50", "resnext50_32x4d"),
    ),
)

"""regnet.check_parity: rows for what was swapped, and an eye for what is wrong."""

import json

import pytest
import regnet
import torch
from regnet.parity import ParityError
from regnet.swap import SwapError
from swap_models import Doubled, image, own_model, timm_model, torchvision_model

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_whole_networks_pass(dtype):
    for model in (timm_model("regnety_002"), torchvision_model("regnet_x_400mf")):
        report = regnet.check_parity(model, regnet.optimize(model, dtype=dtype), image())
        assert report.passed and 0 < report.max_rel_err < 20 * torch.finfo(dtype).eps, str(report)
        assert [row.kind for row in report.rows] == ["stem"] + ["block"] * (len(report.rows) - 2) + ["logits"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_uint8_images(dtype):
    model, x = timm_model("regnetx_002"), torch.randint(0, 256, (2, 3, 64, 49), dtype=torch.uint8)
    fused = regnet.optimize(model, dtype=dtype, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    report = regnet.check_parity(model, fused, x)
    assert report.passed and report.max_rel_err < 20 * torch.finfo(dtype).eps, str(report)
    fused.pixel_mean += 30.0  # of 255
    report = regnet.check_parity(model, fused, x)
    assert [row.name for row in report.rows if not row.passed] == ["logits"], str(report)
    with pytest.raises(ParityError, match="made without mean= and std="):
        regnet.check_parity(model, regnet.optimize(model), x)


def test_report_reads_well():
    model = own_model("regnetx_200mf", features_only=True)
    report = regnet.check_parity(model, regnet.optimize(model), image())
    assert [row.name for row in report.rows[-5:]] == [f"features[{level}]" for level in range(5)]
    lines = str(report).splitlines()
    assert lines[1].split() == ["module", "what", "output", "ours", "eager", "limit"] and "all" in lines[-1]
    assert len({line.index("block") for line in lines if " block " in line}) == 1  # aligned
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


def test_a_wrong_block_is_found_where_it_is():
    model = timm_model("regnety_002")
    fused = regnet.optimize(model)
    step = fused.packed.specs[3]
    with torch.no_grad():
        fused.weights[step.weights_offset : step.weights_offset + step.c_in * step.c_mid].mul_(1.01)
    report = regnet.check_parity(model, fused, image())
    assert not report.passed
    assert [row.name for row in report.rows if not row.passed] == [fused.step_names[3], "logits"], str(report)
    fused.params.fill_(float("nan"))
    assert not regnet.check_parity(model, fused, image()).passed


def test_models_swapped_in_part():
    model = timm_model("regnetx_002")
    model.s3.b2 = Doubled(model.s3.b2).eval()
    for dtype in (None, torch.bfloat16):
        report = regnet.check_parity(model, regnet.optimize(model, dtype=dtype), image())
        assert report.passed and "s3.b2" not in [row.name for row in report.rows] and len(report.rows) == 14, str(report)
    assert not model.s4.b1._forward_pre_hooks  # the reference is not touched


def test_what_cannot_be_compared():
    model = timm_model("regnetx_002")
    fused = regnet.optimize(model)
    with pytest.raises(ParityError, match="holds no fused module"):
        regnet.check_parity(model, model, image())
    with pytest.raises(ParityError, match="one object"):
        regnet.check_parity(fused, fused, image())
    with pytest.raises(ParityError, match="no image"):
        regnet.check_parity(model, fused, image(0))
    with pytest.raises(ParityError, match="no module 's1.b1'"):
        regnet.check_parity(torchvision_model(), fused, image())
    with pytest.raises(SwapError):
        regnet.optimize(model.train())

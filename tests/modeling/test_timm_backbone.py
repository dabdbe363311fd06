"""timm's models as Detectron2 backbones, alone and under the pyramid."""

import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from toy_configs import change, resnet18_cfg

IMAGE = ShapeSpec(channels=3)
MODELS = ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"]


def config(name="convnext_atto", builder="build_timm_backbone", **keys):
    cfg = resnet18_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return change(cfg, keys)


@pytest.fixture(autouse=True, scope="module")
def timm():
    return pytest.importorskip("timm", reason="needs the extra 'timm'")


def test_a_map_as_high_as_it_has_channels():
    """Swin's maps have channels last; 384 rows are 96 of stride 4, as many as channels."""
    backbone = build_backbone(config("swin_tiny_patch4_window7_224"), IMAGE).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 384, 64))
    assert maps["res2"].shape == (1, 96, 96, 16)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_timms(name, timm):
    """On sizes that need no padding the maps are those of the model itself."""
    backbone = build_backbone(config(name), IMAGE).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, expected = backbone(image), backbone.model(image)
    for ours, theirs in zip(maps.values(), expected[-4:], strict=True):
        theirs = theirs if theirs.shape == ours.shape else theirs.permute(0, 3, 1, 2)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "convnext_attto"}, "timm has no model 'convnext_attto'.*did you mean"),
        ({"MODEL__TIMM__OUT_FEATURES": ["res7"]}, "has the stages res2, .*names res7"),
    ],
)
def test_errors(keys, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(**keys), IMAGE)


def test_missing_timm_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'timm>=1.0.13'"):
        build_backbone(config(), IMAGE)

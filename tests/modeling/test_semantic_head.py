"""The concatenation head in Detectron2's SemanticSegmentor."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_sem_seg_head
from toy_configs import change, resnet18_cfg

from freqfusion.layers import CarafeUpsampling, FreqFusion, InterpolationUpsampling

SHAPES = {
    "res2": ShapeSpec(channels=16, stride=4),
    "res3": ShapeSpec(channels=32, stride=8),
    "res4": ShapeSpec(channels=64, stride=16),
}


def config(**keys):
    cfg = resnet18_cfg()
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.SEM_SEG_HEAD.NAME = "FreqFusionSemSegHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.FREQFUSION.COMPRESS_RATIO = 2
    return change(cfg, keys)


def maps(height, width, batch=1):
    return {
        name: torch.randn(
            batch, shape.channels, -(-height // shape.stride), -(-width // shape.stride)
        )
        for name, shape in SHAPES.items()
    }


def test_loss_is_the_mean_over_labelled_pixels():
    head = build_sem_seg_head(config(MODEL__SEM_SEG_HEAD__LOSS_WEIGHT=0.5), SHAPES)
    features, targets = maps(33, 41), torch.randint(0, 5, (1, 33, 41))
    targets[:, :10] = 255
    _, losses = head(features, targets)
    logits, _ = head.eval()(features)
    expected = F.cross_entropy(logits[..., :33, :41], targets, ignore_index=255)
    torch.testing.assert_close(losses["loss_sem_seg"], 0.5 * expected)
    losses["loss_sem_seg"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name


def test_image_without_labels_has_a_finite_loss():
    head = build_sem_seg_head(config(), SHAPES)
    _, losses = head(maps(16, 16), torch.full((1, 16, 16), 255))
    assert losses["loss_sem_seg"].item() == 0


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, FreqFusion),
        ({"MODEL__FREQFUSION__ENABLED": False}, InterpolationUpsampling),
        ({"MODEL__FREQFUSION__FUSE_TYPE": "carafe"}, CarafeUpsampling),
    ],
)
def test_one_word_switches_the_fusion(keys, kind):
    head = build_sem_seg_head(config(**keys), SHAPES)
    assert all(type(fusion) is kind for fusion in head.join.fusions)
    assert head.join.out_channels == 16 + 32 + 64
    logits, losses = head.eval()(maps(20, 28))
    assert logits.shape == (1, 5, 20, 28)
    assert losses == {}


def test_order_of_in_features_does_not_matter():
    cfg = config(MODEL__SEM_SEG_HEAD__IN_FEATURES=["res4", "res2", "res3"])
    assert build_sem_seg_head(cfg, SHAPES).in_features == ["res2", "res3", "res4"]


@pytest.mark.parametrize("name", ["FreqFusionSemSegHead", "LightHamHead", "FCNHead"])
@pytest.mark.parametrize(
    ("key", "argument"), [("NUM_CLASSES", "num_classes"), ("CONVS_DIM", "width")]
)
def test_sizes_must_be_positive(name, key, argument):
    cfg = config(MODEL__SEM_SEG_HEAD__NAME=name, MODEL__LIGHT_HAM__CHANNELS=32)
    if name == "FCNHead":
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4"]
    cfg.MODEL.SEM_SEG_HEAD[key] = 0
    with pytest.raises(ValueError, match=f"{argument} must be positive, got 0"):
        build_sem_seg_head(cfg, SHAPES)


@pytest.mark.parametrize("size", [(64, 96), (33, 95), (1, 1)])
def test_in_detectron2s_segmentor(size):
    torch.manual_seed(0)
    model = build_model(config())
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    labels = torch.randint(0, 5, size)
    losses = model([{"image": image, "sem_seg": labels, "height": size[0], "width": size[1]}])
    assert losses["loss_sem_seg"].isfinite()
    losses["loss_sem_seg"].backward()
    with torch.no_grad():
        result = model.eval()([{"image": image, "height": 50, "width": 70}])[0]["sem_seg"]
    assert result.shape == (5, 50, 70)
    assert result.isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match=r"IN_FEATURES names res9; the backbone has res2, res3"):
        build_sem_seg_head(config(MODEL__SEM_SEG_HEAD__IN_FEATURES=["res2", "res9"]), SHAPES)
    with pytest.raises(ValueError, match="at compress_ratio 20 gives 4 compressed channels"):
        build_sem_seg_head(config(MODEL__FREQFUSION__COMPRESS_RATIO=20), SHAPES)
    with pytest.raises(ValueError, match="needs the labels"):
        build_sem_seg_head(config(), SHAPES)(maps(16, 16))

"""Heads behind multi-scale adaptive upsampling."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_sem_seg_head
from sfm_models import (
    CLASSES,
    NAMES,
    SHAPES,
    built,
    chain,
    example,
    modulated_maps,
    semantic_cfg,
    shake_attention,
)
from torch import nn
from toy_configs import change, resnet18_cfg

from freqfusion.layers.sfm import Mapping, MappingStack, MultiScaleAdaptiveUpsampling
from freqfusion.modeling import FCNHead
from freqfusion.modeling.sfm import ModulatedMaps

SMALL_RESNET50 = {
    "MODEL__RESNETS__DEPTH": 50,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 32,
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 8,
}
HEADS = {"FCNHead": ["res5"], "SemSegFPNHead": NAMES, "FreqFusionSemSegHead": NAMES}


def build(head, **keys):
    torch.manual_seed(0)
    return build_sem_seg_head(semantic_cfg(head, HEADS[head], **keys), SHAPES).eval()


def without_relations(head):
    """Let each pixel average over itself only."""
    for module in head.upsampling.relations:
        nn.init.zeros_(module.norm.weight)
        with torch.no_grad():
            module.norm.bias.zero_()
            module.norm.bias[4] = 100
    return head


@pytest.mark.parametrize("name", HEADS)
def test_maps_that_did_not_move_give_the_plain_heads_logits(name):
    """Stages of 2 x 2 layers (phase 0.5) that move nothing: reading is bilinear resizing.

    ``FCNHead``: logits resized to stride 4, then to the image. The two others predict at stride 4
    anyway.
    """
    head, features = without_relations(build(name)), modulated_maps(phase=0.5)
    found, _ = head(features)
    if name == "FCNHead":
        logits = head.head.predictor(head.head.convs(features["res5"]))
        logits = F.interpolate(logits, size=(16, 24), mode="bilinear")
        expected = F.interpolate(logits, size=(64, 96), mode="bilinear")
    else:
        expected, _ = head.head(features)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_logits_return_to_where_they_came_from():
    """Affine data: a node that shows the place it was taken from, read at any place, shows that.

    Stages without a stride, so that the nodes are the mapping's own (invariant 8).
    """
    head = build("FCNHead")
    head.head.convs, head.head.predictor = nn.Identity(), nn.Identity()
    head.upsampling = MultiScaleAdaptiveUpsampling(guide_channels=2, dilations=())
    height, width = 12, 16
    stage = chain([(height, width)] * 2, amplitude=0.4)[0]
    stage = Mapping(stage.displacement, False, 1, 0.0, (height, width))
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    shown = torch.stack([x, y])[None] + stage.displacement
    head.strides = {"res5": 4}
    found, _ = head(ModulatedMaps({"res5": shown}, {"res5": MappingStack([stage])}))
    assert found.shape == (1, 2, 48, 64)
    on_lattice = F.avg_pool2d(found[..., 8:-8, 8:-8], 4)  # the mean of x4 resizing is the value
    expected = torch.stack([x, y])[None, :, 2:-2, 2:-2]
    assert (stage.displacement.abs() > 0.2).any()
    torch.testing.assert_close(on_lattice, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", HEADS)
def test_modulated_maps_are_demodulated(name):
    """Other stages, other logits; and no size is lost."""
    head = build(name)
    still, _ = head(modulated_maps(43, 65, phase=0.5))
    moved, _ = head(modulated_maps(43, 65, amplitude=0.5, phase=0.5))
    assert still.shape == moved.shape == (1, CLASSES, 44, 68)
    assert (still - moved).abs().max() > 1e-2


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [(43, 65), (1, 1)], ids=str)
def test_in_detectron2s_segmentor(name, size):
    """All parameters get a gradient; the attention gets one from the labels too."""
    model = shake_attention(
        built(semantic_cfg(name, HEADS[name], MODEL__SFM__EDGE_LOSS_WEIGHT=0.0))
    )
    inputs = example("SemanticSegmentor", *size)
    # Batch normalisation needs more than one value.
    found = model.train()([inputs, example("SemanticSegmentor", *size, seed=5)])
    assert found["loss_sem_seg"].isfinite()
    found["loss_sem_seg"].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
    if size != (1, 1):
        logits = [p for n, p in model.named_parameters() if ".sfm." in n and "project.weight" in n]
        assert any(p.grad.abs().sum() > 0 for p in logits)
    with torch.no_grad():
        result = model.eval()([{"image": inputs["image"], "height": 50, "width": 70}])[0]
    assert result["sem_seg"].shape == (CLASSES, 50, 70)
    assert result["sem_seg"].isfinite().all()


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_dilated_backbones_cover_the_image(stride):
    """Three, two and one resampling before the head's map."""
    keys = SMALL_RESNET50 | {"MODEL__RESNETS__OUTPUT_STRIDE": stride}
    keys["MODEL__SFM__BACKBONE"] = "build_dilated_resnet_backbone"
    model = built(semantic_cfg("FCNHead", ["res5"], **keys)).eval()
    features = model.backbone(torch.rand(1, 3, 43, 65))
    assert model.backbone.output_shape()["res5"].stride == stride
    assert features["res5"].shape[-2:] == (-(-43 // stride), -(-65 // stride))
    assert len(features.mappings["res5"]) == {32: 3, 16: 2, 8: 1}[stride]
    logits, _ = model.sem_seg_head(features)
    assert logits.shape[-2:] == (44, 68)


def test_dilation_keeps_weights_and_places():
    """At the pixels that stay, a strided layer and a dilated one see the same.

    The first 1 x 1 layers of res4 (``STRIDE_IN_1X1``) show it: res4 of stride 8 has, in every
    second pixel, what res4 of stride 16 has.
    """
    backbones = {}
    for stride in (32, 8):
        keys = SMALL_RESNET50 | {"MODEL__RESNETS__OUTPUT_STRIDE": stride}
        cfg = change(resnet18_cfg(), keys)
        cfg.MODEL.BACKBONE.NAME = "build_dilated_resnet_backbone"
        torch.manual_seed(0)
        backbones[stride] = build_backbone(cfg).eval().double()
    coarse, fine = backbones.values()
    assert list(coarse.state_dict()) == list(fine.state_dict())
    image = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    one, two = coarse(image), fine(image)
    assert torch.equal(one["res3"], two["res3"])
    torch.testing.assert_close(two["res4"][..., ::2, ::2], one["res4"])
    torch.testing.assert_close(two["res5"][..., ::4, ::4], one["res5"])
    assert {name: shape.stride for name, shape in fine.output_shape().items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 8,
        "res5": 8,
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MODEL__RESNETS__OUTPUT_STRIDE": 4}, "must be 32, 16 or 8; got 4"),
        ({"MODEL__RESNETS__RES5_DILATION": 2}, "leave MODEL.RESNETS.RES5_DILATION at 1"),
    ],
)
def test_dilation_says_what_is_wrong(keys, message):
    cfg = change(resnet18_cfg(), keys)
    cfg.MODEL.BACKBONE.NAME = "build_dilated_resnet_backbone"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_loss_is_the_mean_over_labelled_pixels():
    head = build("FCNHead", MODEL__SEM_SEG_HEAD__LOSS_WEIGHT=0.5)
    features = modulated_maps(43, 65, phase=0.5)
    targets = torch.randint(0, CLASSES, (1, 43, 65))
    targets[:, :10] = 255
    logits, _ = head(features)
    head.train()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    _, losses = head(features, targets)
    expected = F.cross_entropy(logits[..., :43, :65], targets, ignore_index=255)
    torch.testing.assert_close(losses["loss_sem_seg"], 0.5 * expected)
    _, losses = head(features, torch.full_like(targets, 255))
    assert losses["loss_sem_seg"].item() == 0
    with pytest.raises(ValueError, match="needs the labels"):
        head(features)


def test_half_precision_gives_the_logits_of_full_precision():
    head, features = build("FCNHead"), modulated_maps(amplitude=0.3, phase=0.5)
    expected, _ = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = head(features)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MODEL__SFM__HEAD": "SFMSemSegHead"}, "names the head inside SFMSemSegHead"),
        ({"MODEL__SFM__HEAD": "SFMPixelDecoder"}, "works with FCNHead, SemSegFPNHead"),
        ({"MODEL__SFM__SOLVER": "guess"}, "MODEL.SFM.SOLVER must be one of"),
        ({"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res4", "res5"]}, "the one map that FCNHead"),
    ],
)
def test_says_what_is_wrong(keys, message):
    shapes = {name: ShapeSpec(channels=32, stride=shape.stride) for name, shape in SHAPES.items()}
    with pytest.raises(ValueError, match=message):
        build_sem_seg_head(semantic_cfg("FCNHead", ["res5"], **keys), shapes)


def test_fcn_head_alone():
    """Logits of the last map at every pixel; the loss is their mean cross-entropy."""
    head = FCNHead(in_feature="res5", input_shape=SHAPES["res5"], num_classes=3, width=32)
    features = {"res5": torch.randn(2, 64, 2, 3)}
    targets = torch.randint(0, 3, (2, 43, 65))
    _, losses = head(features, targets)
    logits, _ = head.eval()(features)
    assert logits.shape == (2, 3, 64, 96)
    expected = F.cross_entropy(logits[..., :43, :65], targets)
    torch.testing.assert_close(losses["loss_sem_seg"], expected)

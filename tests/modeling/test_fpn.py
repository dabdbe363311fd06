"""The pyramid with FreqFusion; ``test_models.py`` compares it with Detectron2's when it is off.

The published neck's numbers (set B) are compared in ``tests/tools/test_convert_checkpoint.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from toy_configs import change, resnet18_cfg

from freqfusion.layers import FreqFusion
from freqfusion.modeling import FreqFusionFPN

IMAGE = ShapeSpec(channels=3)


class Maps(Backbone):
    """A backbone whose input is its output: a list of maps, fine to coarse."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, maps):
        return {f"res{stage}": value for stage, value in enumerate(maps, start=2)}

    def output_shape(self):
        return {
            f"res{stage}": ShapeSpec(channels=channels, stride=2**stage)
            for stage, channels in enumerate(self.channels, start=2)
        }


def config(**keys):
    return change(resnet18_cfg(), keys)


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_nearest_fusion_is_detectron2s_fpn_at_its_sizes(fuse_type):
    cfg = config(MODEL__FREQFUSION__FUSE_TYPE="nearest", MODEL__FPN__FUSE_TYPE=fuse_type)
    ours = build_backbone(cfg, IMAGE).eval()
    cfg.MODEL.FREQFUSION.ENABLED = False
    theirs = build_backbone(cfg, IMAGE).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 96)
    expected = theirs(image)
    for name, value in ours(image).items():
        assert torch.equal(value, expected[name])


def test_only_fusion_parameters_are_new():
    ours = build_backbone(config(), IMAGE)
    theirs = build_backbone(config(MODEL__FREQFUSION__ENABLED=False), IMAGE)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("fpn_fusion") for name in missing)
    assert ours.size_divisibility == theirs.size_divisibility
    assert ours.output_shape() == theirs.output_shape()


@pytest.mark.parametrize("kind", ["freqfusion", "nearest", "bilinear", "carafe", "dysample"])
@pytest.mark.parametrize("size", [(1, 1), (33, 95)])
def test_any_size(kind, size):
    backbone = build_backbone(config(MODEL__FREQFUSION__FUSE_TYPE=kind), IMAGE).eval()
    maps = backbone(torch.randn(2, 3, *size))
    for name, shape in backbone.output_shape().items():
        assert maps[name].shape[:2] == (2, shape.channels)
        assert maps[name].shape[-2:] == tuple(-(-s // shape.stride) for s in size)
        assert maps[name].isfinite().all()
    sum(value.square().sum() for value in maps.values()).backward()
    for name, parameter in backbone.named_parameters():
        if name.startswith("fpn_"):
            assert parameter.grad is not None, name


def test_fused_top_level():
    backbone = build_backbone(config(MODEL__FREQFUSION__FUSED_TOP_LEVEL=True), IMAGE)
    maps = backbone(torch.randn(1, 3, 70, 90))
    assert list(maps) == list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert maps["p6"].shape == (1, 32, 2, 2)
    with pytest.raises(ValueError, match="give one of them"):
        FreqFusionFPN(
            bottom_up=Maps([8, 8]),
            in_features=["res2", "res3"],
            out_channels=8,
            make_fusion=lambda hr, lr: torch.nn.Identity(),
            top_block=LastLevelMaxPool(),
            fused_top_levels=1,
        )


LATER = ["res3", "res4", "res5"]
RETINANET = "build_retinanet_resnet_freqfusion_fpn_backbone"
# Builders of pyramids that begin at stride 8, Detectron2's, and how many levels they add.
BUILDERS = {
    "build_resnet_freqfusion_fpn_backbone": ("build_resnet_fpn_backbone", 1),
    RETINANET: ("build_retinanet_resnet_fpn_backbone", 2),
}


def later_cfg(builder, **keys):
    return config(MODEL__FPN__IN_FEATURES=LATER, MODEL__BACKBONE__NAME=builder, **keys)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_pyramid_from_a_later_stage(builder, fused):
    """It has no level of res2, and levels of twice the stride each above res5, fused or not."""
    added = BUILDERS[builder][1]
    backbone = build_backbone(later_cfg(builder, MODEL__FREQFUSION__FUSED_TOP_LEVEL=fused), IMAGE)
    maps = backbone(torch.randn(1, 3, 130, 70))
    names = [f"p{stage}" for stage in range(3, 6 + added)]
    assert list(maps) == list(backbone.output_shape()) == names
    for stage, name in enumerate(names, start=3):
        assert backbone.output_shape()[name].stride == 2**stage
        assert maps[name].shape == (1, 32, -(-130 // 2**stage), -(-70 // 2**stage))
    fusions = {name for name, _ in backbone.named_children() if name.startswith("fpn_fusion")}
    assert fusions == {f"fpn_fusion{stage}" for stage in range(3, 5 + fused * added)}
    # All that is coarser takes part in the finest level where it is fused.
    maps["p3"].sum().backward()
    if fused:
        assert backbone.get_submodule(f"fpn_lateral{5 + added}").weight.grad.any()


@pytest.mark.parametrize("builder", BUILDERS)
def test_switched_off_it_is_detectron2s_from_a_later_stage(builder):
    ours = build_backbone(later_cfg(builder, MODEL__FREQFUSION__ENABLED=False), IMAGE).eval()
    theirs = build_backbone(
        later_cfg(BUILDERS[builder][0], MODEL__FREQFUSION__ENABLED=False), IMAGE
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    on = build_backbone(later_cfg(builder), IMAGE)
    missing, unexpected = on.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fpn_fusion") for name in missing)
    image = torch.randn(1, 3, 64, 96)
    expected = theirs(image)
    for name, value in ours(image).items():
        assert torch.equal(value, expected[name])


def test_fused_levels_are_strided_convolutions_that_are_fused():
    """By hand for nearest fusion, which adds the coarse map at the fine size."""
    keys = {"MODEL__FREQFUSION__FUSED_TOP_LEVEL": True, "MODEL__FREQFUSION__FUSE_TYPE": "nearest"}
    fpn = build_backbone(later_cfg(RETINANET, **keys), IMAGE).eval()
    image = torch.randn(1, 3, 128, 256)
    maps, found = fpn.bottom_up(image), fpn(image)

    def strided(stage, value):
        module = fpn.get_submodule(f"fpn_lateral{stage}")
        return F.conv2d(value, module.weight, module.bias, stride=2, padding=1)

    p6 = strided(6, maps["res5"])
    p7 = strided(7, p6)
    joined = {7: p7, 6: p6 + F.interpolate(p7, scale_factor=2)}
    joined[5] = fpn.fpn_lateral5(maps["res5"]) + F.interpolate(joined[6], scale_factor=2)
    for stage, value in joined.items():
        expected = fpn.get_submodule(f"fpn_output{stage}")(value)
        torch.testing.assert_close(found[f"p{stage}"], expected)


def test_every_key_reaches_the_module():
    """A key that FreqFusion does not know, or an argument without a key, would fail here."""
    cfg = config(MODEL__FREQFUSION__LOWPASS_KERNEL=3, MODEL__FREQFUSION__HAMMING_WINDOW=False)
    fusion = build_backbone(cfg, IMAGE).fpn_fusion3
    assert fusion.lowpass_kernel == 3
    assert fusion.lowpass_window is None
    arguments = set(FreqFusion.__init__.__annotations__) - {"hr_channels", "lr_channels", "return"}
    keys = {name.lower() for name in cfg.MODEL.FREQFUSION}
    assert arguments == keys - {"enabled", "fuse_type", "fused_top_level", "compress_ratio"}


def test_unknown_fuse_type():
    with pytest.raises(
        ValueError, match=r"FUSE_TYPE must be one of freqfusion, .*got 'freqfusoin'"
    ):
        build_backbone(config(MODEL__FREQFUSION__FUSE_TYPE="freqfusoin"), IMAGE)

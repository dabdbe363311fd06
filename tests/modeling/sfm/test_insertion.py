"""Geometry of strided layers, and where resampling is inserted in backbones."""

import math

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.swin import PatchMerging
from sfm_backbones import IMAGE, Picks, sfm_cfg
from torch import nn
from toy_configs import change

from freqfusion.modeling import TimmBackbone
from freqfusion.modeling.sfm.geometry import geometry_of, to_channels_first
from freqfusion.modeling.sfm.insertion import find_points

CONVOLUTIONS = [
    # kernel, stride, padding, dilation; phase = dilation * (kernel - 1) / 2 - padding
    (3, 2, 1, 1, 0.0),
    (1, 2, 0, 1, 0.0),
    (2, 2, 0, 1, 0.5),
    (4, 4, 0, 1, 1.5),
    (7, 4, 3, 1, 0.0),
    (3, 2, 2, 2, 0.0),
    (3, 2, 0, 1, 1.0),
]


def bare(kind="resnet", **keys):
    return build_backbone(sfm_cfg(kind, MODEL__SFM__ENABLED=False, **keys), IMAGE)


class Branches(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "phase"), CONVOLUTIONS)
def test_convolution(kernel, stride, padding, dilation, phase):
    """A mean over the window of a ramp is the ramp at the window's centre."""
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
    nn.init.constant_(layer.weight, 1 / kernel**2)
    geometry = geometry_of(layer, "layer")
    assert (geometry.stride, geometry.phase) == (stride, phase)
    ramp = torch.arange(30.0).expand(1, 1, 30, 30)
    out = layer(ramp)[0, 0]
    places = stride * torch.arange(out.shape[1]) + phase
    assert torch.allclose(out[3, 2:-2], places[2:-2])
    for size in range(dilation * (kernel - 1) + 1, 25):
        shape = layer(torch.zeros(1, 1, size, size + 1)).shape[-2:]
        assert geometry.out_size((size, size + 1)) == tuple(shape)


@pytest.mark.parametrize(
    ("layer", "phase"),
    [
        (nn.MaxPool2d(3, 2, 1), 0.0),
        (nn.AvgPool2d(2), 0.5),
        (nn.AvgPool2d(2, ceil_mode=True), 0.5),
        (nn.MaxPool2d(3, 2, ceil_mode=True), 1.0),
        (nn.AvgPool2d(1, 2, ceil_mode=True), 0.0),
        (nn.MaxPool2d(3, 3, 1, ceil_mode=True), 0.0),
        (nn.Conv2d(1, 1, 2, 2, padding="valid"), 0.5),
    ],
)
def test_pooling(layer, phase):
    geometry = geometry_of(layer, "layer")
    assert geometry.phase == phase
    for size in range(4, 25):
        shape = layer(torch.zeros(1, 1, size, size + 1)).shape[-2:]
        assert geometry.out_size((size, size + 1)) == tuple(shape)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [2, 3])
def test_padding_of_tensorflow(kernel, stride):
    """The center of a kernel on a ramp reads its own place, away from the borders."""
    layers = pytest.importorskip("timm.layers")
    layer = layers.Conv2dSame(1, 1, kernel, stride, bias=False)
    nn.init.constant_(layer.weight, 1 / kernel**2)
    geometry = geometry_of(layer, "layer")
    ramp = torch.arange(8.0 * stride).expand(1, 1, 8 * stride, -1)
    expected = stride * torch.arange(8.0) + geometry.phase
    torch.testing.assert_close(layer(ramp)[0, 0, 4, 2:-2], expected[2:-2])
    for size in range(4, 25):
        shape = layer(torch.zeros(1, 1, size, size + 1)).shape[-2:]
        assert geometry.out_size((size, size + 1)) == tuple(shape)


def test_merging_of_patches():
    """Pixel j averages 2j and 2j + 1; zeros complete odd sizes."""
    layer = PatchMerging(dim=2)
    geometry = geometry_of(layer, "layer")
    assert (geometry.stride, geometry.phase) == (2, 0.5)
    for size in range(1, 12):
        count = layer(torch.zeros(1, size * (size + 1), 2), size, size + 1).shape[1]
        assert math.prod(geometry.out_size((size, size + 1))) == count


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), "the module has no strided convolution or pooling"),
        (nn.ConvTranspose2d(1, 1, 2, 2), "has no strided convolution"),
        (
            Branches(nn.Conv2d(1, 1, 3, 2, 1), nn.AvgPool2d(2)),
            r"positions \(branches.0: stride 2, phase 0, branches.1: stride 2, phase 0.5\)",
        ),
        (Branches(nn.Conv2d(1, 1, 1, 2), nn.Conv2d(1, 1, 1, 4)), "at different positions"),
        (nn.Conv2d(1, 1, 3, (1, 2), 1), "treats height and width differently"),
    ],
)
def test_geometry_that_is_none(module, message):
    with pytest.raises(ValueError, match=message):
        geometry_of(module, "the module")


def test_strides_inside_attention_are_none_of_the_map():
    """As in PVT, which computes keys and values on a smaller map."""
    block = nn.Module()
    block.attn = nn.Conv2d(1, 1, 4, 4)
    block.step = nn.Conv2d(1, 1, 3, 2, 1)
    assert geometry_of(block, "block").stride == 2


@pytest.mark.parametrize(
    ("kind", "path", "phase", "channels"),
    [
        ("resnet", "res{}.0", 0.0, [64, 128, 256]),
        ("timm_resnet", "model.layer{0}.0", 0.0, [64, 128, 256]),
        ("convnext", "model.stages_{0}.downsample", 0.5, [40, 80, 160]),
        ("timm_swin", "model.layers_{0}.downsample", 0.5, [96, 192, 384]),
        ("swin", "layers.{0}.downsample", 0.5, [16, 32, 64]),
        ("internimage", "levels.{0}.downsample", 0.0, [16, 32, 64]),
    ],
)
def test_auto_points(kind, path, phase, channels):
    """Three, before 1/8, 1/16 and 1/32; d2 counts stages from 2, timm from 1 or the next one."""
    first = {"resnet": 3, "timm_resnet": 2, "convnext": 1, "timm_swin": 1}.get(kind, 0)
    points = find_points(bare(kind))
    assert [point.feature for point in points] == ["res2", "res3", "res4"]
    assert [point.path for point in points] == [path.format(first + index) for index in range(3)]
    assert [point.stride for point in points] == [4, 8, 16]
    assert [point.channels for point in points] == channels
    assert {(point.geometry.stride, point.geometry.phase) for point in points} == {(2, phase)}
    assert {point.channels_last for point in points} == {"swin" in kind or "intern" in kind}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("efficientnet_b0", ["blocks.2.0", "blocks.3.0", "blocks.5.0"]),
        ("regnetx_002", ["s2.b1", "s3.b1", "s4.b1"]),
        ("pvt_v2_b0", ["stages_1.downsample", "stages_2.downsample", "stages_3.downsample"]),
        ("mobilevit_xxs", ["stages_2.0", "stages_3.0", "stages_4.0"]),
    ],
)
def test_auto_points_of_other_models(name, paths):
    pytest.importorskip("timm")
    points = find_points(TimmBackbone(name=name))
    assert [point.path for point in points] == [f"model.{path}" for path in paths]


def test_points_that_nothing_depends_on_are_left_out():
    """They would get no gradients; and a stage without a stride has no point."""
    paths = {"MODEL__TIMM__OUT_FEATURES": ["res2", "res3"]}
    assert [point.feature for point in find_points(bare("convnext", **paths))] == ["res2"]
    cfg = sfm_cfg(MODEL__SFM__ENABLED=False, MODEL__RESNETS__DEPTH=50)
    change(cfg, {"MODEL__RESNETS__RES5_DILATION": 2, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256})
    points = find_points(build_backbone(cfg, IMAGE))
    assert [point.path for point in points] == ["res3.0", "res4.0"]


def test_explicit_points_and_phases():
    """The step behind them is found: it counts for the places of pixels, but moves none."""
    points = find_points(Picks(), {"res3": "step4", "res2": "step3"}, {"res3": 0.25})
    assert [(p.feature, p.path, p.geometry.phase, p.is_modulated) for p in points] == [
        ("res2", "step3", 0.0, True),
        ("res3", "step4", 0.25, True),
        ("res4", "step5", 0.0, False),
    ]
    # The size is the layer's own, whatever the phase.
    assert points[1].geometry.out_size((7, 8)) == (4, 4)
    assert find_points(Picks(), {}) == ()
    assert [point.feature for point in find_points(Picks(), {"res4": "step5"})] == ["res4"]


def test_a_phase_settles_what_branches_disagree_on():
    timm = pytest.importorskip("timm")
    assert timm.is_model("resnet26d")
    backbone = TimmBackbone(name="resnet26d", out_features=["res2", "res3"])
    with pytest.raises(ValueError, match="lay their pixels at different positions"):
        find_points(backbone)
    (point,) = find_points(backbone, {"res2": "model.layer2.0"}, {"res2": 0.25})
    assert point.geometry.phase == 0.25
    assert point.geometry.out_size((16, 24)) == (8, 12)


@pytest.mark.parametrize(
    ("points", "phases", "message"),
    [
        ("Auto", None, "points must be \"auto\" or a module for each feature, got 'Auto'"),
        ({"p2": "step3"}, None, "points must be given for res2, res3, res4, res5; got p2"),
        ({"res2": "step3"}, {"res3": 0.5}, "phases must be given for res2; got res3"),
        ({"res2": "step7"}, None, "Picks has no module 'step7' to resample res2 for; its parts"),
    ],
)
def test_errors(points, phases, message):
    with pytest.raises(ValueError, match=message):
        find_points(Picks(), points, phases)


def test_backbones_without_points():
    backbone = Picks()
    backbone._out_features = ["res2"]
    with pytest.raises(ValueError, match="Picks returns no map coarser than stride 4"):
        find_points(backbone)
    backbone = Picks()
    del backbone._out_feature_strides["res3"]
    backbone._out_features.remove("res3")
    with pytest.raises(ValueError, match=r"no map of stride 8, which step4 would take: name"):
        find_points(backbone)
    for stage in (2, 3, 4, 5):
        setattr(backbone, f"step{stage}", nn.Identity())
    with pytest.raises(ValueError, match=r"layers of Picks .* were not recognised: name the"):
        find_points(backbone)
    lists = Picks()
    lists.steps = nn.ModuleList([nn.Conv2d(3, 3, 1, 2)])
    with pytest.raises(ValueError, match="steps is a list of modules, which is never called"):
        find_points(lists, {"res2": "steps"})


def test_layouts():
    """All three layouts; where C is also W, the hint decides."""
    maps = torch.randn(2, 3, 4, 5)
    last, tokens = maps.permute(0, 2, 3, 1), maps.flatten(2).transpose(1, 2)
    for args in [(maps,), (last,), (tokens, 4, 5)]:
        found, restore = to_channels_first(args, channels=3, channels_last=False, where="here")
        assert torch.equal(found, maps)
        assert torch.equal(restore(found), args[0])
    square = torch.randn(1, 3, 4, 3)
    for hint in (False, True):
        found, _ = to_channels_first((square,), channels=3, channels_last=hint, where="here")
        assert torch.equal(found, square.permute(0, 3, 1, 2) if hint else square)


@pytest.mark.parametrize("args", [(), (torch.zeros(1, 4, 4, 4),), (torch.zeros(1, 6, 3), 2, 4)])
def test_layouts_that_are_none(args):
    with pytest.raises(ValueError, match=r"here must be called with a map of 3 channels .* got "):
        to_channels_first(args, channels=3, channels_last=False, where="here")

"""Modulated backbones by configuration: switches, names, messages, and a step of training."""

import pytest
import torch
from detectron2.modeling import FPN, build_backbone
from sfm_backbones import IMAGE, KINDS, sfm_cfg

from freqfusion.modeling import FreqFusionFPN, ModulatedBackbone
from freqfusion.modeling.sfm.backbone import parse_points

PYRAMID = "build_sfm_freqfusion_fpn_backbone"


@pytest.mark.parametrize("kind", ["resnet", "convnext", "swin"])
def test_switched_off_it_is_the_bare_backbone(kind):
    """Same class, keys and bits; and switched on, only what is new is drawn after it."""
    cfg = sfm_cfg(kind, MODEL__SFM__ENABLED=False)
    torch.manual_seed(0)
    ours = build_backbone(cfg, IMAGE).eval()
    cfg.MODEL.BACKBONE.NAME = KINDS[kind][0]
    torch.manual_seed(0)
    theirs = build_backbone(cfg, IMAGE).eval()
    assert type(ours) is type(theirs)
    torch.manual_seed(0)
    modulated = build_backbone(sfm_cfg(kind), IMAGE)
    assert isinstance(modulated, ModulatedBackbone)
    expected, state = ours.state_dict(), modulated.state_dict()
    assert list(expected) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(expected[name], value)
        assert torch.equal(state[name], value)


def test_every_key_reaches_the_modules():
    backbone = build_backbone(
        sfm_cfg(
            MODEL__SFM__POINTS="res2=res3.0@0.25, res3=res4.0",
            MODEL__SFM__DEMODULATE="head",
            MODEL__SFM__FWHM=6.0,
            MODEL__SFM__RADIUS=9,
            MODEL__SFM__LOGIT_BOUND=1.5,
            MODEL__SFM__STRENGTH=0.5,
            MODEL__SFM__PSP_RATIO=4,
            MODEL__SFM__HIGHPASS=False,
            MODEL__SFM__DETACH_GRID=True,
            MODEL__SFM__SOLVER="search",
            MODEL__SFM__SOLVER_ITERS=7,
            MODEL__SFM__GRAD="implicit",
        ),
        IMAGE,
    )
    assert [(p.path, p.geometry.phase, p.is_modulated) for p in backbone.points] == [
        ("res3.0", 0.25, True),
        ("res4.0", 0.0, True),
        ("res5.0", 0.0, False),
    ]
    assert list(backbone.sfm) == ["res2", "res3"]
    head = backbone.sfm["res2"]
    assert (head.fwhm, head.radius, head.strength, head.detach_grid) == (6.0, 9, 0.5, True)
    assert head.attention.logit_bound == 1.5
    assert head.attention.context[0].reduce.out_channels == 16
    assert isinstance(head.attention.highpass, torch.nn.Identity)
    upsample = backbone.upsample
    assert (upsample.solver, upsample.interp, upsample.iters) == ("search", "barycentric", 7)
    assert (upsample.grad, backbone.demodulation) == ("implicit", "head")


def test_without_displacement_and_supervision_there_is_no_attention():
    """Heads that never get a gradient stop training on several processes."""
    keys = {"MODEL__SFM__STRENGTH": 0.0, "MODEL__SFM__EDGE_LOSS_WEIGHT": 0.0}
    idle = build_backbone(sfm_cfg(**keys), IMAGE)
    bare = build_backbone(sfm_cfg(MODEL__SFM__ENABLED=False), IMAGE)
    assert list(idle.state_dict()) == list(bare.state_dict())
    supervised = build_backbone(sfm_cfg(MODEL__SFM__STRENGTH=0.0), IMAGE)
    assert list(supervised.sfm) == ["res2", "res3", "res4"]


@pytest.mark.parametrize(
    ("kind", "fusion"),
    [("resnet", True), ("convnext", True), ("swin", False), ("internimage", True)],
)
def test_both_methods_in_one_model_train_a_step(kind, fusion):
    """Every parameter gets a gradient, at any size: nothing that several processes would miss."""
    torch.manual_seed(0)
    backbone = build_backbone(sfm_cfg(kind, PYRAMID, MODEL__FREQFUSION__ENABLED=fusion), IMAGE)
    assert type(backbone) is (FreqFusionFPN if fusion else FPN)
    assert isinstance(backbone.bottom_up, ModulatedBackbone)
    size = (65, 97) if fusion else (64, 96)  # Detectron2's pyramid needs multiples of 32
    images = torch.randn(2, 3, *size)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
    maps = backbone(images)
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    loss = sum(value.square().mean() for value in maps.values())
    loss.backward()
    names = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert not names
    optimizer.step()
    assert all(value.isfinite().all() for value in backbone(images).values())


def test_points_as_text():
    assert parse_points(" auto ") == ("auto", {})
    assert parse_points("res2=res3.0,res3 = res4.0 @ 0.5") == (
        {"res2": "res3.0", "res3": "res4.0"},
        {"res3": 0.5},
    )


@pytest.mark.parametrize("text", ["", "res3.0", "res2=", "res2=res3.0@half", "res2=a, res2=b"])
def test_points_that_are_none(text):
    with pytest.raises(ValueError, match=r'POINTS must be "auto" or name each feature once'):
        parse_points(text)


@pytest.mark.parametrize(
    ("builder", "keys", "message"),
    [
        (
            "build_sfm_backbone",
            {"MODEL__SFM__BACKBONE": "build_resnest_backbone"},
            r"MODEL.SFM.BACKBONE must be one of .*build_resnet_backbone.*got build_resnest",
        ),
        (
            "build_sfm_backbone",
            {"MODEL__SFM__BACKBONE": "build_resnet_fpn_backbone"},
            r"without a pyramid, got build_resnet_fpn_backbone; .*build_sfm_freqfusion_fpn",
        ),
        (
            "build_sfm_backbone",
            {"MODEL__SFM__BACKBONE": "build_sfm_backbone"},
            "names the backbone that is modulated, so not build_sfm_backbone",
        ),
        (
            PYRAMID,
            {"MODEL__SFM__DEMODULATE": "head"},
            "set MODEL.SFM.DEMODULATE to \"exit\", got 'head'",
        ),
        (
            "build_sfm_backbone",
            {"MODEL__SFM__POINTS": "res2=res7.0"},
            "ResNet has no module 'res7.0' to resample res2 for; its parts are stem, res2",
        ),
    ],
)
def test_errors(builder, keys, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(sfm_cfg("resnet", builder, **keys), IMAGE)

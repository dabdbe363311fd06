"""What all backbones promise: Swin, InternImage, MSCAN, and timm's models."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_backbone
from sfm_backbones import KINDS
from toy_configs import change, resnet18_cfg

from freqfusion.modeling import MSCAN, FreqFusionFPN, InternImage, SwinTransformer

IMAGE = ShapeSpec(channels=3)
OURS = {
    "swin": (
        SwinTransformer,
        {"embed_dim": 8, "depths": (2, 3), "num_heads": (2, 4), "out_features": ("res2", "res3")},
    ),
    "internimage": (
        InternImage,
        {"channels": 8, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8), "drop_path_rate": 0.0},
    ),
    "mscan": (
        MSCAN,
        {
            "embed_dims": (8, 8, 12, 16),
            "depths": (1, 1, 2, 1),
            "mlp_ratios": (4, 4, 2, 2),
            "drop_path_rate": 0.0,
        },
    ),
}
PYRAMIDS = {
    "build_internimage_backbone": "build_internimage_freqfusion_fpn_backbone",
    "build_timm_backbone": "build_timm_freqfusion_fpn_backbone",
}


def config(kind, **keys):
    builder, small = KINDS[kind]
    if "timm" in builder:
        pytest.importorskip("timm", reason="needs the extra 'timm'")
    return change(resnet18_cfg(), {"MODEL__BACKBONE__NAME": builder} | small | keys)


def small(kind, seed=0, **changes):
    torch.manual_seed(seed)
    build, options = OURS[kind]
    return build(**options | changes)


def images(*size, batch=1, seed=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(33, 95), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "resnet"])
def test_maps_have_the_promised_shapes(kind, size):
    backbone = build_backbone(config(kind), IMAGE).eval()
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        maps = backbone(images(*size))
    assert list(maps) == list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    for number, (stage, shape) in enumerate(backbone.output_shape().items()):
        assert shape.stride == 4 * 2**number
        assert maps[stage].shape[1] == shape.channels
        assert maps[stage].shape[-2:] == tuple(-(-s // shape.stride) for s in size)
        assert maps[stage].is_contiguous()
        assert maps[stage].isfinite().all()


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("kind", ["internimage", "convnext"])
def test_under_the_pyramid(kind, enabled):
    """Every parameter gets a gradient, so that processes can train in parallel."""
    pyramid = {"MODEL__BACKBONE__NAME": PYRAMIDS[KINDS[kind][0]]}
    backbone = build_backbone(config(kind, **pyramid, MODEL__FREQFUSION__ENABLED=enabled), IMAGE)
    assert type(backbone) is (FreqFusionFPN if enabled else FPN)
    assert backbone.size_divisibility == 32
    maps = backbone(images(*((65, 97) if enabled else (64, 96))))
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    assert maps["p2"].shape == ((1, 32, 17, 25) if enabled else (1, 32, 16, 24))
    sum(value.square().mean() for value in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("kind", OURS)
def test_images_of_a_batch_do_not_meet(kind):
    model, batch = small(kind).eval(), images(30, 34, batch=3)
    with torch.no_grad():
        together, alone = model(batch), model(batch[1:2])
    for name, maps in together.items():
        torch.testing.assert_close(maps[1], alone[name][0])


@pytest.mark.parametrize("kind", OURS)
def test_checkpointing_changes_nothing_and_keeps_less(kind):
    """Not even which images go without a branch."""
    gradients, kept = [], []
    for use_checkpoint in (False, True):
        model, saved = small(kind, use_checkpoint=use_checkpoint, drop_path_rate=0.5), []
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # noqa: B023
            maps = model(images(33, 41, batch=4))
        sum(value.square().mean() for value in maps.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        kept.append(sum(t.numel() for t in saved if not isinstance(t, torch.nn.Parameter)))
    assert kept[1] < kept[0] / 3
    for name, value in gradients[0].items():
        assert value is not None, name
        torch.testing.assert_close(gradients[1][name], value, msg=name)


@pytest.mark.parametrize("kind", OURS)
def test_half_precision(kind):
    """Under autocast, with gradients, and with all weights in the type."""
    image = images(33, 41)
    expected = small(kind).eval()(image)
    model = small(kind).eval()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(image)
    sum(value.float().square().mean() for value in mixed.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    low = small(kind).eval().to(torch.bfloat16)(image.to(torch.bfloat16))
    for name, value in expected.items():
        assert low[name].dtype == torch.bfloat16
        for maps in (mixed[name], low[name]):
            error = (maps.float() - value).std() / value.std()
            assert error < 0.05


@pytest.mark.parametrize("kind", OURS)
def test_stochastic_depth_grows_block_by_block_and_is_off_in_evaluation(kind):
    """In the five blocks that each of the models has."""
    model = small(kind, drop_path_rate=0.4)
    blocks = [module for module in model.modules() if hasattr(module, "drop_path")]
    rates = [getattr(block.drop_path, "p", 0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    plain = small(kind, drop_path_rate=0.0).eval()(images(33, 41, batch=2))
    for name, value in model.eval()(images(33, 41, batch=2)).items():
        assert torch.equal(value, plain[name])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("swin", {"window_size": 0}, "window_size must be positive, got 0"),
        ("swin", {"num_heads": (2, 3)}, "must divide .* got 3 heads for 16 channels"),
        ("swin", {"out_features": ("res2", "res4")}, "the stages res2, res3, got res2, res4"),
        ("internimage", {"channels": 9, "groups": (1, 1, 1, 1)}, "channels must be even, .*got 9"),
        ("internimage", {"groups": (1, 3, 4, 8)}, "got 3 groups for 16 channels"),
        ("internimage", {"layer_scale": -1.0}, "layer_scale must not be negative, got -1.0"),
        ("internimage", {"offset_scale": 0.0}, "offset_scale must be positive, got 0.0"),
        ("mscan", {"embed_dims": (1, 8, 8, 8)}, r"at least 2 channels, .* got \[1, 8, 8, 8\]"),
        ("mscan", {"mlp_ratios": (4, 4)}, r"a number for each stage.* and \[4, 4\]"),
        ("mscan", {"norm": ""}, 'norm must name a normalization such as "BN"'),
        *[
            (kind, {"mlp_ratio": 0.0}, "must leave the perceptrons a width, got 0.0 of 8 channels")
            for kind in ("swin", "internimage")
        ],
        *[
            (kind, changes, message)
            for kind in OURS
            for changes, message in (
                ({"drop_path_rate": 1.0}, "drop_path_rate must be from 0 to below 1, got 1.0"),
                ({"out_features": ()}, "the stages res2, .*got none"),
            )
        ],
    ],
)
def test_arguments_that_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **changes)


@pytest.mark.parametrize("kind", OURS)
def test_images_that_are_refused(kind):
    with pytest.raises(ValueError, match=r"images must be \(batch, 3, height, width\).*got \("):
        small(kind)(torch.zeros(1, 4, 8, 8))

"""SegNeXt in Detectron2: sizes, start, the factorization in training and evaluation, errors.

Its numbers are compared with the reference's in ``test_golden_segnext.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model, build_sem_seg_head
from segnext_models import SEGNEXT, segnext_cfg
from toy_configs import change

from freqfusion import get_freqfusion_cfg
from freqfusion.layers import CarafeUpsampling, FreqFusionConcat
from freqfusion.modeling import MSCAN
from freqfusion.modeling.light_ham_head import (
    Hamburger,
    NonNegativeFactorization,
    ResizedConcatenation,
    factorize,
)

IMAGE = ShapeSpec(channels=3)
SHAPES = {
    "res3": ShapeSpec(channels=16, stride=8),
    "res4": ShapeSpec(channels=32, stride=16),
    "res5": ShapeSpec(channels=32, stride=32),
}
WIDE = {"embed_dims": (64, 128, 320, 512)}
# Arguments, width and rank of the head, millions of parameters with 150 classes.
PUBLISHED = {
    "T": ({}, 256, 16, 4.26),
    "S": ({**WIDE, "depths": (2, 2, 4, 2)}, 256, 16, 13.9),
    "B": ({**WIDE, "depths": (3, 3, 12, 3)}, 512, 64, 27.6),
    "L": ({**WIDE, "depths": (3, 5, 27, 3)}, 1024, 64, 48.9),
}


def maps(height, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            batch,
            shape.channels,
            -(-height // shape.stride),
            -(-width // shape.stride),
            generator=generator,
        )
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    arguments, width, rank, millions = PUBLISHED[size]
    keys = {f"MODEL__MSCAN__{name.upper()}": list(value) for name, value in arguments.items()}
    keys |= {
        "MODEL__DEVICE": "meta",
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 150,
        "MODEL__SEM_SEG_HEAD__CONVS_DIM": width,
        "MODEL__LIGHT_HAM__RANK": rank,
    }
    with torch.device("meta"):
        model = build_model(change(get_freqfusion_cfg(), SEGNEXT | keys))
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted / 1e6 == pytest.approx(millions, rel=0.003)
    image = torch.zeros(3, 61, 90, device="meta")
    (found,) = model.eval()([{"image": image, "height": 61, "width": 90}])
    assert found["sem_seg"].shape == (150, 61, 90)


# The factorization


def test_factors_of_a_matrix_of_rank_one():
    """Found in one step from any base: the codes are then the columns' scales."""
    vectors = torch.tensor([[1.0], [2.0], [2.0]]) @ torch.tensor([[3.0, 1.0, 5.0, 2.0]])
    found = factorize(vectors[None], torch.tensor([[[1.0], [1.0], [3.0]]]), steps=1)
    torch.testing.assert_close(found[0], vectors, rtol=1e-5, atol=0)


def test_updates_never_move_away():
    """Lee and Seung: the squared error does not grow from step to step."""
    torch.manual_seed(0)
    vectors, bases = torch.rand(2, 6, 30).double(), torch.rand(2, 6, 3).double()
    errors = [
        (factorize(vectors, bases, steps=steps) - vectors).square().sum().item()
        for steps in range(8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_evaluation_depends_on_nothing_but_the_image():
    module, batch = NonNegativeFactorization(channels=8, rank=3).eval(), torch.rand(3, 8, 5, 4)
    together = module(batch)
    torch.manual_seed(7)
    again = NonNegativeFactorization(channels=8, rank=3).eval()
    assert torch.equal(again(batch), together)
    torch.testing.assert_close(again(batch[1:2])[0], together[1])
    assert not module.state_dict()


def test_training_draws_bases_anew():
    module, batch = NonNegativeFactorization(channels=8, rank=3), torch.rand(2, 8, 5, 4)
    torch.manual_seed(7)
    first, second = module(batch), module(batch)
    torch.manual_seed(7)
    assert torch.equal(module(batch), first)
    assert not torch.allclose(second, first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """Zeros too, whose smallest denominators float16 does not have."""
    module, batch = NonNegativeFactorization(channels=8, rank=3).eval(), torch.rand(1, 8, 5, 4)
    batch[:, :, 0] = 0
    expected = module(batch.to(dtype).float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(batch.to(dtype)), expected.to(dtype))


# The head


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, ResizedConcatenation),
        ({"MODEL__FREQFUSION__ENABLED": True}, FreqFusionConcat),
    ],
)
def test_one_word_switches_the_fusion(keys, kind):
    head = build_sem_seg_head(segnext_cfg(**keys), SHAPES)
    assert type(head.join) is kind
    assert head.join.out_channels == 16 + 32 + 32
    logits, losses = head.eval()(maps(64, 96))
    assert logits.shape == (1, 5, 64, 96)
    assert losses == {}


def test_other_fusions_join_step_by_step():
    keys = {"MODEL__FREQFUSION__ENABLED": True, "MODEL__FREQFUSION__FUSE_TYPE": "carafe"}
    head = build_sem_seg_head(segnext_cfg(**keys), SHAPES)
    assert all(type(fusion) is CarafeUpsampling for fusion in head.join.fusions)


def test_low2high_residual_refines_the_fine_map():
    """By the map of the step before, the first one of the joined channels, convolved."""
    torch.manual_seed(0)
    options = {"in_channels": (8, 12, 20), "compress_ratio": 2}
    plain = FreqFusionConcat(**options)
    residual = FreqFusionConcat(**options, low2high_residual=True)
    assert residual.groups == 1
    assert plain.groups == 4
    residual.load_state_dict(plain.state_dict(), strict=False)
    fine, middle, coarse = (
        torch.randn(1, c, *s) for c, s in ((8, (8, 8)), (12, (4, 4)), (20, (2, 2)))
    )
    _, high, low = residual.fusions[0](middle, coarse)
    joined = torch.cat([high + residual.low2high_convs[0](low), low], dim=1)
    _, high, low = residual.fusions[1](fine, joined)
    expected = torch.cat([high + residual.low2high_convs[1](low[:, :12]), low], dim=1)
    torch.testing.assert_close(residual([fine, middle, coarse]), expected)


def test_maps_are_resized_to_the_first_one():
    features = list(maps(40, 56).values())
    joined = ResizedConcatenation(in_channels=(16, 32, 32), align_corners=True)(features)
    last = F.interpolate(features[2], size=(5, 7), mode="bilinear", align_corners=True)
    assert torch.equal(joined[:, 48:], last)
    assert torch.equal(joined[:, :16], features[0])


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (61, 90), (33, 95)])
def test_in_detectron2s_segmentor(size, enabled):
    """Trains with a gradient for each parameter; evaluation gives the same numbers each time."""
    torch.manual_seed(0)
    model = build_model(segnext_cfg(MODEL__FREQFUSION__ENABLED=enabled))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    inputs = {"image": image, "sem_seg": torch.randint(0, 5, size)}
    losses = model([inputs | {"height": size[0], "width": size[1]}] * 2)
    losses["loss_sem_seg"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    with torch.no_grad():
        first, again = (model([{"image": image, "height": 50, "width": 70}])[0] for _ in range(2))
    assert first["sem_seg"].shape == (5, 50, 70)
    assert torch.equal(first["sem_seg"], again["sem_seg"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trains_in_mixed_precision(dtype):
    """With the loss of full precision, nearly; the factorization is never in half precision."""
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = build_model(segnext_cfg(MODEL__FREQFUSION__ENABLED=True))
        inputs = {"image": 255 * torch.rand(3, 64, 96), "sem_seg": torch.randint(0, 5, (64, 96))}
        with torch.autocast("cpu", dtype, enabled=enabled):
            losses.append(model([inputs, inputs])["loss_sem_seg"])
        losses[-1].backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_keys_are_the_arguments_and_the_defaults_are_ts():
    arguments = MSCAN.from_config(get_freqfusion_cfg(), IMAGE)
    assert set(arguments) == set(MSCAN.__init__.__annotations__) - {"return"}
    cfg = change(get_freqfusion_cfg(), {"MODEL__BACKBONE__NAME": "build_mscan_backbone"})
    backbone, default = build_backbone(cfg, IMAGE), MSCAN()
    assert {n: p.shape for n, p in backbone.named_parameters()} == {
        n: p.shape for n, p in default.named_parameters()
    }


def test_other_channels():
    """An odd number in the first stage, whose stem begins with half of it, and images of four."""
    backbone = MSCAN(
        embed_dims=(5, 8), depths=(1, 1), mlp_ratios=(1.5, 2), in_channels=4, out_features=["res3"]
    ).eval()
    assert backbone.patch_embed1.proj[0].weight.shape == (2, 4, 3, 3)
    assert backbone.block1[0].mlp.fc1.out_channels == 7
    assert backbone.size_divisibility == 8
    assert backbone(torch.rand(1, 4, 9, 17))["res3"].shape == (1, 8, 2, 3)


def test_start():
    """Weights with a variance of 2 over what reads an input: 1 / 12.5 for a 5 x 5 depthwise one.

    In stage 4 of T, fc1 has 4 * 256 outputs, a deviation of sqrt(2 / 1024) = 0.0442.
    """
    torch.manual_seed(0)
    block = MSCAN().block4[0]
    assert block.attn.spatial_gating_unit.conv0.weight.std().item() == pytest.approx(0.283, rel=0.1)
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.0442, rel=0.02)
    assert not block.mlp.fc1.bias.any()
    assert torch.equal(block.layer_scale_1, torch.full((256,), 0.01))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: NonNegativeFactorization(channels=10, splits=3),
            "got 3 splits of 10 channels",
        ),
        (lambda: Hamburger(channels=32, rank=0), "rank must be positive, got 0"),
        # 28 channels cannot be normalized in 28 // 8 groups.
        (
            lambda: FreqFusionConcat(in_channels=(24, 32), compress_ratio=2),
            "gives 28 compressed channels: group normalisation",
        ),
        (
            lambda: NonNegativeFactorization(channels=8)(torch.rand(1, 4, 3, 3)),
            r"maps must be \(batch, 8, height, width\), got \(1, 4, 3, 3\)",
        ),
        (
            lambda: build_sem_seg_head(
                segnext_cfg(MODEL__SEM_SEG_HEAD__IN_FEATURES=["res2", "res3"]), SHAPES
            ),
            "IN_FEATURES names res2; the backbone has res3, res4, res5",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()

"""Supervision of the attention around Detectron2's models and Mask2Former."""

import math

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from sfm_models import (
    ARCHITECTURES,
    box_instances,
    built,
    example,
    plain_cfg,
    semantic_cfg,
    sfm_cfg,
    shake_attention,
)

from freqfusion.layers.sfm import Mapping, MappingStack
from freqfusion.modeling.sfm import SFMSegmentor
from freqfusion.modeling.sfm.backbone import ModulatedBackbone
from freqfusion.modeling.sfm.recording import Modulations
from freqfusion.modeling.sfm.segmentor import ignored_pixels, label_edges, label_maps

CPU = torch.device("cpu")


def losses(model, inputs):
    torch.manual_seed(0)  # proposals and points are drawn
    with EventStorage():
        return model.train()(inputs)


def half_plane(height=32, width=32, column=16):
    labels = torch.zeros(height, width, dtype=torch.long)
    labels[:, column:] = 1
    return labels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_model_that_it_supervises(architecture):
    """Keys of the plain model without a prefix; new ones belong to attention and pixel decoder."""
    plain, model = built(plain_cfg(architecture)), built(sfm_cfg(architecture))
    assert isinstance(model, SFMSegmentor)
    assert isinstance(model, type(plain))
    expected, found = plain.state_dict(), model.state_dict()
    assert set(expected) <= set(found)
    new = set(found) - set(expected)
    assert all(".sfm." in key or "reassemblies" in key or key.endswith("gain") for key in new)
    assert any(".sfm." in key for key in new)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_are_the_models_with_attention_of_zero_and_no_weight(architecture):
    plain = built(plain_cfg(architecture))
    model = built(sfm_cfg(architecture, MODEL__SFM__EDGE_LOSS_WEIGHT=0.0))
    model.load_state_dict(plain.state_dict(), strict=False)
    inputs = [example(architecture), example(architecture, seed=4)]
    expected, found = losses(plain, inputs), losses(model, inputs)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trains_a_step_and_predicts(architecture):
    """One image; every parameter gets a gradient, so that processes can train in parallel."""
    model = shake_attention(built(sfm_cfg(architecture)))
    inputs = example(architecture, 43, 65)
    found = losses(model, [inputs])
    assert found["loss_attention"] > 0
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        outputs = model.eval()([{"image": inputs["image"], "height": 50, "width": 70}])[0]
    if "sem_seg" in outputs:
        assert outputs["sem_seg"].shape[-2:] == (50, 70)


def test_trains_in_bfloat16():
    model = shake_attention(built(sfm_cfg("Mask2Former")))
    inputs = [example("Mask2Former", 43, 65)]
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model, inputs)
    assert found["loss_attention"].dtype == torch.float32
    sum(found.values()).backward()
    torch.testing.assert_close(
        found["loss_attention"], losses(model, inputs)["loss_attention"], rtol=0.1, atol=1e-3
    )


def test_losses_by_hand():
    """Attention of zero on a lattice of 8 x 8 pixels of stride 4, a change of class at column 16.

    Columns 14 to 17 are edges, so lattice columns 3 and 4 have 1/2. With the floor the weights are
    0.525 in two columns and 0.025 in six, 1.2 in a row: the two have 7/8 of the distribution. The
    divergence from an even one is 7/8 log(64 * 0.525 / 9.6) + 1/8 log(64 * 0.025 / 9.6).
    """
    model = built(sfm_cfg("SemanticSegmentor"))
    seen = Modulations({"res2": MappingStack()}, {"res2": torch.zeros(1, 1, 8, 8)})
    found = model.attention_loss([{"sem_seg": half_plane()}], seen)
    expected = 7 / 8 * math.log(3.5) + 1 / 8 * math.log(1 / 6)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    half = Modulations(
        {"res2": MappingStack(), "res3": MappingStack()},
        {"res2": torch.zeros(1, 1, 8, 8), "res3": torch.zeros(1, 1, 4, 4)},
    )
    # On 4 x 4 pixels columns 1 and 2 have 1/4: weights 0.2625 and 0.0125, 0.55 in a row.
    coarse = 21 / 22 * math.log(16 * 0.2625 / 2.2) + 1 / 22 * math.log(16 * 0.0125 / 2.2)
    found = model.attention_loss([{"sem_seg": half_plane()}], half)
    assert found.item() == pytest.approx((expected + coarse) / 2, rel=1e-4)


def test_edges_are_brought_to_the_space_of_the_attention():
    """A stage that reads everything 4 pixels further right shows the edge one node further left.

    Of eight columns the third and the fourth node, instead of the fourth and fifth, see it; one
    stage of stride 1 on the lattice of stride 4, so one pixel of displacement.
    """
    model = built(sfm_cfg("SemanticSegmentor"))
    displacement = torch.zeros(1, 2, 8, 8)
    displacement[:, 0] = 1
    stack = MappingStack([Mapping(displacement, False, 1, 0.0, (8, 8))])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 8, 8, generator=generator)
    still = Modulations({"res2": MappingStack()}, {"res2": logits})
    moved = Modulations({"res2": stack}, {"res2": logits})
    found = model.attention_loss([{"sem_seg": half_plane()}], moved)
    expected = model.attention_loss([{"sem_seg": half_plane(column=12)}], still)
    torch.testing.assert_close(found, expected)
    other = model.attention_loss([{"sem_seg": half_plane()}], still)
    assert (found - other).abs() > 1e-3


def test_images_without_labels_or_objects_have_finite_losses():
    inputs = example("SemanticSegmentor")
    inputs["sem_seg"] = torch.full_like(inputs["sem_seg"], 255)
    found = losses(
        built(semantic_cfg("FCNHead", ["res5"])), [inputs, example("SemanticSegmentor", 43, 65)]
    )
    assert all(loss.isfinite() for loss in found.values())
    # Nothing to see: an attention that says nothing is right.
    model = built(sfm_cfg("GeneralizedRCNN"))
    inputs = example("GeneralizedRCNN")
    inputs["instances"] = box_instances(64, 96, count=0)
    found = losses(model, [inputs])
    assert found["loss_attention"].item() == pytest.approx(0, abs=1e-6)
    assert all(loss.isfinite() for loss in found.values())


def test_backbone_runs_once_and_leaves_nothing_behind():
    model = built(sfm_cfg("SemanticSegmentor"))
    calls = []
    for part in model.modules():
        if isinstance(part, ModulatedBackbone):
            part.register_forward_hook(lambda *_: calls.append(1))
    before = {id(part): set(part.__dict__) for part in model.modules()}
    losses(model, [example("SemanticSegmentor")])
    assert len(calls) == 1
    assert before == {id(part): set(part.__dict__) for part in model.modules()}


def test_switched_off_it_is_the_plain_model():
    plain = built(plain_cfg("GeneralizedRCNN"))
    model = built(sfm_cfg("GeneralizedRCNN", MODEL__SFM__ENABLED=False))
    assert isinstance(model, GeneralizedRCNN)
    assert list(model.state_dict()) == list(plain.state_dict())
    inputs = [example("GeneralizedRCNN")]
    expected, found = losses(plain, inputs), losses(model, inputs)
    assert expected == found


def test_edges_of_every_kind_of_label():
    """Objects of 8 x 8 pixels: edges are the band of two pixels on both sides of the outline."""
    square = torch.zeros(16, 16, dtype=torch.long)
    square[:8, :8] = 1
    expected = label_edges([{"sem_seg": square}], (16, 16), CPU, ignore_value=255)
    assert expected[0, 0, 0].tolist() == [0] * 6 + [1] * 4 + [0] * 6
    instances = box_instances(16, 16)
    found = label_edges([{"instances": instances}], (16, 16), CPU, ignore_value=255)
    assert torch.equal(found, expected)
    segments = [{"id": 700}, {"id": 3}]
    ids = torch.where(square == 1, 700, 3)
    panoptic = {"pan_seg": ids, "segments_info": segments}
    found = label_edges([panoptic], (16, 16), CPU, ignore_value=255)
    assert torch.equal(found, expected)
    # An edge of any kind is one.
    both = {"sem_seg": half_plane(16, 16, 12), "instances": instances}
    found = label_edges([both], (16, 16), CPU, ignore_value=255)
    other = label_edges([{"sem_seg": both["sem_seg"]}], (16, 16), CPU, ignore_value=255)
    assert torch.equal(found, torch.maximum(expected, other))


def test_ignored_and_padded_pixels_make_no_edges():
    labels = half_plane(8, 8, 4)
    labels[:, 4:] = 255
    found = label_edges([{"sem_seg": labels}], (16, 24), CPU, ignore_value=255)
    assert found.shape == (1, 1, 16, 24)
    assert not found.any()
    crowd = [{"id": 1, "iscrowd": 1}, {"id": 2}]
    panoptic = {"pan_seg": half_plane(8, 8, 4) + 1, "segments_info": crowd}
    assert not label_edges([panoptic], (8, 8), CPU, ignore_value=255).any()


def test_pixels_that_all_targets_ignore():
    """Half of 8 x 8 pixels is ignored, and what the batch is padded by; unless things are known."""
    labels = half_plane(8, 8, 4)
    labels[:, 4:] = 255
    found = ignored_pixels([{"sem_seg": labels}], (8, 12), CPU, ignore_value=255)
    assert found.shape == (1, 1, 8, 12)
    assert found[0, 0].tolist() == [[0.0] * 4 + [1.0] * 8] * 8
    both = {"sem_seg": labels, "instances": box_instances(8, 8)}
    found = ignored_pixels([both], (8, 12), CPU, ignore_value=255)
    assert found[0, 0].tolist() == [[0.0] * 8 + [1.0] * 4] * 8


def test_small_masks_lie_on_large_ones():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    masks[1] = True
    instances = Instances((4, 4))
    instances.gt_classes = torch.zeros(2, dtype=torch.long)
    instances.gt_masks = masks
    (painted,) = label_maps({"instances": instances}, 255)
    assert painted.tolist() == [[1, 1, 1, 1], [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MODEL__SFM__META_ARCHITECTURE": "SFMSegmentor"}, "MODEL.SFM.META_ARCHITECTURE must"),
        ({"MODEL__SFM__EDGE_LOSS_WEIGHT": -1.0}, "must not be negative; got -1.0"),
        (
            {"MODEL__BACKBONE__NAME": "build_resnet_freqfusion_fpn_backbone"},
            "has no attention to supervise: take build_sfm_backbone",
        ),
        (
            {
                "MODEL__SFM__DEMODULATE": "head",
                "MODEL__BACKBONE__NAME": "build_sfm_backbone",
                "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3"],
            },
            "leaves maps modulated, which only SFMSemSegHead",
        ),
    ],
)
def test_says_what_is_wrong(keys, message):
    with pytest.raises(ValueError, match=message):
        build_model(sfm_cfg("SemanticSegmentor", **keys))


def test_says_which_image_has_no_labels():
    with pytest.raises(ValueError, match=r"a\.png has no sem_seg, pan_seg or instances"):
        label_edges([{"file_name": "a.png"}], (8, 8), CPU, ignore_value=255)

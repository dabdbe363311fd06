"""Whole Mask2Former models: the reference's numbers, any image, any number of objects."""

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from golden_data import cases
from mask2former_models import recorded_model, seeded_model, small_cfg
from recorded_points import RecordedPoints

from freqfusion.modeling.mask2former.structures import image_targets, mask_targets

EVALUATED = cases("D", "MaskFormer (eval)")
TRAINED = cases("D", "MaskFormer (training mode)")


def by_score(scores, *others):
    order = scores.argsort(descending=True, stable=True)
    return [value[order] for value in (scores, *others)]


@pytest.mark.golden
@pytest.mark.parametrize("case", EVALUATED, ids=lambda case: case.id)
def test_results_are_the_references(case):
    model = recorded_model(case).eval()
    given, expected = case.group("in"), case.group("out")
    size = {name: int(case.entry["inputs"][name]) for name in ("height", "width")}
    image = {"image": given["image"], **size}
    with torch.no_grad():
        raw = model.sem_seg_head(model.backbone(model.preprocess([image]).tensor))
        (result,) = model([image])
    for name in ("pred_logits", "pred_masks"):
        case.check(name, raw[name], expected[name])
    case.check("sem_seg", result["sem_seg"], expected["sem_seg"])
    ids, segments = result["panoptic_seg"]
    assert torch.equal(ids, expected["panoptic_seg"])
    assert segments == case.entry["panoptic_segments_info"]
    instances = result["instances"]
    scores, classes, masks = by_score(
        expected["inst_scores"], expected["inst_classes"], expected["inst_masks"]
    )
    case.check("inst_scores_sorted", instances.scores, scores)
    assert torch.equal(instances.pred_classes, classes)
    assert torch.equal(instances.pred_masks, masks.bool())
    assert not instances.pred_boxes.tensor.any()


def training_images(values):
    images = []
    while f"image{len(images)}" in values:
        image = values[f"image{len(images)}"]
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_classes = values[f"gt_classes{len(images)}"]
        instances.gt_masks = BitMasks(values[f"gt_masks{len(images)}"].bool())
        images.append({"image": image, "instances": instances})
    return images


@pytest.mark.golden
@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.id)
def test_losses_and_gradients_are_the_references(case):
    (base,) = [other for other in EVALUATED if other.id == case.ctor["same_model_as"]]
    settings = case.ctor["criterion"]
    model = recorded_model(base, settings["num_points"]).train()
    points = RecordedPoints.of(case)
    model.criterion.draw_points = points
    losses = model(training_images(case.group("in")))
    assert not points.left
    expected = case.group("out")
    for name, loss in losses.items():
        case.check(name, loss.detach(), expected[name])
    total = sum(losses.values())
    case.check("total", total.detach(), expected["total"])
    total.backward()
    parameters = dict(model.named_parameters())
    for name, gradient in case.group("grad").items():
        case.check(f"grad/{name}", parameters[name].grad, gradient)


@pytest.mark.parametrize("size", [(33, 95), (1, 1)], ids=str)
def test_any_image(size):
    model = seeded_model().eval()
    with torch.no_grad():
        (result,) = model([{"image": torch.rand(3, *size) * 255}])
    assert result["sem_seg"].shape == (5, *size)
    assert result["panoptic_seg"][0].shape == size
    assert result["instances"].image_size == size


def random_image(count, size=(40, 56), classes=5):
    generator = torch.Generator().manual_seed(count)
    instances = Instances(size)
    instances.gt_classes = torch.randint(0, classes, (count,), generator=generator)
    instances.gt_masks = BitMasks(torch.rand(count, *size, generator=generator) > 0.7)
    return {"image": torch.rand(3, *size, generator=generator) * 255, "instances": instances}


def test_images_of_a_batch_do_not_touch_each_other():
    model = seeded_model().eval()
    images = [{"image": torch.rand(3, 64, 64) * 255} for _ in range(2)]
    with torch.no_grad():
        both = model(images)
        alone = [model([image])[0] for image in images]
    for one, other in zip(both, alone, strict=True):
        assert torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-4)


def test_trains_in_half_precision():
    model = seeded_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([random_image(3), random_image(0)])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_something_must_be_on():
    with pytest.raises(ValueError, match="switch on one of"):
        seeded_model(
            MODEL__MASK2FORMER__TEST__SEMANTIC_ON=False,
            MODEL__MASK2FORMER__TEST__INSTANCE_ON=False,
            MODEL__MASK2FORMER__TEST__PANOPTIC_ON=False,
        )


def test_panoptic_needs_to_know_the_things():
    cfg = small_cfg(DATASETS__TRAIN=("nothing_known",))
    from detectron2.modeling import build_model

    with pytest.raises(ValueError, match="has no thing_dataset_id_to_contiguous_id"):
        build_model(cfg)


class TestTargets:
    """What a segment is, by hand."""

    def test_panoptic_without_crowds_and_hidden_segments(self):
        ids = torch.tensor([[7, 7, 0], [9, 5, 5]])
        segments = [
            {"id": 7, "category_id": 2},
            {"id": 9, "category_id": 4, "iscrowd": 1},
            {"id": 5, "category_id": 0, "iscrowd": 0},
            {"id": 8, "category_id": 1},
        ]
        targets = image_targets({"pan_seg": ids, "segments_info": segments}, 255)
        assert targets["labels"].tolist() == [2, 0]
        expected = [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1]]]
        assert targets["masks"].int().tolist() == expected

    def test_labels_without_the_ignored_one(self):
        targets = image_targets({"sem_seg": torch.tensor([[3, 255], [1, 3]])}, 255)
        assert targets["labels"].tolist() == [1, 3]
        assert targets["masks"].int().tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]

    def test_polygons_are_drawn(self):
        instances = Instances((4, 6))
        instances.gt_classes = torch.tensor([1])
        square = [torch.tensor([1.0, 1, 3, 1, 3, 3, 1, 3]).double().numpy()]
        instances.gt_masks = PolygonMasks([square])
        masks = image_targets({"instances": instances}, 255)["masks"]
        assert masks[0].int().tolist() == [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ]

    def test_padding_and_empty_images(self):
        images = [
            {"sem_seg": torch.zeros(2, 3, dtype=torch.long)},
            {"instances": Instances((1, 1))},
        ]
        images[1]["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
        targets = mask_targets(images, (4, 5), torch.device("cpu"), ignore_value=255)
        assert targets[0]["masks"].shape == (1, 4, 5)
        assert targets[0]["masks"].sum() == 6
        assert targets[1]["masks"].shape == (0, 4, 5)

    def test_messages(self):
        with pytest.raises(ValueError, match=r"a\.jpg has no pan_seg, instances or sem_seg"):
            image_targets({"file_name": "a.jpg"}, 255)
        instances = Instances((1, 1), gt_classes=torch.zeros(1))
        with pytest.raises(ValueError, match=r"have no masks: set MODEL\.MASK_ON True"):
            image_targets({"instances": instances}, 255)

"""Truth and outputs of Detectron2 become what is drawn: names, colours, label spaces, masks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from freqfusion.data.reading import read_panoptic_png
from freqfusion.data.synthetic import write_cityscapes
from freqfusion.data.synthetic.masks import run_lengths
from freqfusion.drawing import VOID, palette, panoptic_kinds, semantic_kinds
from freqfusion.evaluation.overlays import (
    TASKS,
    Content,
    decode_mask,
    draw_content,
    draw_differences,
    draw_output,
    gt_content,
    output_content,
)

SIZE = (48, 64)


def image_of(entry):
    return np.asarray(Image.open(entry["file_name"]).convert("RGB"))


def draw_truth(image, entry, metadata):
    return draw_content(image, gt_content(entry, metadata, image.shape[:2]))


def first(name):
    return DatasetCatalog.get(name)[0], MetadataCatalog.get(name)


def perfect_output(truth):
    """What a model without errors would give, in Detectron2's form, made from the truth."""
    height, width = SIZE
    labels = torch.from_numpy(truth.semantic.labels.astype(np.int64))
    scores = torch.nn.functional.one_hot(labels.clamp(min=0), len(truth.semantic.names))
    instances = Instances(SIZE)
    instances.pred_masks = torch.from_numpy(np.stack([one.mask for one in truth.instance]))
    instances.pred_boxes = Boxes(torch.tensor([one.box for one in truth.instance]))
    instances.pred_classes = torch.tensor([one.category for one in truth.instance])
    instances.scores = torch.linspace(0.6, 0.9, len(truth.instance))
    infos = [
        {
            "id": one.id,
            "isthing": one.is_thing,
            "category_id": one.category if one.is_thing else one.category - 7,
        }
        for one in truth.panoptic.segments
    ]
    return {
        "sem_seg": scores.permute(2, 0, 1).float().reshape(-1, height, width),
        "instances": instances,
        "panoptic_seg": (torch.from_numpy(truth.panoptic.ids.astype(np.int32)), infos),
    }


@pytest.mark.parametrize("which", [0, 1])
def test_panoptic_truth_is_the_json(dataset, which):
    """Both forms of the data set have the same segments, with the JSON's names."""
    entry, metadata = first(dataset[which])
    truth = gt_content(entry, metadata, SIZE)
    with open(metadata.panoptic_json) as file:
        content = json.load(file)
    names = {one["id"]: one["name"] for one in content["categories"]}
    annotation = next(a for a in content["annotations"] if a["image_id"] == entry["image_id"])
    assert {one.id: one.name for one in truth.panoptic.segments} == {
        one["id"]: names[one["category_id"]] for one in annotation["segments_info"]
    }
    ids = read_panoptic_png(f"{metadata.panoptic_root}/{annotation['file_name']}")
    np.testing.assert_array_equal(truth.panoptic.ids, ids)
    things = {one["name"] for one in content["categories"] if one["isthing"]}
    assert all(one.is_thing == (one.name in things) for one in truth.panoptic.segments)


def test_separated_data_set_shows_things_as_one_class(dataset):
    entry, metadata = first(dataset[0])
    truth = gt_content(entry, metadata, SIZE)
    assert truth.semantic.names[0] == "things"
    assert truth.semantic.colors[0] == (82, 18, 128)
    for one in truth.panoptic.segments:
        labels = np.unique(truth.semantic.labels[truth.panoptic.ids == one.id])
        expected = "things" if one.is_thing else one.name
        assert [truth.semantic.names[label] for label in labels] == [expected]


def test_separated_labels_from_the_panoptic_truth_are_those_of_the_files(dataset):
    entry, metadata = first(dataset[0])
    files = gt_content(entry, metadata, SIZE)
    without = {name: value for name, value in entry.items() if name != "sem_seg_file_name"}
    derived = gt_content(without, metadata, SIZE)
    np.testing.assert_array_equal(files.semantic.labels, derived.semantic.labels)


def test_a_perfect_output_has_no_errors(dataset):
    entry, metadata = first(dataset[0])
    truth = gt_content(entry, metadata, SIZE)
    output = perfect_output(truth)
    guess = output_content(output, metadata)
    assert guess.tasks() == truth.tasks() == TASKS
    kinds = semantic_kinds(guess.semantic, truth.semantic)
    assert not kinds["boundary"].any()
    assert not kinds["inside"].any()
    kinds = panoptic_kinds(guess.panoptic, truth.panoptic)
    assert (kinds["matched"] | kinds["void"]).all()
    assert [one.name for one in guess.instance] == [one.name for one in truth.instance]
    assert [one.color for one in guess.panoptic.segments] == [
        one.color for one in truth.panoptic.segments
    ]


def test_pictures_of_all_tasks(dataset):
    entry, metadata = first(dataset[0])
    image = image_of(entry)
    output = perfect_output(gt_content(entry, metadata, SIZE))
    drawn = [
        draw_truth(image, entry, metadata),
        draw_output(image, output, metadata),
        draw_differences(
            image, output_content(output, metadata), gt_content(entry, metadata, SIZE)
        ),
    ]
    for pictures in drawn:
        assert tuple(pictures) == TASKS
        assert {picture.shape for picture in pictures.values()} == {(384, 512, 3)}
        assert {picture.dtype for picture in pictures.values()} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(drawn[0]["panoptic"], drawn[1]["panoptic"])
    assert draw_output(image, {"sem_seg": output["sem_seg"]}, metadata).keys() == {"semantic"}


def test_score_threshold(dataset):
    entry, metadata = first(dataset[0])
    output = perfect_output(gt_content(entry, metadata, SIZE))
    scores = output["instances"].scores.tolist()
    for threshold in (0.0, 0.75, 0.95):
        shown = output_content(output, metadata, score_threshold=threshold).instance
        assert len(shown) == sum(score >= threshold for score in scores)


def test_metadata_without_colours_or_names():
    metadata = {"stuff_classes": ["a", "b"], "thing_classes": ["c"]}
    output = {"sem_seg": torch.eye(3)[:, None], "panoptic_seg": (torch.ones(1, 3).int(), [])}
    content = output_content(output, metadata)
    assert content.semantic.names == ("a", "b", "class 2")
    assert content.semantic.colors == (*palette(3)[1:], palette(3)[2])
    assert content.panoptic.ids.sum() == 0
    assert output_content(output, {}).semantic.names == ("class 0", "class 1", "class 2")
    instances = Instances((1, 3), pred_classes=torch.tensor([4]), scores=torch.ones(1))
    assert output_content({"instances": instances}, metadata).instance[0].name == "class 4"


def test_one_label_space_has_one_colour_for_a_class():
    names = ["a", "b", "c"]
    metadata = {
        "thing_classes": names[:2],
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {5: 0, 6: 1},
    }
    infos = [{"id": n + 1, "category_id": n} for n in range(3)]
    output = {
        "sem_seg": torch.eye(3)[:, None],
        "panoptic_seg": (torch.tensor([[1, 2, 3]]), infos),
    }
    content = output_content(output, metadata)
    assert [one.color for one in content.panoptic.segments] == list(content.semantic.colors)
    assert [one.is_thing for one in content.panoptic.segments] == [True, True, False]


def test_panoptic_output_without_segments():
    """Panoptic-DeepLab's form: category * divisor + instance, -1 for void."""
    metadata = {
        "thing_classes": ["a", "b"],
        "stuff_classes": ["a", "b"],
        "thing_dataset_id_to_contiguous_id": {9: 1},
        "label_divisor": 1000,
    }
    output = {"panoptic_seg": (torch.tensor([[0, 0, 1001, 1002, -1]]), None)}
    content = output_content(output, metadata).panoptic
    assert [(one.name, one.is_thing) for one in content.segments] == [
        ("a", False), ("b", True), ("b", True),
    ]  # fmt: skip
    assert content.ids.tolist() == [[1, 1, 1002, 1003, 0]]
    with pytest.raises(ValueError, match="needs label_divisor"):
        output_content(output, {})


def test_masks_of_all_forms():
    mask = np.zeros((6, 8), dtype=np.bool_)
    mask[1:4, 2:7] = True
    forms = [
        [[2, 1, 7, 1, 7, 4, 2, 4]],
        coco_mask.encode(mask.astype(np.uint8, order="F")),
        {"size": [6, 8], "counts": run_lengths(mask)},
        mask.astype(np.uint8),
    ]
    for form in forms:
        np.testing.assert_array_equal(decode_mask(form, (6, 8)), mask)


def test_annotations():
    """XYWH and XYXY boxes, no mask, a crowd."""
    annotations = [
        {"category_id": 0, "bbox": [2, 1, 5, 3], "bbox_mode": BoxMode.XYWH_ABS},
        {"category_id": 1, "bbox": (2, 1, 7, 4), "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 1},
    ]
    truth = gt_content({"annotations": annotations}, {"thing_classes": ["a", "b"]}, (6, 8))
    assert [one.box for one in truth.instance] == [(2, 1, 7, 4)] * 2
    assert [one.is_crowd for one in truth.instance] == [False, True]
    assert [one.name for one in truth.instance] == ["a", "b"]
    assert truth.tasks() == ("instance",)
    assert gt_content({}, {}, (6, 8)) == Content()


def test_ignored_labels_are_void(tmp_path):
    """Where the metadata names no label to ignore, it is 255; other labels must be classes."""
    entry = {"sem_seg_file_name": str(tmp_path / "labels.png")}
    Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)).save(entry["sem_seg_file_name"])
    metadata = {"stuff_classes": ["a", "b"]}
    assert gt_content(entry, metadata, (1, 3)).semantic.labels.tolist() == [[0, 1, VOID]]
    with pytest.raises(ValueError, match=r"labels span -1\.\.255, but the classes are 0\.\.1"):
        gt_content(entry, metadata | {"ignore_label": 0}, (1, 3))


def test_boxes_of_zeros_are_taken_from_the_mask():
    """Mask2Former gives them where no boxes were asked for."""
    instances = Instances((6, 8), scores=torch.ones(1), pred_classes=torch.zeros(1).long())
    instances.pred_masks = torch.zeros(1, 6, 8)
    instances.pred_masks[0, 1:4, 2:7] = 1
    instances.pred_boxes = Boxes(torch.zeros(1, 4))
    found = output_content({"instances": instances}, {}).instance
    assert found[0].box == (2, 1, 7, 4)
    assert found[0].mask.sum() == 15


def test_cityscapes(tmp_path):
    """Detectron2's panoptic loader says nothing of things; the metadata tells them."""
    from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic

    root = write_cityscapes(
        tmp_path / "c", num_train=0, num_val=1, size=SIZE, workers=1, progress=False
    )
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    folder = root / "gtFine" / "cityscapes_panoptic_val"
    images = str(root / "leftImg8bit" / "val")
    entries = load_cityscapes_panoptic(images, str(folder), f"{folder}.json", metadata.as_dict())
    truth = gt_content(entries[0], metadata, SIZE)
    things = {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}
    assert all(one.is_thing == (one.name in things) for one in truth.panoptic.segments)
    assert any(one.is_thing for one in truth.panoptic.segments)
    for one in truth.panoptic.segments:
        if one.is_crowd:
            continue
        labels = np.unique(truth.semantic.labels[truth.panoptic.ids == one.id])
        assert [truth.semantic.names[label] for label in labels] == [one.name]
    assert tuple(draw_truth(image_of(entries[0]), entries[0], metadata)) == TASKS


def test_errors(dataset, tmp_path):
    entry, metadata = first(dataset[0])
    with pytest.raises(ValueError, match="sem_seg must be classes x height x width"):
        output_content({"sem_seg": torch.zeros(3, 4)}, metadata)
    with pytest.raises(ValueError, match="resize it to the image first"):
        draw_truth(np.zeros((10, 10, 3), np.uint8), entry, metadata)
    with pytest.raises(ValueError, match="is not there"):
        gt_content({"sem_seg_file_name": str(tmp_path / "absent.png")}, {}, SIZE)
    content = {"annotations": [{"image_id": 7, "file_name": "x.png", "segments_info": [
        {"id": 3, "category_id": 99}]}]}  # fmt: skip
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    known = SimpleNamespace(
        get=lambda name, other=None: {"panoptic_json": str(path)}.get(name, other)
    )
    with pytest.raises(ValueError, match="segment 3 has the unknown category 99"):
        gt_content({"image_id": 7}, known, SIZE)

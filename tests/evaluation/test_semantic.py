"""Scores of the semantic evaluator against the metrics themselves, and its messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqfusion.data.reading import read_label_png, read_panoptic_png
from freqfusion.data.validation.ground_truth import labels_of_segments
from freqfusion.evaluation import SemanticEvaluator
from freqfusion.evaluation.semantic import (
    frequency_weighted_iou,
    semantic_scores,
    thin_classes,
)
from freqfusion.metrics import BoundaryIoU, ConfusionMatrix

CLASSES = 7


def images(name):
    """(dict as Detectron2's mapper leaves it, labels) of each image."""
    for entry in DatasetCatalog.get(name):
        yield {"file_name": entry["file_name"]}, read_label_png(entry["sem_seg_file_name"])


def predicted(labels):
    """Scores of which the label's is the largest; void becomes class 1."""
    known = torch.from_numpy(np.where(labels == 255, 1, labels).astype(np.int64))
    return {"sem_seg": torch.nn.functional.one_hot(known, CLASSES).permute(2, 0, 1).float()}


@pytest.mark.parametrize("name", ["scenes_separated", "scenes_stuffonly"])
def test_truth_scores_100(dataset, name):
    evaluator = SemanticEvaluator(name)
    for image, labels in images(name):
        evaluator.process([image], [predicted(labels)])
    scores = evaluator.evaluate()["sem_seg"]
    means = [scores[key] for key in ("mIoU", "mBoundaryIoU", "fwIoU", "pACC")]
    assert means == pytest.approx([100] * 4)
    classes = MetadataCatalog.get(name).stuff_classes
    assert {f"IoU-{c}" for c in classes} | {f"BoundaryIoU-{c}" for c in classes} < set(scores)


def test_mean_over_the_classes_of_the_ground_truth_is_detectron2s(dataset):
    """A class that is only predicted lowers mIoU, and not what Detectron2 calls so."""
    from detectron2.evaluation import SemSegEvaluator

    name = dataset[0]
    ours, theirs = SemanticEvaluator(name), SemSegEvaluator(name, distributed=False)
    theirs.reset()
    everything = {*range(CLASSES)}
    image, labels = next(one for one in images(name) if everything - {*np.unique(one[1]).tolist()})
    guess = np.roll(np.where(labels == 255, 1, labels), 2, axis=1)
    guess[:4, :4] = min(everything - {*np.unique(labels).tolist()})
    for evaluator in (ours, theirs):
        evaluator.process([image], [predicted(guess)])
    scores = ours.evaluate()["sem_seg"]
    assert scores["mIoU-gt"] == pytest.approx(theirs.evaluate()["sem_seg"]["mIoU"], abs=1e-9)
    assert scores["mIoU"] < scores["mIoU-gt"]


def test_degraded_prediction_has_the_scores_of_the_metrics(dataset, tmp_path):
    name = dataset[0]
    evaluator = SemanticEvaluator(name, str(tmp_path))
    confusion, boundary = ConfusionMatrix(CLASSES), BoundaryIoU(CLASSES)
    for image, labels in images(name):
        moved = np.roll(labels, 3, axis=1)
        guess = np.where(moved == 255, 1, moved)
        confusion.update(guess, labels)
        boundary.update(guess, labels)
        evaluator.process([image], [predicted(moved)])
    scores = evaluator.evaluate()["sem_seg"]
    assert scores["mIoU"] == pytest.approx(100 * confusion.mean_iou())
    assert scores["mBoundaryIoU"] == pytest.approx(100 * boundary.mean_iou())
    assert scores["pACC"] == pytest.approx(100 * confusion.pixel_accuracy())
    assert scores["IoU-things"] == pytest.approx(100 * confusion.iou()[0])
    assert scores["BoundaryIoU-things"] == pytest.approx(100 * boundary.iou()[0])
    assert scores["mBoundaryIoU"] < scores["mIoU"] < 100
    saved = json.loads((tmp_path / f"{name}_sem_seg.json").read_text())
    assert saved["confusion"] == confusion.matrix.tolist()


def test_frequency_weights():
    """True pixels 3 and 1; IoU 2/3 and 1/2: (3 * 2/3 + 1 * 1/2) / 4 = 5/8. The third is absent."""
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    assert frequency_weighted_iou(confusion) == pytest.approx(5 / 8)
    assert np.isnan(frequency_weighted_iou(ConfusionMatrix(3)))


def test_errors_name_the_file(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset[0])
    image, labels = next(images(dataset[0]))
    output = predicted(labels)
    with pytest.raises(ValueError, match=r"000000000001\.jpg has the shape \(6, 48, 64\)"):
        evaluator.process([image], [{"sem_seg": output["sem_seg"][:6]}])
    with pytest.raises(ValueError, match=r"is 48 x 32 .*000000000001\.png is 48 x 64"):
        evaluator.process([image], [{"sem_seg": output["sem_seg"][..., ::2]}])
    with pytest.raises(ValueError, match=r"no sem_seg_file_name for other\.jpg"):
        evaluator.process([{"file_name": "other.jpg"}], [output])
    path = tmp_path / "labels.png"
    with pytest.raises(ValueError, match="is not there"):
        read_label_png(str(path))
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"labels\.png: unexpected label 9 in the target"):
        evaluator.process([{"sem_seg_file_name": str(path)}], [output])
    Image.new("RGB", (64, 48)).save(path)
    with pytest.raises(ValueError, match="mode RGB"):
        read_label_png(str(path))


def panoptic_labels(image, segments):
    path = image["pan_seg_file_name"]
    label_of_id = {segment["id"]: segment["category_id"] for segment in segments}
    return labels_of_segments(path, read_panoptic_png(path), label_of_id, 255)


def test_truth_may_be_panoptic(dataset):
    """The truth itself, as scores of one label space: all that occurs is right."""
    evaluator = SemanticEvaluator(dataset[1])
    for image in DatasetCatalog.get(dataset[1]):
        labels = panoptic_labels(image, image["segments_info"])
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels).clamp(max=13).long(), 14)
        evaluator.process([image], [{"sem_seg": scores.permute(2, 0, 1)[:13]}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_id_without_a_segment(dataset):
    image = DatasetCatalog.get(dataset[1])[0]
    with pytest.raises(ValueError, match="which no segment of its annotation has"):
        panoptic_labels(image, image["segments_info"][1:])


def test_thin_mean_by_hand():
    """IoU 2/3 of a, 1/2 of b, c absent: the mean over b and c is 1/2, over c alone nan."""
    confusion, boundary = ConfusionMatrix(3), BoundaryIoU(3)
    prediction, truth = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]])
    confusion.update(prediction, truth)
    boundary.update(prediction, truth)
    names = ("a", "b", "c")
    assert semantic_scores(confusion, boundary, names, ("b", "c"))["mIoU-thin"] == 50
    assert np.isnan(semantic_scores(confusion, boundary, names, ("c",))["mIoU-thin"])
    scores = semantic_scores(confusion, boundary, names, ("b",))
    assert scores["mBoundaryIoU-thin"] == scores["BoundaryIoU-b"]
    assert not any("thin" in name for name in semantic_scores(confusion, boundary, names))


def test_thin_classes_of_the_metadata():
    metadata = {"thing_classes": ["wire"], "thin_classes": ["wire", "fence"]}
    assert thin_classes(("things", "fence"), metadata, "scenes") == ("fence",)
    assert thin_classes(("wire", "sky", "fence"), metadata, "scenes") == ("wire", "fence")
    assert thin_classes(("sky",), {}, "scenes") == ()
    with pytest.raises(ValueError, match="thin_classes of scenes has 'fence', which is no class"):
        thin_classes(("sky",), metadata, "scenes")

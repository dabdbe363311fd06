"""The Cityscapes evaluators: files on disk against the metrics in memory, and their messages."""

from __future__ import annotations

import json
import math

import cityscapes_datasets as towns
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from rehearsed import registered_at

from freqfusion.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
    PanopticEvaluator,
)
from freqfusion.evaluation.cityscapes import gt_path, instance_scores, semantic_scores
from freqfusion.metrics import BoundaryIoU, CityscapesInstances, CityscapesSemantic
from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS, TRAIN_ID_OF_ID

ID_OF_TRAIN_ID = np.array([label.id for label in CITYSCAPES_LABELS])


@pytest.fixture(scope="session")
def towns_root(tmp_path_factory):
    return towns.write(tmp_path_factory.mktemp("towns"))


@pytest.fixture(autouse=True)
def registered(towns_root, monkeypatch):
    with registered_at(towns_root, monkeypatch):
        yield


def run(evaluator, shift):
    """Evaluate the data set's images with their truth, moved; the scores."""
    for image in DatasetCatalog.get(evaluator.dataset_name):
        output = towns.predicted(evaluator.dataset_name, image, shift)
        # As Detectron2's mapper leaves it in tests.
        image.pop("sem_seg_file_name", None)
        evaluator.process([image], [output])
    return evaluator.evaluate()


@pytest.mark.parametrize("name", [towns.SEMANTIC, towns.PANOPTIC])
def test_semantic_truth_scores_100(name):
    scores = run(CityscapesSemanticEvaluator(name), 0)["sem_seg"]
    means = [scores[key] for key in ("IoU", "iIoU", "IoU_sup", "iIoU_sup", "mBoundaryIoU")]
    assert means == pytest.approx([100] * 5)
    assert {"IoU-car", "iIoU-car", "IoU_sup-vehicle", "iIoU_sup-human", "BoundaryIoU-sky"} < set(
        scores
    )
    assert math.isnan(scores["IoU-train"])  # no category of the scenes stands for it
    assert len(scores) == 5 + 19 + 8 + 7 + 2 + 19


def test_moved_labels_have_the_scores_of_the_metrics(tmp_path, caplog):
    name = towns.SEMANTIC
    semantic, boundary = CityscapesSemantic(), BoundaryIoU(19)
    for image in DatasetCatalog.get(name):
        truth, ids = (towns.read(image["file_name"], kind) for kind in ("labelIds", "instanceIds"))
        labels = TRAIN_ID_OF_ID[truth]
        guess = np.roll(np.where(labels == 255, 1, labels), 3, axis=1)
        semantic.update(ID_OF_TRAIN_ID[guess], truth, ids)
        boundary.update(guess, labels)
    with caplog.at_level("INFO"):
        scores = run(CityscapesSemanticEvaluator(name, str(tmp_path)), 3)["sem_seg"]
    assert scores == pytest.approx(semantic_scores(semantic.result(), boundary), nan_ok=True)
    assert 10 < scores["iIoU"] < scores["IoU_sup"] < 95
    assert scores["mBoundaryIoU"] == pytest.approx(100 * boundary.mean_iou())
    assert scores["IoU-road"] == pytest.approx(100 * semantic.result().class_iou["road"])
    assert f"Cityscapes semantic scores on {name}" in caplog.text
    saved = json.loads((tmp_path / f"{name}_sem_seg.json").read_text())
    assert saved["confusion"] == semantic.confusion.matrix.tolist()
    assert saved["percent"]["IoU-train"] is None


@pytest.mark.parametrize("name", [towns.INSTANCE, towns.PANOPTIC, towns.SEPARATED])
def test_true_instances_score_100(name):
    """Classes are counted in their own order: 0..7, or train ids 11..18."""
    scores = run(CityscapesInstanceEvaluator(name), 0)["segm"]
    assert (scores["AP"], scores["AP50"]) == pytest.approx((100, 100))
    assert len(scores) == 2 + 8 + 8


def test_moved_instances_have_the_scores_of_the_metric(tmp_path):
    name, metric = towns.INSTANCE, CityscapesInstances()
    for image in DatasetCatalog.get(name):
        ids = towns.read(image["file_name"], "instanceIds")
        values = [value for value in np.unique(ids).tolist() if value >= 1000]
        masks = [np.roll(ids, 2, axis=1) == value for value in values]
        scores = np.array([1 / (2 + at) for at in range(len(values))], dtype=np.float32)
        metric.update(masks, [value // 1000 for value in values], scores.tolist(), ids)
    scores = run(CityscapesInstanceEvaluator(name, str(tmp_path)), 2)["segm"]
    assert scores == pytest.approx(instance_scores(metric.result()), nan_ok=True)
    assert 5 < scores["AP"] < scores["AP50"] < 100
    saved = json.loads((tmp_path / f"{name}_segm.json").read_text())
    assert saved["percent"]["AP50"] == pytest.approx(scores["AP50"])


@pytest.mark.parametrize("name", [towns.PANOPTIC, towns.SEPARATED])
def test_panoptic_truth_scores_100(name):
    scores = run(PanopticEvaluator(name), 0)["panoptic_seg"]
    groups = {name: score for name, score in scores.items() if not name.startswith("PQ-")}
    assert all(score == pytest.approx(100) for score in groups.values())
    # A class without a segment in these images has no score.
    classes = [score for name, score in scores.items() if name not in groups]
    assert classes == pytest.approx(
        [score if math.isnan(score) else 100 for score in classes], nan_ok=True
    )
    assert not all(map(math.isnan, classes))


@pytest.mark.parametrize("all_are_stuff", [False, True])
def test_panoptic_maps_of_labels(all_are_stuff):
    """As of Panoptic-DeepLab: category * 1000 + number, void -1, no segments.

    Also where the metadata has a stuff id for each of the 19 classes, as some data sets have.
    """
    metadata = MetadataCatalog.get(towns.PANOPTIC)
    if all_are_stuff:
        ids = {label.id: label.train_id for label in CITYSCAPES_LABELS}
        vars(metadata)["stuff_dataset_id_to_contiguous_id"] = ids
    evaluator = PanopticEvaluator(towns.PANOPTIC)
    for image in DatasetCatalog.get(towns.PANOPTIC):
        ids = towns.read(image["file_name"], "instanceIds")
        numbers = np.where(ids >= 1000, ids // 1000, ids)
        train_ids = TRAIN_ID_OF_ID[numbers].astype(np.int64)
        group = (train_ids >= 11) & (ids < 1000)
        labels = train_ids * 1000 + np.where(ids >= 1000, ids % 1000, 0)
        labels[(train_ids == 255) | group] = -1
        evaluator.process([image], [{"panoptic_seg": (torch.from_numpy(labels), None)}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_models_without_masks_have_no_mask_scores(caplog):
    """Boxes alone are no masks; none at all is an average precision of 0."""
    evaluator = CityscapesInstanceEvaluator(towns.INSTANCE)
    images = DatasetCatalog.get(towns.INSTANCE)
    boxes = Instances((64, 96))
    boxes.pred_boxes = Boxes(torch.zeros(0, 4))
    evaluator.process(images[:2], [{"instances": boxes}, {"sem_seg": None}])
    assert evaluator.evaluate() == {}
    assert "no 'instances' for any of its 2 images" in caplog.text
    evaluator.reset()
    nothing = towns.instances(np.zeros((64, 96), dtype=np.int64), towns.THINGS)
    evaluator.process(images, [{"instances": nothing}] * len(images))
    assert evaluator.evaluate()["segm"]["AP"] == 0


def test_where_the_truth_is():
    expected = "/data/gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png"
    image = "/elsewhere/lindau/lindau_000001_000019_leftImg8bit.png"
    assert gt_path("/data/gtFine/val/", image, "labelIds") == expected
    with pytest.raises(ValueError, match=r"a/1\.jpg is not named as images of Cityscapes are"):
        gt_path("/data", "a/1.jpg", "labelIds")
    with pytest.raises(ValueError, match="is not named as"):
        gt_path("/data", "a_leftImg8bit.png", "labelIds")


def test_errors_of_images_name_them():
    semantic = CityscapesSemanticEvaluator(towns.SEMANTIC)
    image = DatasetCatalog.get(towns.SEMANTIC)[0]
    good = towns.predicted(towns.SEMANTIC, image)
    with pytest.raises(ValueError, match=r"has the shape \(7, 64, 96\), but .* 19 classes"):
        semantic.process([image], [{"sem_seg": good["sem_seg"][:7]}])
    with pytest.raises(ValueError, match=r"leftImg8bit\.png is 32 x 96 .*labelIds\.png is 64 x 96"):
        semantic.process([image], [{"sem_seg": good["sem_seg"][:, ::2]}])
    absent = {"file_name": "images/town/absent_leftImg8bit.png"}
    with pytest.raises(
        ValueError, match=r"has no ground truth: .*absent_gtFine_labelIds\.png does not"
    ):
        semantic.process([absent], [good])
    with pytest.raises(ValueError, match="without a name is not named"):
        semantic.process([{}], [good])
    instances = CityscapesInstanceEvaluator(towns.INSTANCE)
    wrong = good["instances"]
    wrong.pred_classes = wrong.pred_classes + 50
    with pytest.raises(ValueError, match=r"have the class \d+, but .*_seg_val has 0\.\.7"):
        instances.process([image], [{"instances": wrong}])
    small = towns.instances(np.full((32, 32), 26001), towns.THINGS)
    with pytest.raises(ValueError, match=r"is 32 x 32 .*instanceIds\.png is 64 x 96"):
        instances.process([image], [{"instances": small}])


def test_errors_of_the_metadata():
    with pytest.raises(ValueError, match=r"stuff_classes of .*separated_val has things, but Citys"):
        CityscapesSemanticEvaluator(towns.SEPARATED)
    metadata = MetadataCatalog.get(towns.INSTANCE)
    vars(metadata)["thing_classes"] = ["car", "cat"]
    with pytest.raises(ValueError, match=r"thing_classes of .*instance_seg_val has cat, but City"):
        CityscapesInstanceEvaluator(towns.INSTANCE)
    del metadata.gt_dir
    with pytest.raises(ValueError, match=r"metadata of .*_seg_val lacks gt_dir"):
        CityscapesInstanceEvaluator(towns.INSTANCE)

"""Which evaluators a data set gets, one run of all of them, and two processes."""

from __future__ import annotations

import pickle

import cityscapes_datasets as towns
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from rehearsed import registered_at

from freqfusion import get_freqfusion_cfg
from freqfusion.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    build_evaluator,
)


def parts(evaluator):
    assert isinstance(evaluator, DatasetEvaluators)
    return [type(part) for part in evaluator._evaluators]


def test_table(dataset, tmp_path):
    separated, joint = dataset
    everything = build_evaluator(get_freqfusion_cfg(), separated, str(tmp_path))
    assert parts(everything) == [InstanceEvaluator, SemanticEvaluator, PanopticEvaluator]
    assert isinstance(build_evaluator(None, "scenes_stuffonly"), SemanticEvaluator)
    # Without instances and label maps: labels come from the panoptic truth.
    assert parts(build_evaluator(None, joint)) == [SemanticEvaluator, PanopticEvaluator]


def test_unknown_type(dataset):
    name = "scenes_typed"
    DatasetCatalog.register(name, list)
    with pytest.raises(ValueError, match="lacks evaluator_type"):
        build_evaluator(None, name)
    MetadataCatalog.get(name).set(evaluator_type="lvis")
    with pytest.raises(
        ValueError, match=r"evaluator_type 'lvis'\. Known are cityscapes_instance, "
    ):
        build_evaluator(None, name)
    with pytest.raises(ValueError, match="no data set 'absent' is registered"):
        build_evaluator(None, "absent")


@pytest.fixture(scope="module")
def towns_root(tmp_path_factory):
    root = towns.write(tmp_path_factory.mktemp("towns"))
    with pytest.MonkeyPatch.context() as patch, registered_at(root, patch):
        yield root


@pytest.mark.usefixtures("towns_root")
def test_table_of_cityscapes():
    for name, kind in (
        (towns.INSTANCE, CityscapesInstanceEvaluator),
        (towns.SEMANTIC, CityscapesSemanticEvaluator),
    ):
        assert type(build_evaluator(None, name)) is kind
    joint = [CityscapesInstanceEvaluator, CityscapesSemanticEvaluator, PanopticEvaluator]
    assert parts(build_evaluator(None, towns.PANOPTIC)) == joint
    separated = [CityscapesInstanceEvaluator, SemanticEvaluator, PanopticEvaluator]
    assert parts(build_evaluator(None, towns.SEPARATED)) == separated


def evaluate_part(name, part):
    """Evaluate some of the images, moved a little."""
    evaluator = build_evaluator(None, name)
    evaluator.reset()
    for image in DatasetCatalog.get(name)[part]:
        evaluator.process([image], [towns.predicted(name, image, 2)])
    return evaluator.evaluate()


@pytest.mark.usefixtures("towns_root")
@pytest.mark.parametrize("name", [towns.PANOPTIC, towns.SEPARATED])
def test_two_processes_make_the_scores_of_one(name, monkeypatch):
    """Each with half of the images; what the second one sends is what the first one receives."""
    whole, sent = evaluate_part(name, slice(None)), []
    send = lambda counts: sent.append(pickle.loads(pickle.dumps(counts)))  # noqa: E731
    with monkeypatch.context() as second:
        second.setattr(comm, "is_main_process", lambda: False)
        second.setattr(comm, "gather", lambda counts: send(counts) or [])
        second.setattr(comm, "all_gather", lambda counts: send(counts) or [counts])
        evaluate_part(name, slice(1, None, 2))
    for gather in ("gather", "all_gather"):
        monkeypatch.setattr(comm, gather, lambda counts: [counts, sent.pop(0)])
    results = evaluate_part(name, slice(0, None, 2))
    assert set(results) == set(whole) == {"segm", "sem_seg", "panoptic_seg"}
    for task, scores in whole.items():
        assert results[task] == pytest.approx(scores, nan_ok=True)
        assert 1 < next(iter(scores.values())) < 99


def test_a_model_without_predictions_has_mask_scores(dataset, tmp_path):
    """They are nan, not left out: the tasks come from the configuration."""
    cfg = get_freqfusion_cfg()
    cfg.MODEL.MASK_ON = True
    for masks, expected in ((True, {"bbox", "segm"}), (False, {"bbox"})):
        cfg.MODEL.MASK_ON = masks
        evaluator = build_evaluator(cfg, dataset[0], str(tmp_path))._evaluators[0]
        evaluator.reset()
        nothing = Instances((48, 64), pred_boxes=Boxes(torch.zeros(0, 4)))
        nothing.scores = nothing.pred_classes = torch.zeros(0)
        for image in DatasetCatalog.get(dataset[0]):
            evaluator.process([image], [{"instances": nothing}])
        assert set(evaluator.evaluate()) == expected


def test_instances_of_one_label_space(dataset, coco_root, tmp_path):
    """The truth as predictions, with classes of things and stuff together, has AP 100."""
    name = "scenes_joint_instances"
    metadata = MetadataCatalog.get(dataset[1])
    json_file = f"{coco_root}/annotations/instances_val.json"
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, f"{coco_root}/val"))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        evaluator_type="coco",
        thing_classes=metadata.thing_classes + metadata.stuff_classes[7:],
        thing_dataset_id_to_contiguous_id=metadata.thing_dataset_id_to_contiguous_id,
    )
    evaluator = build_evaluator(None, name, str(tmp_path))
    evaluator.reset()
    for image in DatasetCatalog.get(name):
        kept = [a for a in image["annotations"] if not a["iscrowd"]]
        boxes = BoxMode.convert(
            torch.tensor([a["bbox"] for a in kept]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
        )
        truth = Instances((image["height"], image["width"]), pred_boxes=Boxes(boxes))
        labels = [metadata.thing_dataset_id_to_contiguous_id[a["category_id"]] for a in kept]
        truth.pred_classes, truth.scores = torch.tensor(labels), torch.ones(len(kept))
        evaluator.process([image], [{"instances": truth}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)

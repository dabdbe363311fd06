"""Which evaluators a data set gets, one run of all of them, and two processes."""

from __future__ import annotations

import json

import cityscapes_datasets as towns
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm

from freqfusion import get_freqfusion_cfg
from freqfusion.engine.launch import start_processes
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
    towns.register(root)
    yield root
    towns.remove()


@pytest.mark.usefixtures("towns_root")
def test_table_of_cityscapes():
    for name, kind in (
        ("towns_instance", CityscapesInstanceEvaluator),
        ("towns_sem_seg", CityscapesSemanticEvaluator),
    ):
        assert type(build_evaluator(None, name)) is kind
    joint = [CityscapesInstanceEvaluator, CityscapesSemanticEvaluator, PanopticEvaluator]
    assert parts(build_evaluator(None, "towns_panoptic")) == joint
    separated = [CityscapesInstanceEvaluator, SemanticEvaluator, PanopticEvaluator]
    assert parts(build_evaluator(None, "towns_separated")) == separated


@pytest.mark.usefixtures("towns_root")
def test_the_builtin_data_sets_have_evaluators(monkeypatch):
    """Detectron2 registers Cityscapes itself; only the panoptic one reads a file at once."""
    for task, kind in (
        ("instance_seg", CityscapesInstanceEvaluator),
        ("sem_seg", CityscapesSemanticEvaluator),
    ):
        assert type(build_evaluator(None, f"cityscapes_fine_{task}_val")) is kind
    builtin = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    ours = MetadataCatalog.get("towns_panoptic")
    for name in ("panoptic_json", "panoptic_root", "gt_dir"):
        monkeypatch.setitem(vars(builtin), name, getattr(ours, name))
    evaluator = build_evaluator(None, "cityscapes_fine_panoptic_val")
    evaluator.reset()
    images = DatasetCatalog.get("towns_panoptic")
    for image in images:
        evaluator.process([image], [towns.predicted("towns_panoptic", image)])
    results = evaluator.evaluate()
    assert results["sem_seg"]["IoU"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)


DATA_SETS = ("towns_panoptic", "towns_separated")


def evaluate_own_part():
    """Evaluate every so manieth image, moved a little; {data set: results} in the main process."""
    results = {}
    for name in DATA_SETS:
        evaluator = build_evaluator(None, name)
        evaluator.reset()
        for image in DatasetCatalog.get(name)[comm.get_rank() :: comm.get_world_size()]:
            evaluator.process([image], [towns.predicted(name, image, 2)])
        results[name] = evaluator.evaluate()
    return results


def one_of_two_processes(given):
    """Nothing is registered in a new process, other than by Detectron2."""
    root, file = given
    towns.register(root)
    results = evaluate_own_part()
    if comm.is_main_process():
        with open(file, "w") as stream:
            json.dump([comm.get_world_size(), results], stream)
    else:
        # DatasetEvaluators gives an empty dictionary where its parts give nothing.
        assert not any(results.values())


def test_two_processes_make_the_scores_of_one(towns_root, tmp_path):
    """Semantic, instance and panoptic evaluators, each with half of the images."""
    file = tmp_path / "results.json"
    given = (str(towns_root), str(file))
    assert start_processes(one_of_two_processes, given, count=2, device="cpu") == 0
    processes, results = json.loads(file.read_text())
    assert processes == 2
    whole = evaluate_own_part()
    for name in DATA_SETS:
        assert set(results[name]) == set(whole[name]) == {"segm", "sem_seg", "panoptic_seg"}
        for task, scores in whole[name].items():
            assert results[name][task] == pytest.approx(scores, nan_ok=True)
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

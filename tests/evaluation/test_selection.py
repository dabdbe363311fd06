"""Which evaluators a data set gets, one run of all of them, and two processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from freqfusion import get_freqfusion_cfg
from freqfusion.evaluation import PanopticEvaluator, SemanticEvaluator, build_evaluator
from freqfusion.evaluation.streaming import summed
from freqfusion.metrics import ConfusionMatrix


def parts(evaluator):
    assert isinstance(evaluator, DatasetEvaluators)
    return [type(part) for part in evaluator._evaluators]


def test_table(dataset, tmp_path):
    separated, joint = dataset
    everything = build_evaluator(get_freqfusion_cfg(), separated, str(tmp_path))
    assert parts(everything) == [COCOEvaluator, SemanticEvaluator, PanopticEvaluator]
    assert isinstance(build_evaluator(None, "scenes_stuffonly"), SemanticEvaluator)
    # Without instances and label maps, panoptic quality stays.
    assert isinstance(build_evaluator(None, joint), PanopticEvaluator)


def test_unknown_type(dataset):
    name = "scenes_typed"
    DatasetCatalog.register(name, list)
    with pytest.raises(ValueError, match="lacks evaluator_type"):
        build_evaluator(None, name)
    MetadataCatalog.get(name).set(evaluator_type="cityscapes_instance")
    with pytest.raises(ValueError, match=r"not supported yet\. Known are coco, coco_panoptic_seg"):
        build_evaluator(None, name)
    with pytest.raises(ValueError, match="no data set 'absent' is registered"):
        build_evaluator(None, "absent")


def test_all_evaluators_run_together(dataset, tmp_path):
    """A model with semantic output only has semantic scores; the others say so and are empty."""
    evaluator = build_evaluator(None, dataset[0], str(tmp_path))
    evaluator.reset()
    for image in DatasetCatalog.get(dataset[0]):
        output = {"sem_seg": torch.zeros(7, image["height"], image["width"])}
        evaluator.process([image], [output])
    results = evaluator.evaluate()
    assert "sem_seg" in results
    assert "panoptic_seg" not in results


def count_a_pixel(folder):
    """One pixel of class = rank in each process; the main process writes the sum."""
    rank = torch.distributed.get_rank()
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([rank]), np.array([rank]))
    total = summed(confusion)
    if total is not None:
        np.save(f"{folder}/total.npy", total.matrix)


@pytest.mark.skipif(torch.cuda.is_available(), reason="launch takes nccl where there is CUDA")
def test_two_processes_are_summed(tmp_path):
    launch(count_a_pixel, 2, dist_url="auto", args=(str(tmp_path),))
    assert np.load(tmp_path / "total.npy").tolist() == [[1, 0], [0, 1]]

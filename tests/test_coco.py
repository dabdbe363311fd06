"""COCO for real: every step of a user, and our scores against those of others' programs.

``FREQFUSION_COCO`` names a folder in COCO's layout (``docs/datasets.md``) with photographs; its
training and validation splits may be parts of COCO's.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

ROOT = Path(__file__).parents[1]
COCO = os.environ.get("FREQFUSION_COCO")
MODELS = ("freqfusion_panoptic_fpn_r50_1x", "freqfusion_mask2former_r50")
DATASET = "coco_2017_val_panoptic_separated"
SMALL = ["INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192", "MODEL.RESNETS.NORM", "BN"]
TRAINING = ["INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.SCALE_JITTER.SIZE", "(128,128)"]
TRAINING += ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0"]
TRAINING += ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
TRAINING += ["SOLVER.BASE_LR", "0.0001", "SOLVER.AMP.ENABLED", "False"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not COCO, reason="FREQFUSION_COCO names no folder of COCO"),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The data sets' folder, with COCO as it was downloaded."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "coco" / "annotations").mkdir(parents=True)
    for one in Path(COCO).iterdir():
        if one.name.startswith(("train2017", "val2017")) or one.name in (
            "panoptic_train2017",
            "panoptic_val2017",
        ):
            (folder / "coco" / one.name).symlink_to(one.resolve())
    for split in ("train2017", "val2017"):
        name = f"annotations/panoptic_{split}.json"
        shutil.copy(Path(COCO, name), folder / "coco" / name)
    return folder


@pytest.fixture(scope="module")
def run(datasets):
    """Run one of the commands; what it prints."""

    def command(tool, *words, root=datasets):
        done = subprocess.run(
            [sys.executable, "-m", f"freqfusion.tools.{tool}", *map(str, words)],
            env={**os.environ, "DETECTRON2_DATASETS": str(root)},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return command


@pytest.fixture(scope="module")
def prepared(run, datasets):
    printed = run("prepare", "coco")
    assert "coco is ready" in printed
    return datasets / "coco"


@pytest.fixture(scope="module", params=MODELS)
def trained(run, prepared, request, tmp_path_factory):
    """The configuration and the folder of ten steps of training with their evaluation."""
    output = tmp_path_factory.mktemp(request.param)
    config = f"coco/panoptic-segmentation/{request.param}"
    run("train", "--config-file", config, "--overwrite", *SMALL, *TRAINING,
        "TEST.WRITE_PANOPTIC", "True", "OUTPUT_DIR", output)  # fmt: skip
    return config, output


@pytest.fixture(scope="module")
def registered(prepared):
    from rehearsed import registered_at

    with pytest.MonkeyPatch.context() as patch, registered_at(prepared.parent, patch):
        yield prepared


def test_the_data_set_is_sound(run, prepared):
    config = f"coco/panoptic-segmentation/{MODELS[0]}"
    assert f"{DATASET}: 0 errors" in run("check_dataset", "--config-file", config)


def test_training_evaluation_and_pictures(run, trained, tmp_path):
    config, output = trained
    results = json.loads((output / "results.json").read_text())
    scores = next(iter(results["datasets"].values()))
    assert 0 <= scores["panoptic_seg"]["PQ"] <= 100
    assert results["weights"] == str(output / "model_final.pth")
    model = ["--config-file", config, "--weights", output / "model_final.pth"]
    pictures = tmp_path / "pictures"
    run("visualize", *model, "--dataset", DATASET, "--limit", "2", "--output", pictures, *SMALL)
    drawn = [np.asarray(Image.open(file)) for file in pictures.rglob("*.png")]
    assert len(drawn) >= 2
    assert all(picture.std() > 1 for picture in drawn)


def test_report_and_export(run, trained, tmp_path):
    config, output = trained
    model = ["--config-file", config, "--weights", output / "model_final.pth"]
    run("report", *model, "--dataset", DATASET, "--limit", "2", "--output", tmp_path / "r.html",
        *SMALL)  # fmt: skip
    assert "<img" in (tmp_path / "r.html").read_text()
    run("export", *model, "--output", tmp_path / "model.onnx", "--size", "128x160", *SMALL)


def perturbed(ids, kind, number):
    """The map of an image with some mistakes."""
    if kind == "shifted":
        return np.roll(ids, 1 + number % 7, axis=1)
    if kind == "shrunk":
        same = (ids == np.roll(ids, 2, 0)) & (ids == np.roll(ids, 2, 1))
        return np.where(same, ids, 0)
    present = [one for one in np.unique(ids).tolist() if one]
    if kind == "joined" and len(present) > 1:
        return np.where(ids == present[0], present[1], ids)
    return ids if number % 2 else np.where(ids == present[-1], 0, ids)


@pytest.mark.parametrize("kind", ["exact", "shifted", "shrunk", "joined", "lacking"])
def test_panoptic_quality_is_panopticapis(kind, registered, tmp_path):
    """PQ, SQ and RQ of the ground truth with mistakes, by the files of a submission."""
    pytest.importorskip("panopticapi")
    from detectron2.data import MetadataCatalog
    from panopticapi.evaluation import pq_compute

    from freqfusion.data.reading import read_panoptic_png
    from freqfusion.evaluation import PanopticEvaluator

    metadata = MetadataCatalog.get(DATASET)
    evaluator = PanopticEvaluator(DATASET, str(tmp_path), write_predictions=True)
    content = json.loads(Path(metadata.panoptic_json).read_text())
    for number, entry in enumerate(content["annotations"]):
        ids = read_panoptic_png(Path(metadata.panoptic_root, entry["file_name"]))
        ids = ids if kind == "exact" else perturbed(ids, kind, number)
        shown = set(np.unique(ids).tolist())
        infos = [
            {"id": one["id"], "category_id": one["category_id"]}
            for one in entry["segments_info"]
            if one["id"] in shown
        ]
        image = {"image_id": entry["image_id"], "file_name": entry["file_name"]}
        evaluator.process([image], [{"panoptic_seg": (ids, infos)}])
    scores = evaluator.evaluate()["panoptic_seg"]
    (index,) = tmp_path.glob("*_predictions.json")
    theirs = pq_compute(
        metadata.panoptic_json, str(index), metadata.panoptic_root, str(index.with_suffix(""))
    )
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for score in ("pq", "sq", "rq"):
            expected = 100 * theirs[group][score]
            assert math.isclose(scores[f"{score.upper()}{suffix}"], expected, abs_tol=1e-9)


def test_average_precision_is_that_of_pycocotools(registered, tmp_path):
    import torch
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import Boxes, Instances
    from pycocotools.coco import COCO as Annotations
    from pycocotools.cocoeval import COCOeval

    from freqfusion.evaluation import InstanceEvaluator
    from freqfusion.evaluation.overlays import decode_mask

    random = np.random.default_rng(0)
    evaluator = InstanceEvaluator(DATASET, ("bbox", "segm"), output_dir=str(tmp_path))
    evaluator.reset()
    for entry in DatasetCatalog.get(DATASET):
        size = entry["height"], entry["width"]
        kept = [one for one in entry["annotations"] if random.random() < 0.8]
        masks = [np.roll(decode_mask(one["segmentation"], size), 3, 0) for one in kept]
        instances = Instances(size)
        instances.pred_masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size)))
        corners = torch.tensor([one["bbox"] for one in kept]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(corners)
        instances.pred_classes = torch.tensor([one["category_id"] for one in kept]).long()
        instances.scores = torch.from_numpy(random.random(len(kept)))
        evaluator.process([entry], [{"instances": instances}])
    scores = evaluator.evaluate()
    truth = Annotations(MetadataCatalog.get(DATASET).json_file)
    found = truth.loadRes(str(tmp_path / "coco_instances_results.json"))
    for task in ("bbox", "segm"):
        theirs = COCOeval(truth, found, task)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        assert math.isclose(scores[task]["AP"], 100 * theirs.stats[0], abs_tol=1e-9)


def test_mean_iou_is_that_of_a_confusion_matrix(registered):
    import torch
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from freqfusion.evaluation import SemanticEvaluator

    count = len(MetadataCatalog.get(DATASET).stuff_classes)
    evaluator, table = SemanticEvaluator(DATASET), np.zeros((count, count))
    for number, entry in enumerate(DatasetCatalog.get(DATASET)):
        gt = np.asarray(Image.open(entry["sem_seg_file_name"])).astype(int)
        guess = np.roll(np.where(gt == 255, 1, gt), 1 + number % 5, axis=0)
        known = gt != 255
        np.add.at(table, (gt[known], guess[known]), 1)
        output = torch.nn.functional.one_hot(torch.from_numpy(guess), count).permute(2, 0, 1)
        evaluator.process([entry], [{"sem_seg": output}])
    hits, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    expected = 100 * np.mean(hits[union > 0] / union[union > 0])
    assert math.isclose(evaluator.evaluate()["sem_seg"]["mIoU"], expected, abs_tol=1e-9)


def test_twenty_photographs_are_learned(run, tmp_path):
    """A pipeline that cannot learn a few images by heart is broken somewhere."""
    from benchmarks.photographs import write_subset

    write_subset(Path(COCO), tmp_path / "coco", ())
    run("prepare", "coco", root=tmp_path)
    config = "coco/panoptic-segmentation/freqfusion_panoptic_fpn_lite0"
    run("train", "--config-file", config, "OUTPUT_DIR", tmp_path / "run", root=tmp_path)
    results = json.loads((tmp_path / "run/results.json").read_text())
    scores = next(iter(results["datasets"].values()))
    assert scores["panoptic_seg"]["PQ"] >= 60

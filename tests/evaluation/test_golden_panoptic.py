"""Set F of the reference data through the panoptic evaluator: files on disk, model outputs.

The evaluator counts areas, so that what the reference gives for a wrong declared area is not
expected here; ``PanopticQuality`` has a switch for it and a test of its own.
"""

from __future__ import annotations

import json

import golden_data
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from golden_data import cases, manifest
from PIL import Image

from freqfusion.evaluation import PanopticEvaluator
from freqfusion.metrics import id_to_rgb

NAME = "golden_panoptic"
SUFFIXES = {"All": "", "Things": "_th", "Stuff": "_st"}


def golden(keep):
    """Cases of which (case, record) is to be kept, as test parameters."""
    files = {e["id"]: e["file"] for e in manifest()["files"] if e["file"].endswith(".json")}
    kept = []
    for case in cases("F", "pq_compute"):
        record = json.loads((golden_data.FOLDER / files[case.id]).read_text(encoding="utf-8"))
        if keep(case, record):
            kept.append(pytest.param(case, record, id=case.id))
    return kept


def maps_of(case):
    return {name: array.numpy() for name, array in case.group("in").items()}


def correct_areas(case, record):
    """Whether each declared area is the counted one."""
    maps = maps_of(case)
    return all(
        np.sum(maps[f"gt_{entry['image_id']}"] == segment["id"]) == segment["area"]
        for entry in record["gt_annotations"]
        for segment in entry["segments_info"]
    )


def has_scores_of_pixels(case, record):
    return record["expected_error"] is None and correct_areas(case, record)


@pytest.fixture
def registered(tmp_path):
    """Register the truth of a case, in files; contiguous ids are positions among all categories."""

    def register(case, record):
        maps = maps_of(case)
        for entry in record["gt_annotations"]:
            colors = id_to_rgb(maps[f"gt_{entry['image_id']}"])
            Image.fromarray(colors).save(tmp_path / entry["file_name"])
        content = {"categories": record["categories"], "annotations": record["gt_annotations"]}
        (tmp_path / "panoptic.json").write_text(json.dumps(content))
        contiguous = {True: {}, False: {}}
        for at, category in enumerate(record["categories"]):
            contiguous[bool(category["isthing"])][category["id"]] = at
        MetadataCatalog.get(NAME).set(
            panoptic_root=str(tmp_path),
            panoptic_json=str(tmp_path / "panoptic.json"),
            thing_dataset_id_to_contiguous_id=contiguous[True],
            stuff_dataset_id_to_contiguous_id=contiguous[False],
        )

    yield register
    MetadataCatalog.remove(NAME)


def output_of(case, annotation, *, contiguous):
    """A model's output: categories as the model has them, or the data set's own ids."""
    ids = torch.from_numpy(maps_of(case)[f"pred_{annotation['image_id']}"])
    metadata = MetadataCatalog.get(NAME)
    infos = []
    for segment in annotation["segments_info"]:
        info = {"id": segment["id"], "category_id": segment["category_id"]}
        for isthing, kind in ((True, "thing"), (False, "stuff")):
            known = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
            if contiguous and segment["category_id"] in known:
                info |= {"category_id": known[segment["category_id"]], "isthing": isthing}
        infos.append(info)
    return {"panoptic_seg": (ids, infos)}


def evaluate(case, record, folder=None, contiguous=True):
    evaluator = PanopticEvaluator(NAME, folder)
    predictions = {entry["image_id"]: entry for entry in record["pred_annotations"]}
    for entry in record["gt_annotations"]:
        if entry["image_id"] in predictions:
            output = output_of(case, predictions[entry["image_id"]], contiguous=contiguous)
            image = {"image_id": entry["image_id"], "file_name": f"{entry['image_id']}.jpg"}
            evaluator.process([image], [output])
    return evaluator.evaluate()["panoptic_seg"]


@pytest.mark.golden
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "own ids"])
@pytest.mark.parametrize(("case", "record"), golden(has_scores_of_pixels))
def test_golden_scores(case, record, contiguous, registered, tmp_path):
    """Groups at the manifest's tolerance, and the counts of every category."""
    registered(case, record)
    tolerance = case.entry["tolerance"]["pq"]
    scores = evaluate(case, record, str(tmp_path), contiguous)
    for group, suffix in SUFFIXES.items():
        for kind in ("pq", "sq", "rq"):
            expected = 100 * record["expected"][group][kind]
            found = scores[f"{kind.upper()}{suffix}"]
            assert found == pytest.approx(expected, abs=100 * tolerance, rel=0)
    saved = json.loads((tmp_path / f"{NAME}_panoptic_seg.json").read_text())
    for score in saved["classes"]:
        want = record["expected_counts"].get(str(score["id"]), {"tp": 0, "fp": 0, "fn": 0})
        assert {kind: score[kind] for kind in ("tp", "fp", "fn")} == {
            kind: want[kind] for kind in ("tp", "fp", "fn")
        }
        if want.get("tp"):
            assert score["iou_sum"] == pytest.approx(want["iou_sum"], abs=tolerance, rel=0)

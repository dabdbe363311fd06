"""Perfect predictions, degraded ones against the metric itself, label maps, merging, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from freqfusion.data.reading import read_panoptic_png
from freqfusion.evaluation import PanopticEvaluator
from freqfusion.evaluation.panoptic import panoptic_scores
from freqfusion.metrics import PanopticQuality

KEYS = {f"{score}{suffix}" for score in ("PQ", "SQ", "RQ") for suffix in ("", "_th", "_st")}


def truths(name):
    """(input, annotation, id map) of each image."""
    metadata = MetadataCatalog.get(name)
    with open(metadata.panoptic_json) as file:
        content = json.load(file)
    entries = {entry["image_id"]: entry for entry in content["annotations"]}
    for image in DatasetCatalog.get(name):
        entry = entries[image["image_id"]]
        yield image, entry, read_panoptic_png(f"{metadata.panoptic_root}/{entry['file_name']}")


def predicted(name, ids, segments):
    """The same in Detectron2's form, with contiguous categories."""
    metadata = MetadataCatalog.get(name)
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    infos = []
    for segment in segments:
        number = segment["category_id"]
        label = things[number] if number in things else stuff[number]
        infos.append({"id": segment["id"], "category_id": label, "isthing": number in things})
    return {"panoptic_seg": (torch.from_numpy(ids), infos)}


def degraded(ids, segments):
    """A shifted map: void comes in at the left, and segments that leave the image are dropped."""
    moved = np.zeros_like(ids)
    moved[:, 5:] = ids[:, :-5]
    return moved, [segment for segment in segments if (moved == segment["id"]).any()]


@pytest.mark.parametrize("which", [0, 1])
def test_truth_scores_100(dataset, which):
    name = dataset[which]
    evaluator = PanopticEvaluator(name)
    for image, entry, ids in truths(name):
        evaluator.process([image], [predicted(name, ids, entry["segments_info"])])
    scores = evaluator.evaluate()["panoptic_seg"]
    names = {one["name"] for one in evaluator.quality.categories}
    assert set(scores) == KEYS | {f"PQ-{name}" for name in names}
    present = [score for score in scores.values() if not math.isnan(score)]
    assert present == pytest.approx([100] * len(present))
    assert not any(math.isnan(scores[key]) for key in KEYS)


def test_predictions_as_files_are_what_was_predicted(dataset, tmp_path):
    """COCO's files, whose scores are those of the predictions."""
    name = dataset[0]
    evaluator = PanopticEvaluator(name, str(tmp_path), write_predictions=True)
    for image, entry, ids in truths(name):
        moved, segments = degraded(ids, entry["segments_info"])
        evaluator.process([image], [predicted(name, moved, segments)])
    scores = evaluator.evaluate()["panoptic_seg"]
    folder = tmp_path / f"{name}_panoptic_predictions"
    written = json.loads(folder.with_suffix(".json").read_text())
    metric = PanopticQuality(written["categories"])
    by_image = {one["image_id"]: one for one in written["annotations"]}
    for image, entry, ids in truths(name):
        one = by_image[image["image_id"]]
        found = read_panoptic_png(folder / one["file_name"])
        moved, segments = degraded(ids, entry["segments_info"])
        assert (found == moved).all()
        assert [{k: s[k] for k in ("id", "category_id")} for s in segments] == one["segments_info"]
        metric.update(found, one["segments_info"], ids, entry["segments_info"])
    assert scores == pytest.approx(panoptic_scores(metric.result()), nan_ok=True)


def test_a_test_set_without_ground_truth_is_written_only(dataset, tmp_path, monkeypatch):
    name = dataset[0]
    metadata = MetadataCatalog.get(name)
    pairs = [*truths(name)]
    content = json.loads(Path(metadata.panoptic_json).read_text())
    del content["annotations"]
    bare = tmp_path / "image_info.json"
    bare.write_text(json.dumps(content))
    monkeypatch.setitem(metadata.__dict__, "panoptic_json", str(bare))
    with pytest.raises(ValueError, match="has no annotations"):
        PanopticEvaluator(name, str(tmp_path))
    evaluator = PanopticEvaluator(name, str(tmp_path), write_predictions=True)
    for image, entry, ids in pairs:
        evaluator.process([image], [predicted(name, ids, entry["segments_info"])])
    assert evaluator.evaluate() == {"panoptic_seg": {}}
    assert len([*tmp_path.rglob("*.png")]) == len(pairs)
    with pytest.raises(ValueError, match="output_dir, which is None"):
        PanopticEvaluator(name, write_predictions=True)


def test_degraded_prediction_has_the_scores_of_the_metric(dataset, tmp_path, caplog):
    name = dataset[0]
    evaluator = PanopticEvaluator(name, str(tmp_path))
    with open(MetadataCatalog.get(name).panoptic_json) as file:
        metric = PanopticQuality(json.load(file)["categories"])
    for image, entry, ids in truths(name):
        moved, segments = degraded(ids, entry["segments_info"])
        plain = [{"id": s["id"], "category_id": s["category_id"]} for s in segments]
        metric.update(moved, plain, ids, entry["segments_info"])
        evaluator.process([image], [predicted(name, moved, segments)])
    with caplog.at_level("INFO"):
        scores = evaluator.evaluate()["panoptic_seg"]
    assert scores == pytest.approx(panoptic_scores(metric.result()), nan_ok=True)
    assert 10 < scores["PQ"] < 95
    assert "Things" in caplog.text
    saved = json.loads((tmp_path / f"{name}_panoptic_seg.json").read_text())
    assert saved["percent"]["PQ"] == pytest.approx(scores["PQ"])
    assert {entry["name"] for entry in saved["classes"]} >= {"disc", "sky"}


def test_map_of_labels_without_segments(dataset):
    """Category * 1000 + instance, void -1: no truth segment is lost, and the input is not changed.

    Two instances of a category differ by their number; a crowd is predicted as a segment, which is
    excused.
    """
    name = dataset[1]
    labels_of = MetadataCatalog.get(name).stuff_dataset_id_to_contiguous_id
    evaluator = PanopticEvaluator(name)
    for image, entry, ids in truths(name):
        labels = torch.full(ids.shape, -1)
        for instance, segment in enumerate(entry["segments_info"]):
            label = labels_of[segment["category_id"]] * 1000 + instance
            labels[torch.from_numpy(ids == segment["id"])] = label
        before = labels.clone()
        evaluator.process([image], [{"panoptic_seg": (labels, None)}])
        assert torch.equal(labels, before)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_part_of_the_images_is_a_warning_and_reset_begins_anew(dataset, caplog):
    name = dataset[0]
    evaluator = PanopticEvaluator(name)
    image, entry, ids = next(truths(name))
    output = predicted(name, ids, entry["segments_info"])
    evaluator.process([image], [output])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert "1 of the 4 images" in caplog.text
    with pytest.raises(ValueError, match="came twice"):
        evaluator.process([image], [output])
    evaluator.reset()
    evaluator.process([image], [output])


def test_empty_prediction_scores_0(dataset):
    name = dataset[0]
    evaluator = PanopticEvaluator(name)
    for image, _, ids in truths(name):
        evaluator.process([image], [predicted(name, np.zeros_like(ids), [])])
    scores = evaluator.evaluate()["panoptic_seg"]
    assert scores["PQ"] == 0
    assert not math.isnan(scores["PQ_th"])


def test_model_without_the_output(dataset, caplog):
    name = dataset[0]
    evaluator = PanopticEvaluator(name)
    image, entry, ids = next(truths(name))
    evaluator.process([image], [{"instances": None}])
    assert evaluator.evaluate() == {}
    assert "no 'panoptic_seg' for any of its 1 images" in caplog.text
    evaluator.process([image], [predicted(name, ids, entry["segments_info"])])
    with pytest.raises(ValueError, match="for all or for none"):
        evaluator.evaluate()


def test_errors_name_the_file(dataset, tmp_path):
    name = dataset[0]
    evaluator = PanopticEvaluator(name)
    image, _, ids = next(truths(name))
    with pytest.raises(ValueError, match=r"000000000001\.jpg is 24 x 64 .* is 48 x 64"):
        evaluator.process([image], [predicted(name, ids[::2], [])])
    with pytest.raises(ValueError, match="image_id 99 is not in"):
        evaluator.process([{"image_id": 99}], [predicted(name, ids, [])])
    wrong = {"id": 1, "category_id": 50, "isthing": True}
    with pytest.raises(ValueError, match=r"thing category 50, but .* has 0\.\.6"):
        evaluator.process([image], [{"panoptic_seg": (torch.from_numpy(ids), [wrong])}])
    with pytest.raises(ValueError, match="needs label_divisor"):
        evaluator.process([image], [{"panoptic_seg": (torch.from_numpy(ids), None)}])
    with pytest.raises(ValueError, match="is not there"):
        read_panoptic_png(tmp_path / "absent.png")


def test_errors_of_the_metadata(dataset, tmp_path):
    metadata = MetadataCatalog.get("scenes_stuffonly")
    with pytest.raises(ValueError, match="lacks panoptic_json"):
        PanopticEvaluator("scenes_stuffonly")
    with pytest.raises(ValueError, match="no data set 'scene' is registered"):
        PanopticEvaluator("scene")
    assert "scene" not in MetadataCatalog.list()
    metadata.set(panoptic_json=str(tmp_path / "absent.json"), panoptic_root="")
    with pytest.raises(ValueError, match="cannot read the annotations"):
        PanopticEvaluator("scenes_stuffonly")

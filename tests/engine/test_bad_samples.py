"""Runs over data sets of which images cannot be used."""

import json
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.env import seed_all_rng
from rehearsed import registered_at
from toy_configs import change

from freqfusion.data.bad_samples import BadSample, BadSampleError, Policy, SkippedImages
from freqfusion.engine import Trainer
from freqfusion.engine.command_line import evaluate, explain_errors
from freqfusion.evaluation import InstanceEvaluator, SkippingEvaluator

VAL = "synthetic_panoptic_val_separated"
SKIP = {"DATALOADER__BAD_SAMPLES": "skip"}
FIRST = "000000000001"


@pytest.fixture
def spoiled(datasets, tmp_path, monkeypatch):
    """A copy of the data sets; the folder of the synthetic one."""
    root = tmp_path / "datasets"
    shutil.copytree(datasets, root)
    with registered_at(root, monkeypatch):
        yield root / "synthetic"


def images(folder, split):
    return sorted((folder / split).glob("*.jpg"))


def break_first(folder, split):
    first = images(folder, split)[0]
    first.write_bytes(first.read_bytes()[:200])
    return str(first)


def train(cfg):
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.train()
    return trainer


def results(tmp_path):
    return json.loads((tmp_path / "run/results.json").read_text())


def test_training_goes_on_and_tells(spoiled, semantic_cfg, tmp_path, caplog):
    """Four images in two steps of two; the bad one is named when it comes and at the end."""
    bad = break_first(spoiled, "train")
    train(change(semantic_cfg, SKIP | {"SOLVER__MAX_ITER": 4}))
    skipped = results(tmp_path)["images_skipped"]
    assert list(skipped) == ["training"]
    assert list(skipped["training"]) == [bad]
    assert "cannot read the image" in skipped["training"][bad]
    messages = [message for message in caplog.messages if bad in message]
    assert len(messages) == 2
    assert messages[1] == f"training on synthetic_semantic_train: 1 image was left out: {bad}"


def test_refusal_ends_the_run(spoiled, semantic_cfg, capsys):
    bad = break_first(spoiled, "train")
    with (
        pytest.raises(SystemExit) as caught,
        explain_errors(debug=False, kinds=(BadSampleError,)),
    ):
        train(change(semantic_cfg, {"SOLVER__MAX_ITER": 4}))
    assert caught.value.code == 2
    # Loggers of earlier tests may write there too.
    assert capsys.readouterr().err.count(f"train_net.py: cannot read the image {bad}: ") == 1


def test_scores_are_those_of_the_other_images(spoiled, small_cfg, tmp_path):
    """As if the image were not in the data set: boxes, masks, labels and panoptic truth."""
    torch.manual_seed(0)
    weights = str(tmp_path / "weights.pth")
    torch.save(Trainer.build_model(small_cfg).state_dict(), weights)
    cfg = change(small_cfg, SKIP | {"MODEL__WEIGHTS": weights})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    bad = break_first(spoiled, "val")
    scores = evaluate(cfg)
    skipped = results(tmp_path)["images_skipped"]
    assert list(skipped) == [VAL]
    assert list(skipped[VAL]) == [bad]

    for kind in ("instances", "panoptic"):
        path = spoiled / f"annotations/{kind}_val.json"
        content = json.loads(path.read_text())
        number = content["images"][0]["id"]
        content["images"] = content["images"][1:]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != number]
        path.write_text(json.dumps(content))
    images(spoiled, "val")[0].unlink()
    without = evaluate(cfg)
    assert results(tmp_path)["images_skipped"] == {}
    assert set(scores) == {"bbox", "segm", "sem_seg", "panoptic_seg"}
    assert scores["sem_seg"]["pACC"] > 0
    for task, values in scores.items():
        assert values == pytest.approx(without[task], nan_ok=True), task


def test_objects_of_an_image_left_out_are_not_missed(spoiled):
    """Found without a fault, those of the other images score 100."""
    name = "synthetic_instances_val"
    dicts = DatasetCatalog.get(name)
    skipped_images = SkippedImages(name, 3, Policy("skip", 1.0))
    inner = InstanceEvaluator(name, ("bbox",))
    evaluator = SkippingEvaluator(DatasetEvaluators([inner]), skipped_images)

    def score():
        evaluator.reset()
        for entry in dicts[1:]:
            evaluator.process([entry], [{"instances": found_exactly(entry)}])
        return evaluator.evaluate()["bbox"]["AP"]

    assert score() < 95
    skipped_images.skip(BadSample(dicts[0]["file_name"], "is bad", dicts[0]["image_id"]))
    assert score() == pytest.approx(100)


def found_exactly(entry):
    objects = [a for a in entry["annotations"] if not a["iscrowd"]]
    found = Instances((entry["height"], entry["width"]))
    corners = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found.pred_boxes = Boxes(torch.tensor(corners))
    found.pred_classes = torch.tensor([a["category_id"] for a in objects])
    found.scores = torch.ones(len(objects))
    return found


def test_a_truth_that_is_bad_leaves_the_image_out_of_all_scores(spoiled, small_cfg, tmp_path):
    """The panoptic picture is; labels and instances of the image do not count either."""
    (spoiled / "panoptic_val" / images(spoiled, "val")[0].with_suffix(".png").name).unlink()
    scores = evaluate(change(small_cfg, SKIP))
    assert scores.skipped[VAL]
    (file,) = results(tmp_path)["images_skipped"][VAL]
    assert file == str(images(spoiled, "val")[0])


def test_evaluation_refuses(spoiled, semantic_cfg):
    bad = break_first(spoiled, "val")
    with pytest.raises(BadSampleError, match=f"cannot read the image {bad}"):
        evaluate(semantic_cfg)


def test_too_many(spoiled, semantic_cfg):
    for path in images(spoiled, "val"):
        path.write_bytes(b"")
    with pytest.raises(BadSampleError, match=r"2 of the 3 images .*MAX_BAD_SAMPLES 0.01 allows 1"):
        evaluate(change(semantic_cfg, SKIP))


def test_validation_loss_leaves_them_out(spoiled, semantic_cfg, caplog):
    break_first(spoiled, "val")
    train(change(semantic_cfg, SKIP | {"TEST__VALIDATION_LOSS__ENABLED": True}))
    assert any("the validation loss: left out: " in message for message in caplog.messages)


def test_a_class_that_does_not_occur_is_nan(spoiled, small_cfg, tmp_path):
    """All objects of the first category are taken away."""
    path = spoiled / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    name, number = content["categories"][0]["name"], content["categories"][0]["id"]
    kept = [a for a in content["annotations"] if a["category_id"] != number]
    path.write_text(json.dumps(content | {"annotations": kept}))
    small_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    scores = evaluate(small_cfg)["bbox"]
    written = results(tmp_path)["datasets"][VAL]["bbox"]
    assert scores[f"AP-{name}"] != scores[f"AP-{name}"]
    assert written[f"AP-{name}"] is None


def test_sound_images_give_the_same_weights_in_both_policies(semantic_cfg):
    cfg = change(semantic_cfg, {"DATALOADER__NUM_WORKERS": 2, "DATASETS__TEST": ()})
    one = train(cfg).model.state_dict()
    cfg = change(cfg.clone(), SKIP)
    other = train(cfg).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)

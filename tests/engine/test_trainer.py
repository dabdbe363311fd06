"""What a run writes, with a small model on generated images."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from toy_configs import change

from freqfusion.data.randomness import separate_randomness
from freqfusion.engine import Trainer, validation_loss
from freqfusion.engine.command_line import evaluate
from freqfusion.engine.results import by_dataset, write_results
from freqfusion.engine.validation_loss import (
    build_validation_loader,
    build_validation_mapper,
    spread,
    validation_losses,
)
from freqfusion.modeling.tta import TestTimeAugmentation

VAL = "synthetic_panoptic_val_separated"


def train(cfg, *, resume=False, **options):
    seed_all_rng(1)
    trainer = Trainer(cfg, **options)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestValidationLoss:
    def test_is_the_mean_of_the_losses_of_single_images(self, small_cfg):
        """By hand: one image at a time, statistics of normalisations as they are in a test."""
        torch.manual_seed(0)
        model = Trainer.build_model(small_cfg)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
        with separate_randomness(7):
            losses = validation_losses(model, build_validation_loader(small_cfg))
        mapper = build_validation_mapper(small_cfg)
        sums = {}
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with separate_randomness(7), torch.no_grad(), EventStorage():
            torch.empty((), dtype=torch.int64).random_()  # what a DataLoader draws
            for image in get_detection_dataset_dicts([VAL], filter_empty=False):
                for name, value in model([mapper(image)]).items():
                    sums[name] = sums.get(name, 0) + value.item() / 3
        total = losses.pop("total_loss")
        assert losses == pytest.approx(sums, rel=1e-5)
        assert {"loss_sem_seg", "loss_cls", "loss_mask", "loss_rpn_cls"} <= set(losses)
        assert total == pytest.approx(sum(sums.values()), rel=1e-5)

    def test_does_not_touch_training(self, semantic_cfg):
        """The same weights, statistics and random numbers at the end, with and without it."""
        cfg = change(semantic_cfg, {"TEST__EVAL_PERIOD": 1})
        without = train(cfg)
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()
        cfg = change(cfg.clone(), {"TEST__VALIDATION_LOSS__ENABLED": True})
        cfg.OUTPUT_DIR += "2"
        assert same_weights(without.model, train(cfg).model)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert np.random.get_state()[1].tolist() == state[1]

    def test_is_written_with_each_evaluation_and_apart_from_training(self, small_cfg, tmp_path):
        keys = {"TEST__VALIDATION_LOSS__ENABLED": True, "TEST__EVAL_PERIOD": 1}
        keys |= {"TEST__BEST_CHECKPOINT": "validation/total_loss"}
        trainer = train(change(small_cfg, keys))
        histories = trainer.storage.histories()
        assert len(histories["validation/total_loss"].values()) == 2
        assert len(histories["roi_head/num_fg_samples"].values()) == 2  # of training only
        last = metrics(tmp_path / "run")[-1]
        parts = [v for k, v in last.items() if k.startswith("validation/loss")]
        assert last["validation/total_loss"] == pytest.approx(sum(parts))
        note = json.loads((tmp_path / "run" / "model_best.json").read_text())
        totals = histories["validation/total_loss"].values()
        assert note["value"] == min(value for value, _ in totals)

    def test_images_are_those_of_a_test_with_targets(self, small_cfg):
        cfg = change(small_cfg, {"TEST__VALIDATION_LOSS__MAX_IMAGES": 2})
        batches = list(build_validation_loader(cfg))
        assert [len(batch) for batch in batches] == [1, 1]
        for [image] in batches:
            assert image["image"].shape == (3, 64, 80)
            assert image["sem_seg"].shape == (64, 80)
            assert len(image["instances"].gt_boxes) == len(image["instances"].gt_masks)

    def test_images_are_spread_evenly(self):
        assert spread([0, 1, 2, 3, 4, 5], 3) == [0, 2, 4]
        assert spread([0, 1, 2], 200) == [0, 1, 2]
        assert spread([], 5) == []


class Toy(nn.Module):
    """Its loss is the number of the image."""

    def forward(self, batch):
        get_event_storage().put_scalar("own", 1.0)
        return {"loss_a": torch.tensor(float(sum(batch))), "loss_b": torch.tensor(2.0)}


def test_means_are_those_of_all_images():
    """Three images on two processes, of which one has no loss_b: a miss counts as 0."""
    parts = [({"a": 1.0}, 1), ({"a": 8.0, "b": 3.0}, 2)]
    assert validation_loss._means(parts) == {"a": 3.0, "b": 1.0, "total_loss": 4.0}


def test_no_image_no_loss():
    assert validation_losses(Toy(), []) == {}


def test_vanishing_and_random_layers_are_quiet_while_it_is_measured():
    class DropPath(nn.Module):
        pass

    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), DropPath(), nn.ReLU())
    validation_loss._prepare(model)
    assert [module.training for module in model] == [False, False, False, True]


class TestResults:
    def test_of_a_run(self, small_cfg, tmp_path):
        train(small_cfg, config_file="configs/x.yaml")
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["config"] == "configs/x.yaml"
        assert results["weights"] == str(tmp_path / "run" / "model_final.pth")
        assert results["initial_weights"] is None
        assert results["iteration"] == 2
        tasks = results["datasets"][VAL]
        assert {"bbox", "segm", "sem_seg", "panoptic_seg"} == set(tasks)
        last = metrics(tmp_path / "run")[-1]
        assert tasks["sem_seg"]["mIoU"] == pytest.approx(last["sem_seg/mIoU"])
        assert not list((tmp_path / "run").glob("*.part"))

    def test_of_an_evaluation_name_the_weights_and_their_iteration(self, semantic_cfg, tmp_path):
        model = Trainer.build_model(semantic_cfg)
        semantic_cfg.MODEL.WEIGHTS = str(tmp_path / "given.pth")
        DetectionCheckpointer(model, str(tmp_path)).save("given", iteration=41)
        evaluate(semantic_cfg, config_file="a.yaml")
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert (results["weights"], results["iteration"]) == (str(tmp_path / "given.pth"), 42)
        DetectionCheckpointer(model, semantic_cfg.OUTPUT_DIR).save("model_0000009")
        evaluate(semantic_cfg, resume=True)
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["weights"] == str(tmp_path / "run" / "model_0000009.pth")
        assert (results["iteration"], results["config"]) == (None, None)

    def test_nan_is_null_and_data_sets_have_their_names(self, small_cfg, tmp_path):
        scores = {"segm": {"AP": math.nan, "AP50": 12.5, "AP75": math.inf}}
        write_results(small_cfg, scores, iteration=3)
        content = json.loads((tmp_path / "run" / "results.json").read_text())
        assert content["datasets"] == {VAL: {"segm": {"AP": None, "AP50": 12.5, "AP75": None}}}
        cfg = change(small_cfg, {"DATASETS__TEST": ("a", "b")})
        assert by_dataset(cfg, {"a": scores, "b": {}}) == {"a": scores, "b": {}}


def test_resumed_run_keeps_the_best_checkpoint(semantic_cfg, tmp_path):
    """The note says that 100 was reached, which no score exceeds: the weights must stay."""
    cfg = change(semantic_cfg, {"TEST__BEST_CHECKPOINT": "sem_seg/mIoU", "TEST__EVAL_PERIOD": 1})
    train(cfg)
    note = tmp_path / "run" / "model_best.json"
    note.write_text(json.dumps({"metric": "sem_seg/mIoU", "value": 100.0, "iteration": 1}))
    weights = (tmp_path / "run" / "model_best.pth").read_bytes()
    cfg.SOLVER.MAX_ITER = 3
    assert train(cfg, resume=True).start_iter == 2
    assert (tmp_path / "run" / "model_best.pth").read_bytes() == weights
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


def test_evaluation_may_be_augmented(semantic_cfg, monkeypatch):
    """Only when it is asked for, and with scores of the usual kind."""
    tested, plain = [], Trainer.test

    def watched(cls, cfg, model):
        tested.append(model)
        return plain(cfg, model)

    monkeypatch.setattr(Trainer, "test", classmethod(watched))
    for enabled in (False, True):
        semantic_cfg.TEST.AUG.ENABLED = enabled
        semantic_cfg.TEST.AUG.MIN_SIZES = (48, 64)
        results = evaluate(semantic_cfg)
        assert 0 <= results["sem_seg"]["mIoU"] <= 100
    assert [isinstance(model, TestTimeAugmentation) for model in tested] == [False, True]

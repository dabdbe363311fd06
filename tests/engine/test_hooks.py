"""The best checkpoint, with a trainer that only counts; and when hooks run."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.engine.hooks import EvalHook
from torch import nn

from freqfusion.data.randomness import separate_randomness
from freqfusion.engine.hooks import AfterEvaluation, BestCheckpoint, finished_iterations, unchanged

NAN = float("nan")


class Counting(TrainerBase):
    """A trainer whose model is the number of finished iterations, and whose scores are given."""

    def __init__(self, scores, folder, metric="task/score", start=0, period=1):
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        scores = iter(scores)
        self.best = BestCheckpoint(period, self.model, str(folder), metric)
        evaluation = EvalHook(period, lambda: {"task": {"score": next(scores), "loss": 1.0}})
        self.register_hooks([evaluation, self.best])
        self.start = start

    def run_step(self):
        nn.init.constant_(self.model.weight, self.iter + 1.0)

    def go(self, iterations):
        self.train(self.start, iterations)
        return self


def saved(folder):
    weights = torch.load(folder / "model_best.pth", weights_only=True)
    note = json.loads((folder / "model_best.json").read_text())
    assert weights["iteration"] == note["iteration"] - 1
    assert weights["model"]["weight"].item() == note["iteration"]
    return note["iteration"], note["value"]


@pytest.mark.parametrize(
    ("scores", "period", "expected"),
    [
        ([10.0, 30.0, 20.0, 30.0], 1, (2, 30.0)),
        ([10.0, 30.0], 2, (4, 30.0)),  # the last evaluation counts too
        ([NAN, 5.0, NAN, NAN], 1, (2, 5.0)),
    ],
)
def test_best_of_several_evaluations_is_kept(scores, period, expected, tmp_path):
    trainer = Counting(scores, tmp_path, period=period).go(4)
    assert saved(tmp_path) == expected
    assert trainer.best.best == expected[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_best.json", "model_best.pth"]


def test_losses_are_better_when_they_are_smaller(tmp_path):
    trainer = Counting([0.0] * 3, tmp_path, metric="validation/total_loss")
    values = iter([3.0, 1.0, 2.0])
    put = EvalHook(1, lambda: {"validation": {"total_loss": next(values)}})
    put.trainer = trainer._hooks[0].trainer
    trainer._hooks.insert(1, put)
    trainer.go(3)
    assert saved(tmp_path) == (2, 1.0)


def test_resumed_run_has_to_beat_the_best(tmp_path):
    Counting([10.0, 30.0, 20.0], tmp_path).go(3)
    Counting([25.0, 29.0], tmp_path, start=3).go(5)
    assert saved(tmp_path) == (2, 30.0)
    Counting([31.0], tmp_path, start=5).go(6)
    assert saved(tmp_path) == (6, 31.0)


def test_new_run_and_new_metric_begin_anew(tmp_path):
    Counting([30.0], tmp_path).go(1)
    Counting([20.0], tmp_path).go(1)
    assert saved(tmp_path) == (1, 20.0)
    Counting([0.0], tmp_path, metric="task/loss", start=1).go(2)
    assert saved(tmp_path) == (2, 1.0)


def test_unknown_metric_is_a_warning_with_the_known_ones(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Counting([1.0], tmp_path, metric="task/PQ").go(1)
    assert not list(tmp_path.iterdir())
    assert "TEST.BEST_CHECKPOINT task/PQ is no score" in caplog.text
    assert "there are task/loss, task/score" in caplog.text


class Recording(AfterEvaluation):
    def __init__(self, period):
        super().__init__(period)
        self.ran = []

    def run(self):
        self.ran.append(finished_iterations(self.trainer))


@pytest.mark.parametrize(
    ("period", "iterations", "expected"),
    [(0, 5, [5]), (2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 5, [5])],
)
def test_hooks_run_when_detectron2_evaluates(period, iterations, expected):
    class Trainer(TrainerBase):
        def run_step(self):
            pass

    trainer, ours, evaluated = Trainer(), Recording(period), []
    theirs = EvalHook(period, lambda: evaluated.append(finished_iterations(trainer)))
    trainer.register_hooks([theirs, ours])
    trainer.train(0, iterations)
    assert ours.ran == evaluated == expected


def test_failed_training_is_not_evaluated():
    hook = Recording(1)
    hook.trainer = SimpleNamespace(iter=3, max_iter=9)
    hook.after_train()
    assert hook.ran == []


def test_model_is_given_back_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail():
        with unchanged(model):
            model.train()
            assert not model(torch.randn(8, 2)).requires_grad
            model[2].average = 3.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    assert not hasattr(model[2], "average")
    assert torch.is_grad_enabled()


def test_random_numbers_go_on_as_if_nothing_had_been():
    import random

    import numpy as np

    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def start():
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    start()
    expected = draw()
    start()
    with separate_randomness(5):
        first = draw()
    assert draw() == expected != first
    with separate_randomness(5):
        assert draw() == first

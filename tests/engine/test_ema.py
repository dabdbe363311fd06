"""Averages of weights by hand, through an evaluation and through a checkpoint."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from torch import nn
from toy_configs import change, resnet18_cfg

from freqfusion.engine import Trainer
from freqfusion.engine.hooks import WeightAverage
from freqfusion.engine.solver import with_scaled_rate


def weight(model):
    return model.weight.item()


def test_average_by_hand(tmp_path):
    """Copied at first; then 2/11 of the old one is kept, later no more than the decay."""
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.2, str(tmp_path))
    expected = None
    for value, keep in ((1.0, 0.0), (2.0, 2 / 11), (4.0, 0.2)):
        nn.init.constant_(model.weight, value)
        average.after_step()
        expected = value if expected is None else keep * expected + (1 - keep) * value
    average.swap()
    assert weight(model) == pytest.approx(expected)
    average.swap()
    assert weight(model) == 4
    other = WeightAverage(nn.Linear(1, 1, bias=False), 0.2, str(tmp_path))
    other.load_state_dict(average.state_dict())
    other.after_step()
    assert other.state_dict()["n_averaged"] == 4
    average.trainer = SimpleNamespace(iter=3, max_iter=4)
    average.after_train()  # a training that failed
    assert not list(tmp_path.iterdir())
    average.trainer = trainer = SimpleNamespace(iter=4, max_iter=4)
    average.after_train()
    saved = torch.load(tmp_path / "model_ema.pth", weights_only=True)
    assert saved["model"]["weight"].item() == pytest.approx(expected)
    assert saved["iteration"] == trainer.max_iter - 1


def test_average_is_evaluated_and_saved(semantic_cfg, tmp_path, monkeypatch):
    keys = {"SOLVER__EMA__ENABLED": True, "TEST__EVAL_PERIOD": 1, "SOLVER__BASE_LR": 0.1}
    cfg = change(semantic_cfg, keys)
    tested = []

    def test(cls, cfg, model):
        tested.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.train()
    name = "sem_seg_head.predictor.weight"
    averaged = torch.load(tmp_path / "run" / "model_ema.pth", weights_only=True)["model"]
    final = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)
    own = trainer.model.state_dict()[name]
    assert not torch.equal(averaged[name], own)
    assert torch.equal(tested[-1][name], averaged[name])
    assert torch.equal(final["model"][name], own)
    kept = final["trainer"]["hooks"]["WeightAverage"]
    assert kept["n_averaged"] == 2
    assert torch.equal(kept[f"module.{name}"], averaged[name])


def test_rate_follows_the_batch():
    keys = {"SOLVER__REFERENCE_BATCH": 16, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__BASE_LR": 0.02}
    cfg = change(resnet18_cfg(), keys)
    cfg.freeze()
    scaled = with_scaled_rate(cfg)
    assert pytest.approx(0.005) == scaled.SOLVER.BASE_LR
    assert scaled.is_frozen()
    assert pytest.approx(0.005) == with_scaled_rate(scaled).SOLVER.BASE_LR
    assert cfg.SOLVER.BASE_LR == 0.02
    plain = change(resnet18_cfg(), {"SOLVER__IMS_PER_BATCH": 4})
    assert with_scaled_rate(plain) is plain

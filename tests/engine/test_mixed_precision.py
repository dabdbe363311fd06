"""Training under autocast: which precision runs, and what a checkpoint keeps."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from freqfusion.engine import Trainer
from freqfusion.engine.mixed_precision import MixedPrecisionTrainer


class Model(nn.Module):
    """Says in which precision its weight is used."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen = []

    def forward(self, batch):
        result = self.layer(batch)
        self.seen.append(result.dtype)
        return {"loss": result.float().square().mean()}


def trainer(model, precision="bfloat16"):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [torch.ones(2, 3)] * 3
    return MixedPrecisionTrainer(model, batches, optimizer, device="cpu", precision=precision)


def step(one):
    with EventStorage() as storage:
        one.run_step()
        return storage.latest()


def test_a_step_is_in_bfloat16_and_changes_float32_weights():
    model = Model().train()
    before = model.layer.weight.detach().clone()
    written = step(trainer(model))
    assert model.seen == [torch.bfloat16]
    assert model.layer.weight.dtype == torch.float32
    assert not torch.equal(before, model.layer.weight)
    assert written["total_loss"][0] > 0


def test_float16_scales_the_losses_and_keeps_the_scale():
    one = trainer(Model().train(), "float16")
    assert one.grad_scaler.is_enabled()
    assert not trainer(Model(), "bfloat16").grad_scaler.is_enabled()
    state = one.state_dict()
    state["grad_scaler"]["scale"] = 128.0
    other = trainer(Model().train(), "float16")
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 128.0
    other.load_state_dict({**state, "grad_scaler": {}})  # from a run in full precision
    assert other.grad_scaler.get_scale() == 128.0


def test_messages():
    with pytest.raises(ValueError, match="one of float16, bfloat16; got 'half'"):
        trainer(Model(), "half")
    one = trainer(Model())
    one.model.eval()
    with pytest.raises(RuntimeError, match="put into eval mode"):
        step(one)


def test_the_trainer_takes_it(semantic_cfg):
    """bfloat16 on a CPU: finite losses, weights in float32."""
    semantic_cfg.SOLVER.AMP.ENABLED = True
    semantic_cfg.SOLVER.AMP.DTYPE = "bfloat16"
    one = Trainer(semantic_cfg)
    assert isinstance(one._trainer, MixedPrecisionTrainer)
    assert one.cfg.SOLVER.AMP.ENABLED
    one.train()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in one.model.parameters())

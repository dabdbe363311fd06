"""Training steps: parts of a batch, half precision, and numbers that are not finite."""

import logging
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from freqfusion.engine import Trainer
from freqfusion.engine.training_step import NonFiniteGuard, TrainingSteps, split_batch


class Model(nn.Module):
    """Two losses of one value of an image; the running mean is a buffer that each step changes.

    The square root has an infinite derivative at 0, where its value is finite.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.seen = []
        nn.init.ones_(self.scale.weight)

    def forward(self, batch):
        values = torch.stack([image["image"] for image in batch])
        found = self.scale(values)
        self.seen.append(found.dtype)
        found = found.float()
        self.norm(torch.cat([found, found + 1]))
        return {"loss_square": found.square().mean(), "loss_root": found.abs().sqrt().mean()}


class Strict(Model):
    """Refuses what is not finite, as Detectron2's proposals do."""

    def forward(self, batch):
        losses = super().forward(batch)
        if not losses["loss_square"].isfinite():
            raise FloatingPointError("training has diverged")
        return losses


def image(value, name="x.png"):
    return {"file_name": name, "image": torch.tensor([float(value)])}


GOOD = [image(1, "a"), image(2, "b")]
NAN = [image(1, "a"), image(math.nan, "bad")]
ROOT = [image(0)]


def steps(batches, *, guard=True, model=Model, policy="skip", patience=2, **options):
    torch.manual_seed(0)
    model = model().train()
    one = NonFiniteGuard(model, policy=policy, patience=patience) if guard else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return TrainingSteps(model, batches, optimizer, guard=one, **options)


def go(one, count=1):
    with EventStorage() as storage:
        for one.iter in range(count):
            storage.iter = one.iter
            one.run_step()
        return storage


@pytest.mark.parametrize(
    ("batch", "model", "sentence"),
    [
        (NAN, Model, "the loss loss_square is nan, loss_root is nan; images: a, bad"),
        (NAN, Strict, "the model says: training has diverged; images: a, bad"),
        # d sqrt(|x|) / dx at x = 0 is infinite, times sign(0): nan.
        (ROOT, Model, "the first such gradient is that of scale.weight; images: x.png"),
    ],
)
def test_a_skipped_step_leaves_weights_and_statistics(batch, model, sentence, caplog):
    one = steps([batch, GOOD], model=model)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        storage = go(one)
    assert all(torch.equal(before[n], v) for n, v in one.model.state_dict().items())
    assert storage.latest()["skipped_steps"][0] == 1
    assert "total_loss" not in storage.latest()
    assert f"iteration 0: numbers are not finite: {sentence}; the step is skipped" in caplog.text
    storage = go(one)
    assert not torch.equal(before["scale.weight"], one.model.scale.weight)
    assert one.guard.state_dict() == {"skipped": 1, "in_a_row": 0}
    assert storage.latest()["gradient_norm"][0] == pytest.approx(one.model.scale.weight.grad.item())


@pytest.mark.parametrize(
    ("model", "guard", "sentence"),
    [
        (Model, True, r"loss_root is nan; images: a, bad; SOLVER\.NON_FINITE skip would go on"),
        (Strict, True, "iteration 0: numbers are not finite: the model says"),
        (Strict, False, "^training has diverged$"),
    ],
)
def test_stop_names_what_is_not_finite(model, guard, sentence):
    with pytest.raises(FloatingPointError, match=sentence):
        go(steps([NAN], model=model, policy="stop", guard=guard))


def test_so_many_in_a_row_stop_the_run():
    one = steps([NAN, NAN, GOOD, NAN, NAN, NAN, GOOD])
    with pytest.raises(FloatingPointError, match=r"iteration 5: .* 2 steps in a row were skipped"):
        go(one, 7)
    assert one.guard.num_skipped == 5


def test_count_goes_on_after_a_checkpoint():
    one, other = steps([NAN]), steps([NAN])
    go(one)
    other.load_state_dict(one.state_dict())
    assert other.guard.state_dict() == {"skipped": 1, "in_a_row": 1}
    plain = steps([NAN], guard=False)
    other.load_state_dict(plain.state_dict())  # a checkpoint of before
    assert "guard" not in plain.state_dict()


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_give_its_gradient(parts):
    """Losses that are means over images; the batch normalization reaches no loss here."""
    batch = [image(value) for value in (1, 2, 3, 5, 8)]
    whole, split = steps([batch]), steps([batch], parts=parts)
    one, other = go(whole).latest(), go(split).latest()
    torch.testing.assert_close(split.model.scale.weight, whole.model.scale.weight)
    for name in ("total_loss", "loss_root", "gradient_norm"):
        assert other[name][0] == pytest.approx(one[name][0])


def test_parts_are_even():
    assert split_batch([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert split_batch([1, 2], 4) == [[1], [2]]
    batch = torch.ones(3)
    assert split_batch(batch, 1)[0] is batch


def test_a_step_is_in_bfloat16_and_changes_float32_weights():
    one = steps([GOOD], precision="bfloat16")
    written = go(one).latest()
    assert one.model.seen == [torch.bfloat16]
    assert one.model.scale.weight.dtype == torch.float32
    assert one.model.scale.weight.item() != 1
    assert written["total_loss"][0] > 0
    assert not one.grad_scaler.is_enabled()


def test_float16_keeps_the_scale_of_the_losses():
    one, other = (steps([GOOD], precision="float16") for _ in range(2))
    assert one.grad_scaler.is_enabled()
    state = one.state_dict()
    state["grad_scaler"]["scale"] = 128.0
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 128.0
    other.load_state_dict(steps([GOOD]).state_dict())  # from a run in full precision
    assert other.grad_scaler.get_scale() == 128.0


def test_float16_measures_gradients_at_their_own_scale():
    """As clipping needs them."""
    plain, scaled = steps([GOOD]), steps([GOOD], precision="float16")
    scaled.autocast = lambda: torch.autocast("cpu", enabled=False)
    norms = [go(one).latest()["gradient_norm"][0] for one in (plain, scaled)]
    assert norms[1] == pytest.approx(norms[0])


def test_float16_lowers_its_scale_first():
    """The scale of 2**16 makes a gradient of 2**113 infinite; the loss itself is finite."""
    one = steps([[image(2.0**56)]] * 2, precision="float16", policy="stop")
    # In float32, so that only the scale overflows.
    one.autocast = lambda: torch.autocast("cpu", enabled=False)
    go(one)
    assert one.grad_scaler.get_scale() == 2.0**15
    assert one.model.scale.weight.item() == 1
    with pytest.raises(FloatingPointError, match="loss_square is nan"):
        go(steps([NAN], precision="float16", policy="stop"))


def test_wrong_options():
    with pytest.raises(ValueError, match="one of float16, bfloat16; got 'half'"):
        steps([GOOD], precision="half")
    with pytest.raises(ValueError, match=r"must be one of .* got 'ignore'"):
        steps([GOOD], policy="ignore")
    one = steps([GOOD])
    one.model.eval()
    with pytest.raises(RuntimeError, match="put into eval mode"):
        go(one)


def test_the_trainer_runs_in_bfloat16(semantic_cfg):
    """On a CPU: finite losses, weights in float32, and what is measured of each step."""
    semantic_cfg.SOLVER.AMP.ENABLED = True
    semantic_cfg.SOLVER.AMP.DTYPE = "bfloat16"
    semantic_cfg.DATASETS.TEST = ()
    one = Trainer(semantic_cfg)
    assert one._trainer.dtype == torch.bfloat16
    one.train()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in one.model.parameters())
    assert {"gradient_norm", "data_time"} <= set(one.storage.histories())

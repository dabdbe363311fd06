"""Steps whose numbers are not finite: what is said, what is kept, and what goes on."""

import logging
import math

import pytest
import torch
from guarded_steps import GOOD, NAN, ROOT, Model, go, image, steps
from torch import nn

from freqfusion.data.randomness import capture
from freqfusion.engine.accumulation import in_parts
from freqfusion.engine.health import Finding, examine
from freqfusion.engine.mixed_precision import MixedPrecisionTrainer


def test_a_skipped_step_leaves_weights_and_statistics(caplog):
    one = steps([NAN, GOOD])
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        storage = go(one, 1)
    assert all(torch.equal(before[n], v) for n, v in one.model.state_dict().items())
    assert storage.latest()["skipped_steps"][0] == 1
    assert "total_loss" not in storage.latest()
    sentence = "iteration 0: numbers are not finite: the loss loss_square is nan, loss_root is nan"
    assert sentence in caplog.text
    assert "first such gradient is that of scale.weight; images: a, bad; the step is" in caplog.text
    storage = go(one, 1)
    assert not torch.equal(before["scale.weight"], one.model.scale.weight)
    assert one.guard.state_dict() == {"skipped": 1, "in_a_row": 0}
    assert storage.latest()["gradient_norm"][0] == pytest.approx(one.model.scale.weight.grad.item())


def test_finite_losses_with_an_infinite_gradient(caplog):
    """d sqrt(|x|) / dx at x = 0 is infinite, times sign(0): nan."""
    with caplog.at_level(logging.WARNING):
        go(steps([ROOT]), 1)
    assert (
        "not finite: the first such gradient is that of scale.weight; images: x.png" in caplog.text
    )
    assert "loss loss" not in caplog.text


class Strict(Model):
    """Refuses what is not finite, as Detectron2's proposals do."""

    def forward(self, batch):
        losses = super().forward(batch)
        if not losses["loss_square"].isfinite():
            raise FloatingPointError("training has diverged")
        return losses


def test_a_model_that_raises_is_skipped_too(caplog):
    one = steps([NAN, GOOD], model=Strict)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        storage = go(one, 1)
    assert all(torch.equal(before[n], v) for n, v in one.model.state_dict().items())
    assert storage.latest()["skipped_steps"][0] == 1
    assert "the model says: training has diverged; images: a, bad; the step" in caplog.text
    go(one, 1)
    assert not torch.equal(before["scale.weight"], one.model.scale.weight)
    with pytest.raises(FloatingPointError, match="iteration 0: numbers are not finite: the model"):
        go(steps([NAN], model=Strict, policy="stop"), 1)
    with pytest.raises(FloatingPointError, match=r"^training has diverged$"):
        go(steps([NAN], model=Strict, guard=False), 1)


def test_so_many_in_a_row_stop_the_run():
    one = steps([NAN, NAN, GOOD, NAN, NAN, NAN, GOOD])
    with pytest.raises(FloatingPointError, match=r"iteration 5: .* 2 steps in a row were skipped"):
        go(one, 7)
    assert one.guard.skipped == 5


def test_stop_names_the_way_on():
    with pytest.raises(FloatingPointError, match=r"SOLVER\.NON_FINITE skip would go on"):
        go(steps([NAN], policy="stop"), 1)
    with pytest.raises(ValueError, match=r"must be one of .* got 'ignore'"):
        steps([NAN], policy="ignore")


def test_count_goes_on_after_a_checkpoint():
    one, other = steps([NAN]), steps([NAN])
    go(one, 1)
    other.load_state_dict(one.state_dict())
    assert other.guard.state_dict() == {"skipped": 1, "in_a_row": 1}
    plain = steps([NAN], guard=False)
    other.load_state_dict(plain.state_dict())  # a checkpoint of before
    assert "guard" not in plain.state_dict()


def test_float16_lowers_its_scale_first():
    """The scale of 2**16 makes a gradient of 2**113 infinite; the loss itself is finite."""
    one = steps(
        [[image(2.0**56)]] * 40,
        kind=MixedPrecisionTrainer,
        device="cpu",
        precision="float16",
        policy="stop",
    )
    # In float32, so that only the scale overflows.
    one.autocast = lambda: torch.autocast("cpu", enabled=False)
    go(one, 1)
    assert one.grad_scaler.get_scale() == 2.0**15
    assert one.model.scale.weight.item() == 1
    one = steps([NAN], kind=MixedPrecisionTrainer, device="cpu", precision="float16", policy="stop")
    with pytest.raises(FloatingPointError, match="loss_square is nan"):
        go(one, 1)


def test_part_of_the_batch_and_module_are_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model.forward = lambda batch: {"loss": nn.Sequential.forward(model, batch[0]["image"]).sum()}
    nn.init.constant_(model[0].weight, math.inf)
    found = examine(model, [[image(1, "a")], [image(2, "b")]], capture())
    assert (found.module, found.images, found.terms) == ("0", ["a"], {"loss": math.inf})
    assert model[0].weight.grad is None
    assert "the first output that is not finite is that of 0; " in found.sentence()
    nn.init.ones_(model[0].weight)
    found = examine(model, [[image(1, "a")], [image(math.nan, "b")]], capture())
    assert (found.module, found.images) == ("", ["b"])
    assert "finite when it is run again" in examine(model, [[image(1)]], capture()).sentence()


def test_long_lists_of_images_are_cut():
    names = [str(number) for number in range(10)]
    assert Finding({"a": math.nan}, names).sentence().endswith("6, 7 and 2 more")
    assert Finding({"a": math.nan}).sentence().endswith("images: unknown")


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_give_its_gradient(parts):
    """Losses that are means over images; the batch normalisation reaches no loss here."""
    batch = [image(value) for value in (1, 2, 3, 5, 8)]
    whole, split = steps([batch]), steps([batch], parts=parts)
    one, other = go(whole, 1).latest(), go(split, 1).latest()
    torch.testing.assert_close(split.model.scale.weight, whole.model.scale.weight)
    for name in ("total_loss", "loss_root", "gradient_norm"):
        assert other[name][0] == pytest.approx(one[name][0])


def test_parts_are_even():
    assert in_parts([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert in_parts([1, 2], 4) == [[1], [2]]
    batch = torch.ones(3)
    assert in_parts(batch, 1)[0] is batch

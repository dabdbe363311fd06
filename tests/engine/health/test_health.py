"""Steps whose numbers are not finite: what is said, what is kept, and what goes on."""

import logging
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from toy_configs import change

from freqfusion.engine import Trainer
from freqfusion.engine.accumulation import in_parts
from freqfusion.engine.health import Finding, Guard, Rates, Watchdog, examine, read_dump
from freqfusion.engine.health.norms import gradient_norm, gradient_norms_by_part
from freqfusion.engine.health.plain_data import from_plain, to_plain
from freqfusion.engine.health.randomness import random_state, randomness_of
from freqfusion.engine.mixed_precision import MixedPrecisionTrainer
from freqfusion.engine.training_step import TrainingSteps
from freqfusion.tools import replay


class Model(nn.Module):
    """Two losses of one value of an image; the running mean is a buffer that each step changes.

    The square root has an infinite derivative at 0, where its value is finite.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        self.norm = nn.BatchNorm1d(1, affine=False)
        nn.init.ones_(self.scale.weight)

    def forward(self, batch):
        values = torch.stack([image["image"] for image in batch])
        found = self.scale(values)
        self.norm(torch.cat([found, found + 1]))
        return {"loss_square": found.square().mean(), "loss_root": found.abs().sqrt().mean()}


def image(value, name="x.png"):
    return {"file_name": name, "image": torch.tensor([float(value)])}


def steps(batches, *, parts=1, guard=True, kind=TrainingSteps, **options):
    torch.manual_seed(0)
    model = Model().train()
    keys = {"policy": "skip", "patience": 2}
    keys |= {
        name: options.pop(name) for name in ("policy", "patience", "folder") if name in options
    }
    one = Guard(model, **keys) if guard else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return kind(model, batches, optimizer, parts=parts, guard=one, **options)


def go(one, count):
    with EventStorage() as storage:
        for one.iter in range(count):
            storage.iter = one.iter
            one.run_step()
        return storage


GOOD, NAN, ROOT = (
    [image(1, "a"), image(2, "b")],
    [image(1, "a"), image(math.nan, "bad")],
    [image(0)],
)


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
    found = examine(model, [[image(1, "a")], [image(2, "b")]], random_state())
    assert (found.module, found.images, found.terms) == ("0", ["a"], {"loss": math.inf})
    assert model[0].weight.grad is None
    assert "the first output that is not finite is that of 0; " in found.sentence()
    nn.init.ones_(model[0].weight)
    found = examine(model, [[image(1, "a")], [image(math.nan, "b")]], random_state())
    assert (found.module, found.images) == ("", ["b"])
    assert "finite when it is run again" in examine(model, [[image(1)]], random_state()).sentence()


def test_long_lists_of_images_are_cut():
    names = [str(number) for number in range(10)]
    assert Finding({"a": math.nan}, names).sentence().endswith("6, 7 and 2 more")
    assert Finding({"a": math.nan}).sentence().endswith("images: unknown")


def test_a_dump_is_read_without_running_code(tmp_path, caplog):
    batch = [*NAN, {"image": torch.ones(1), "size": (3, 4), "array": np.arange(3)}]
    one = steps([batch] * 9, folder=str(tmp_path), patience=9)
    with caplog.at_level(logging.WARNING):
        go(one, 9)
    files = sorted(path.name for path in (tmp_path / "non_finite").iterdir())
    assert files == [f"iter_{number}.pth" for number in range(5)]  # and no more
    assert "freqfusion.tools.replay" in caplog.text
    dump = read_dump(str(tmp_path / "non_finite" / "iter_3.pth"))
    assert (dump.iteration, dump.rank, dump.precision) == (3, 0, "float32")
    assert dump.parts[0][1]["file_name"] == "bad"
    assert dump.parts[0][2]["size"] == (3, 4)
    assert dump.parts[0][2]["array"].tolist() == [0, 1, 2]
    assert set(dump.weights) == set(one.model.state_dict())
    assert "loss_square is nan" in dump.sentence


def test_training_goes_on_where_no_dump_can_be_written(tmp_path, caplog):
    (tmp_path / "non_finite").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        go(steps([NAN], folder=str(tmp_path)), 1)
    assert "the step of iteration 0 cannot be written" in caplog.text
    caplog.clear()
    odd = [*NAN, {"image": torch.ones(1), "odd": SimpleNamespace()}]
    with caplog.at_level(logging.WARNING):
        go(steps([odd], folder=str(tmp_path / "other")), 1)
    assert "a batch with a SimpleNamespace cannot be written as plain data" in caplog.text


def test_targets_come_back():
    polygons = [[np.array([0.0, 0, 4, 0, 4, 4])]]
    given = Instances(
        (5, 6),
        gt_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4]])),
        gt_classes=torch.tensor([3]),
        gt_masks=PolygonMasks(polygons),
        gt_bits=BitMasks(torch.ones(1, 5, 6, dtype=torch.bool)),
    )
    back = from_plain(to_plain([{"instances": given, "n": np.float32(2)}]))[0]
    assert back["n"] == 2
    back = back["instances"]
    assert back.image_size == (5, 6)
    assert torch.equal(back.gt_boxes.tensor, given.gt_boxes.tensor)
    assert torch.equal(back.gt_bits.tensor, given.gt_bits.tensor)
    assert back.gt_masks.polygons[0][0].tolist() == polygons[0][0].tolist()
    with pytest.raises(ValueError, match="'Rings' is no kind of structure"):
        from_plain({"structure": "Rings"})


def test_random_numbers_of_a_moment_come_again():
    import random

    def draw():
        return torch.rand(1).item(), np.random.rand(), np.random.randn(), random.gauss(0, 1)

    np.random.randn(), random.gauss(0, 1)  # an odd number: a second one is kept for later
    state = random_state()
    first = draw()
    after = random_state()
    with randomness_of(state):
        assert draw() == first
    second = draw()
    with randomness_of(after):
        assert draw() == second


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


def test_norms():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1), "c": nn.Linear(1, 1)})
    for name, value in (("a", 2.0), ("b", 1.0)):
        for parameter in model[name].parameters():
            parameter.grad = torch.full_like(parameter, value)
    assert gradient_norms_by_part(model) == pytest.approx({"a": 8**0.5, "b": 2**0.5})
    assert float(gradient_norm(model)) == pytest.approx(10**0.5)


class Slow(TrainerBase):
    def run_step(self):
        self.storage.put_scalar("data_time", 0.02)
        time.sleep(0.05)
        if self.iter == 2:
            self.hang_here()

    def hang_here(self):
        time.sleep(0.5)


def test_watchdog_names_rank_step_and_place():
    said, trainer = [], Slow()
    trainer.register_hooks([Watchdog(0.2 / 60, said.append)])
    trainer.train(0, 4)
    assert 1 <= len(said) <= 3
    assert said[0].startswith("rank 0: no step has finished for 0.0 minutes, in iteration 2;")
    assert "hang_here" in said[0]
    time.sleep(0.1)
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_rates():
    trainer = Slow()
    trainer.register_hooks([Rates(6)])
    trainer.train(0, 1)
    written = trainer.storage.latest()
    assert 30 < written["images_per_second"][0] <= 6 / 0.05
    assert 0.1 < written["data_share"][0] <= 0.4


class Spoil(HookBase):
    """Makes a weight infinite before the second step."""

    def before_step(self):
        if self.trainer.iter == 1:
            with torch.no_grad():
                self.trainer.model.sem_seg_head.predictor.weight[0, 0] = math.inf


def test_a_run_stops_and_is_replayed(semantic_cfg, tmp_path, capsys):
    cfg = change(semantic_cfg, {"SOLVER__ACCUMULATE_STEPS": 2, "DATASETS__TEST": ()})
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.register_hooks([Spoil()])
    with pytest.raises(FloatingPointError, match=r"is that of sem_seg_head\.predictor;") as caught:
        trainer.train()
    path = str(tmp_path / "run" / "non_finite" / "iter_1.pth")
    assert path in str(caught.value)
    assert replay.main([path]) == 0
    printed = capsys.readouterr().out
    then, now = (line.partition(": ")[2] for line in printed.splitlines()[-2:])
    assert then == now
    assert "loss_sem_seg is nan" in now
    history = trainer.storage.histories()
    assert {"gradient_norm", "images_per_second", "data_share"} <= set(history)


def test_replay_of_what_is_no_dump(tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(b"no zip")
    torch.save({"model": {}}, tmp_path / "b.pth")
    for name, sentence in (
        ("a.pth", "is damaged, or no dump of a step"),
        ("b.pth", "is no dump of a step, as SOLVER.NON_FINITE"),
        ("c.pth", "there is no file"),
    ):
        assert replay.main([str(tmp_path / name)]) == 2
        assert sentence in capsys.readouterr().err

"""Steps in files: what is in them, how they are read, and that they are run again."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.env import seed_all_rng
from guarded_steps import NAN, go, steps
from toy_configs import change

from freqfusion.data.randomness import capture, randomness_of
from freqfusion.engine import Trainer
from freqfusion.engine.health import read_dump
from freqfusion.engine.health.plain_data import from_plain, to_plain
from freqfusion.tools import replay


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
    state = capture()
    first = draw()
    after = capture()
    with randomness_of(state):
        assert draw() == first
    second = draw()
    with randomness_of(after):
        assert draw() == second


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
        ("a.pth", "a.pth is no checkpoint of a kind that is known"),
        ("b.pth", "is no dump of a step, as SOLVER.NON_FINITE"),
        ("c.pth", "c.pth"),
    ):
        assert replay.main([str(tmp_path / name)]) == 2
        assert sentence in capsys.readouterr().err

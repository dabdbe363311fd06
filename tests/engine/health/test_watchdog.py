"""What is measured of steps, and who notices when there are none."""

import threading
import time

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from freqfusion.engine.health import Rates, Watchdog
from freqfusion.engine.health.norms import gradient_norm, gradient_norms_by_part


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


class Hanging(TrainerBase):
    """Hangs in its third step until somebody has said so."""

    def __init__(self):
        super().__init__()
        self.said = []

    def run_step(self):
        if self.iter == 2:
            self.hang_here(until=time.monotonic() + 60)

    def hang_here(self, until):
        while time.monotonic() < until and not any("hang_here" in one for one in self.said):
            time.sleep(0.01)


def test_watchdog_names_rank_step_and_place():
    trainer = Hanging()
    trainer.register_hooks([Watchdog(0.2 / 60, trainer.said.append)])
    trainer.train(0, 4)
    [said] = [one for one in trainer.said if "hang_here" in one]
    assert said.startswith("rank 0: no step has finished for 0.0 minutes, in iteration 2; it is")
    for thread in threading.enumerate():
        if thread.name == "watchdog":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_watchdog_says_it_again_after_as_many_minutes_more():
    trainer, said = TrainerBase(), []
    trainer.iter, trainer.max_iter = 7, 8
    hook = Watchdog(0.05 / 60, said.append)
    hook.trainer = trainer
    hook.before_train()
    until = time.monotonic() + 60
    while len(said) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    hook.after_train()
    assert len(said) >= 3
    assert all("in iteration 7" in one for one in said)


def test_rates():
    trainer = Slow()
    trainer.register_hooks([Rates(6)])
    trainer.train(0, 1)
    written = trainer.storage.latest()
    rate, share = written["images_per_second"][0], written["data_share"][0]
    assert 0 < rate <= 6 / 0.05
    assert share == pytest.approx(0.02 / (6 / rate))

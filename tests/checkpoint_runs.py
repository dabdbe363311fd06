"""Runs that are interrupted, and what they leave."""

import json
import random

import numpy as np
import torch
from detectron2.utils.env import seed_all_rng
from torch import nn

from freqfusion.engine import Trainer


class Killed(BaseException):
    """What a process that is killed does not see."""


class Killing(Trainer):
    """Ends without a word before an iteration."""

    before = -1

    def before_step(self):
        if self.iter == self.before:
            raise Killed
        super().before_step()


def train(cfg, *, killed_before=-1, resume=False, seed=None):
    """A run as ``train_net.py`` does it; returns its trainer, or None for one that was killed."""
    seed_all_rng(cfg.SEED if seed is None else seed)
    trainer = Killing(cfg)
    trainer.before = killed_before
    trainer.resume_or_load(resume=resume)
    try:
        trainer.train()
    except Killed:
        return None
    return trainer


def disturb():
    """Random numbers that a new process would have."""
    random.seed(77)
    np.random.seed(77)
    torch.manual_seed(77)


def assert_same_state(one, other):
    """Weights, buffers, optimizer and schedule, to the last bit."""
    left, right = one.plain_model.state_dict(), other.plain_model.state_dict()
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert different == []
    assert_equal(one.state_dict(), other.state_dict())


def assert_equal(left, right, at=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys(), at
        for key in left:
            assert_equal(left[key], right[key], f"{at}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), at
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{at}[{number}]")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), at
    else:
        assert left == right, at


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


class Tiny(nn.Module):
    """A model with random numbers, running statistics, and an average outside of its state."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.loss_normalizer = 1.0

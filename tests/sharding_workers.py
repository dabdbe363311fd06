"""What the processes of a test of shared weights do; a module of its own, since each imports it."""

import json
import math
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.distributed.tensor import DTensor
from worker_runs import copied, register

from freqfusion.engine import Trainer
from freqfusion.engine.sharding import local


def train_save_and_resume(given, may_speak):
    """Two steps and a checkpoint; a second run goes on from it, and tells what it has read.

    A third run meets weights that are not finite.
    """
    cfg, path = given
    register()
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg)
    parameters = list(trainer.model.parameters())
    kept = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
    trainer.train()
    momentum = momenta(trainer)
    record = {"weights": copied(trainer.model.state_dict()), "momentum": momentum}
    seed_all_rng(9)
    other = Trainer(cfg)
    other.resume_or_load(resume=True)
    record["again"] = copied(other.model.state_dict())
    record["momentum again"] = momenta(other)
    record["iteration"] = other.start_iter
    third = Trainer(cfg)
    third.register_hooks([Spoil()])
    try:
        third.train()
    except FloatingPointError as error:
        record["said"] = str(error)
    if comm.is_main_process():
        torch.save(record, path)
    note = {"kept": kept, "all": sum(p.numel() for p in parameters)}
    Path(f"{path}.{comm.get_rank()}").write_text(json.dumps(note))


class Spoil(HookBase):
    """Makes weights infinite, each process its part of them."""

    def before_step(self):
        with torch.no_grad():
            local(self.trainer.model.sem_seg_head.predictor.weight).fill_(math.inf)


def momenta(trainer):
    """States of the optimizer by number of the parameter."""
    state = trainer._trainer.optimizer.state_dict()["state"]
    return {number: one["momentum_buffer"] for number, one in state.items()}

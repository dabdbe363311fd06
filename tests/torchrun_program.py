"""What torchrun starts in a test: a run that is trained, evaluated, and gone on with.

A program of its own instead of ``train_net.py``, so that the imports of several processes, which
take longer than all of that, come once.
"""

import sys

import torch
from detectron2.utils import comm
from worker_runs import record_run, register

from freqfusion.engine import Trainer
from freqfusion.engine.command_line import evaluate
from freqfusion.engine.launch import work_in_torchrun


def train_evaluate_and_go_on(given):
    """Write what happened to a file; ``given`` is the configuration and that file."""
    cfg, path = given
    register()
    record_run(cfg, path)
    results = evaluate(cfg, resume=True)
    cfg.SOLVER.MAX_ITER += 1
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    start = trainer.start_iter
    trainer.train()
    if comm.is_main_process():
        record = torch.load(path, weights_only=False)
        record["evaluated"] = {task: dict(scores) for task, scores in results.items()}
        record["resumed"] = {"start": start, "loss": trainer.storage.latest()["total_loss"][0]}
        record["world_size"] = comm.get_world_size()
        torch.save(record, path)


if __name__ == "__main__":
    given = torch.load(sys.argv[1], weights_only=False)
    work_in_torchrun(train_evaluate_and_go_on, given, "cpu")

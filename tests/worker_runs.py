"""What the processes of a test do; a module of its own, since each of them imports it."""

import atexit
import json
import math
import os
import sys
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.data.registration import register_datasets
from freqfusion.engine import Trainer
from freqfusion.engine.command_line import explain_errors
from freqfusion.engine.health import NonFiniteGuard
from freqfusion.engine.training_step import TrainingSteps, unwrapped

LABELLED = "semantic_images_without_ignored_pixels"


def register():
    """The data sets of the environment, and a part of one of them."""
    register_datasets()
    if LABELLED not in DatasetCatalog:
        whole = "synthetic_semantic_train"
        DatasetCatalog.register(LABELLED, lambda: labelled_throughout(DatasetCatalog.get(whole)))
        entries = MetadataCatalog.get(whole).as_dict()
        MetadataCatalog.get(LABELLED).set(**{k: v for k, v in entries.items() if k != "name"})


def labelled_throughout(dicts):
    kept = [one for one in dicts if (read_image(one["sem_seg_file_name"]) != 255).all()]
    assert len(kept) > 1
    return kept


def record_runs(runs):
    """Train each configuration and write what happened to the file beside it."""
    register()
    for cfg, path in runs:
        record_run(cfg, path)
    if comm.get_world_size() > 1:
        leave_what_aborts(Path(runs[0][1]).parent)


def skip_then_record_runs(runs):
    """Train where one process has a NaN, then what ``record_runs`` does."""
    train_where_one_is_wrong(Path(runs[0][1]).parent)
    record_runs(runs)


def record_run(cfg, path):
    """The first gradients, weights, losses and scores, and the images that were evaluated.

    The scores are those of the weights before training, which are the same in all runs; further
    steps make more and more of the differences by rounding.
    """
    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg)
    model = unwrapped(trainer.model)
    record = {"before": copied(model.state_dict())}
    step = trainer._trainer.run_step

    def watched():
        step()
        if "gradients" not in record:
            found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            record.update(gradients=copied(found), after_a_step=copied(model.state_dict()))
        if trainer.iter == cfg.SOLVER.MAX_ITER - 1:
            model.load_state_dict(record["before"])

    trainer._trainer.run_step = watched
    trainer.train()
    images = comm.gather(evaluated(cfg))
    if comm.is_main_process():
        losses = [value for value, _ in trainer.storage.history("total_loss").values()]
        record |= {"losses": losses, "images": images}
        record["results"] = {k: dict(v) for k, v in trainer._last_eval_results.items()}
        torch.save(record, path)


def evaluated(cfg):
    """The images that this process evaluates."""
    loaders = [Trainer.build_test_loader(cfg, name) for name in cfg.DATASETS.TEST]
    return [image["file_name"] for loader in loaders for batch in loader for image in batch]


def copied(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class Aborts:
    """What ends the process with a signal where Python is finalized, as gloo's threads may."""

    def __del__(self, abort=os.abort):
        abort()


def leave_what_aborts(folder):
    """Leave what aborts a finalization, and write a file when Python's exit handlers run."""
    sys.left_behind = Aborts()
    atexit.register(Path(folder, f"rank{comm.get_rank()}").touch)


def fail(how):
    """End as it is told; where one process fails, the other waits for it in vain."""
    if how == "all of them" or comm.get_rank() == 1:
        if how == "a defect":
            raise TypeError("a defect")
        with explain_errors(debug=False):
            raise ValueError(f"{how} cannot work so")
    comm.synchronize()


class Mean(nn.Module):
    """Its loss is the mean of weight times image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, batch):
        return {"loss": self.layer(torch.stack([one["image"] for one in batch])).mean()}


def batch(rank, *values):
    return [
        {"file_name": f"rank{rank}_{number}.png", "image": torch.tensor([value])}
        for number, value in enumerate(values)
    ]


def train_where_one_is_wrong(folder):
    """Rank 1 has a NaN in its second of three steps; each batch is trained on in two parts."""
    rank = comm.get_rank()
    wrong = math.nan if rank == 1 else 7.0
    batches = [batch(rank, 1.0 + rank, 2.0), batch(rank, 5.0, wrong), batch(rank, 3.0, 4.0)]
    model = DistributedDataParallel(Mean().train())
    guard = NonFiniteGuard(model.module, policy="skip", patience=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    one = TrainingSteps(model, batches, optimizer, parts=2, guard=guard)
    weights = []
    with EventStorage() as storage:
        for one.iter in range(3):
            storage.iter = one.iter
            one.run_step()
            weights.append(model.module.layer.weight.item())
    record = {"weights": weights, **guard.state_dict()}
    Path(folder, f"{rank}.json").write_text(json.dumps(record))

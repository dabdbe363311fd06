"""What the processes of a test of steps do; a module of its own, since each of them imports it."""

import json
import math
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.engine.health import NonFiniteGuard
from freqfusion.engine.training_step import TrainingSteps


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

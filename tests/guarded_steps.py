"""Steps of a small model with a guard, for tests of what happens when numbers go wrong."""

import math

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from freqfusion.engine.health import Guard
from freqfusion.engine.training_step import TrainingSteps


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


def steps(batches, *, parts=1, guard=True, kind=TrainingSteps, model=Model, **options):
    torch.manual_seed(0)
    model = model().train()
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

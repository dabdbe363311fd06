"""Train one network and measure it on scenes it has not seen."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from freqfusion.data.synthetic import NUM_CLASSES, VAL_START, VOID_LABEL, scene_batch
from freqfusion.metrics import BoundaryIoU, ConfusionMatrix


@dataclass(frozen=True)
class Plan:
    """What both networks are trained and measured with."""

    seed: int
    steps: int
    batch: int
    train_scenes: int
    test_scenes: int
    size: int


@dataclass(frozen=True)
class Scenes:
    """Images (N, 3, H, W) in 0..1 and labels (N, H, W)."""

    images: Tensor
    labels: Tensor


def load_scenes(plan: Plan) -> tuple[Scenes, Scenes]:
    """The training and the test scenes."""
    size = (plan.size, plan.size)
    return (
        _scenes(*scene_batch(plan.seed, 0, plan.train_scenes, size)),
        _scenes(*scene_batch(plan.seed, VAL_START, plan.test_scenes, size)),
    )


def train(model: nn.Module, scenes: Scenes, plan: Plan, title: str, line: int = 0) -> None:
    """Train in place; the order of the scenes depends on the plan alone.

    Progress is shown under ``title`` on the given ``line`` of the terminal.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=plan.steps)
    model.train()
    progress = tqdm(range(plan.steps), desc=title, position=line, unit="step", mininterval=1)
    for step in progress:
        chosen = torch.randint(len(scenes.images), (plan.batch,), generator=generator)
        images, labels = scenes.images[chosen], scenes.labels[chosen]
        if torch.rand((), generator=generator) < 0.5:
            images, labels = images.flip(-1), labels.flip(-1)
        loss = F.cross_entropy(model(images), labels, ignore_index=VOID_LABEL)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)


@torch.no_grad()
def evaluate(model: nn.Module, scenes: Scenes) -> tuple[ConfusionMatrix, BoundaryIoU]:
    """Count agreement of predictions and truth, and of their class-wise boundaries."""
    confusion, boundary = ConfusionMatrix(NUM_CLASSES), BoundaryIoU(NUM_CLASSES)
    for prediction, label in zip(predict(model, scenes.images), scenes.labels, strict=True):
        truth = label.numpy().astype(np.uint8)
        confusion.update(prediction, truth)
        boundary.update(prediction, truth)
    return confusion, boundary


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> NDArray[np.uint8]:
    """Labels (N, H, W)."""
    model.eval()
    labels = [model(batch).argmax(1).to(torch.uint8) for batch in images.split(16)]
    return torch.cat(labels).numpy()


def _scenes(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Scenes:
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return Scenes(planes.contiguous(), torch.from_numpy(labels).long())

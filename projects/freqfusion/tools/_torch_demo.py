"""The demo without Detectron2: two small encoder-decoders that differ in their fusion only.

They are trained from the same seed on the same synthetic scenes. A coarse map joins a finer one by
bilinear upsampling and addition in one, by FreqFusion in the other. Mean IoU and class-wise
boundary IoU are measured on scenes that neither has seen.

Shapes: images (B, 3, H, W) in 0..1, logits (B, classes, H, W), labels (B, H, W).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from freqfusion.data.synthetic import (
    NUM_CLASSES,
    VAL_START,
    VOID_LABEL,
    scene_batch,
)
from freqfusion.data.workers import progress
from freqfusion.layers import FreqFusion, InterpolationUpsampling
from freqfusion.metrics import BoundaryIoU, ConfusionMatrix

_BATCH, _SIZE = 8, (96, 96)
_ENCODER_WIDTHS = (24, 32, 48, 64)
_WIDTH = 32


@dataclass(frozen=True)
class TorchDemo:
    """What both networks are trained and measured with."""

    seed: int
    steps: int = 240
    train: int = 640
    val: int = 96


class EncoderDecoder(nn.Module):
    """Four strided stages, and a top-down path that ends at half the image size."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = (3, *_ENCODER_WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(*_block(before, after, 2), *_block(after, after, 1))
            for before, after in itertools.pairwise(widths)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, _WIDTH, 1) for width in _ENCODER_WIDTHS)
        self.fusions = nn.ModuleList()
        self.head = nn.Sequential(*_block(_WIDTH, _WIDTH, 1), nn.Conv2d(_WIDTH, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at the size of the images."""
        maps = []
        features = images - 0.5
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            features = stage(features)
            maps.append(lateral(features))
        joined = maps.pop()
        for fusion, fine in zip(self.fusions, reversed(maps), strict=True):
            _, fine, coarse = fusion(hr_feat=fine, lr_feat=joined)
            joined = fine + coarse
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(self.head(joined), size=size, mode="bilinear")


def _freqfusion() -> nn.Module:
    return FreqFusion(
        hr_channels=_WIDTH,
        lr_channels=_WIDTH,
        compressed_channels=16,
        feature_resample=True,
        init="identity",
    )


FUSIONS: dict[str, Callable[[], nn.Module]] = {
    "bilinear + add": lambda: InterpolationUpsampling(mode="bilinear"),
    "FreqFusion": _freqfusion,
}


def build_network(fusion: str, num_classes: int, seed: int) -> EncoderDecoder:
    """Return a network whose initial weights outside its fusions depend on the seed alone."""
    torch.manual_seed(seed)
    model = EncoderDecoder(num_classes)
    model.fusions.extend(FUSIONS[fusion]() for _ in _ENCODER_WIDTHS[1:])
    return model


def compare_fusions(demo: TorchDemo) -> tuple[dict[str, Any], str]:
    """Train and measure both networks; return the numbers and a table of them."""
    images, labels = scene_batch(demo.seed, VAL_START, demo.val, _SIZE)
    networks = {}
    for fusion in FUSIONS:
        model = build_network(fusion, NUM_CLASSES, demo.seed)
        _train(model, demo, fusion)
        with torch.no_grad():
            batches = _to_tensor(images).split(16)
            parts = [model.eval()(batch).argmax(1).byte() for batch in batches]
        predictions = torch.cat(parts).numpy()
        confusion, boundary = ConfusionMatrix(NUM_CLASSES), BoundaryIoU(NUM_CLASSES)
        for prediction, gt in zip(predictions, labels, strict=True):
            confusion.update(prediction, gt)
            boundary.update(prediction, gt)
        networks[fusion] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "mean IoU": confusion.mean_iou(),
            "boundary IoU": boundary.mean_iou(),
        }
    lines = [
        f"{demo.steps} steps of {_BATCH} scenes at {_SIZE[0]} x {_SIZE[1]}, seed {demo.seed};"
        f" measured on {demo.val} other scenes",
        *(
            f"{fusion:16}mean IoU {100 * one['mean IoU']:5.1f}  boundary IoU"
            f" {100 * one['boundary IoU']:5.1f}  parameters {one['parameters']:,}"
            for fusion, one in networks.items()
        ),
    ]
    return asdict(demo) | {"networks": networks}, "\n".join(lines)


def _block(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def _train(model: nn.Module, demo: TorchDemo, fusion: str) -> None:
    """Train in place; the order of the scenes depends on the seed alone."""
    scenes, gt = scene_batch(demo.seed, 0, demo.train, _SIZE)
    all_images, all_labels = _to_tensor(scenes), torch.from_numpy(gt).long()
    generator = torch.Generator().manual_seed(demo.seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=demo.steps)
    for _ in progress(range(demo.steps), fusion, "step"):
        chosen = torch.randint(demo.train, (_BATCH,), generator=generator)
        images, labels = all_images[chosen], all_labels[chosen]
        if torch.rand((), generator=generator) < 0.5:
            images, labels = images.flip(-1), labels.flip(-1)
        loss = F.cross_entropy(model(images), labels, ignore_index=VOID_LABEL)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def _to_tensor(images: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).contiguous()

"""What a training run takes, by arithmetic: iterations, epochs, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTES = 4  # of a number in float32, in which weights, gradients and averages are kept
# Numbers that an optimizer keeps for each number that it changes.
_STATES = {"SGD": 1, "ADAMW": 2}
# Images of the training sets, as their makers give them; crowd-only images are not left out.
IMAGES = {
    "coco_2017_train": 118_287,
    "cityscapes_fine": 2_975,
    "ade20k": 20_210,
}


@dataclass(frozen=True)
class Estimate:
    """A training run in numbers.

    Args:
        iterations: Steps of the optimizer.
        images_per_step: Of all processes together.
        images_per_gpu: Of one.
        epochs: How often each image is seen; None for a data set of unknown length.
        size: Height and width of the largest training image.
        state_bytes: Weights, gradients and the optimizer's averages, on each GPU; None if the
            parameters were not counted.
        kept_bytes: What one image of ``size`` keeps for gradients; None if not measured.
    """

    iterations: int
    images_per_step: int
    images_per_gpu: int
    epochs: float | None
    size: tuple[int, int]
    state_bytes: int | None
    kept_bytes: int | None

    @property
    def memory_bytes(self) -> int | None:
        """Of one GPU at least: state and kept maps, without room to compute in."""
        if self.state_bytes is None or self.kept_bytes is None:
            return None
        return self.state_bytes + self.images_per_gpu * self.kept_bytes

    def hours(self, step_seconds: float) -> float:
        """Of the whole training, without evaluation."""
        return self.iterations * step_seconds / 3600


def estimate(
    cfg: Any, row: Mapping[str, Any], gpus: int, size: tuple[int, int] | None = None
) -> Estimate:
    """Numbers of a configuration whose row of measurements is given.

    What images keep is taken to grow with their pixels. ``size`` takes the place of the largest
    training image of the configuration.

    Raises:
        ValueError: if the images of a step do not divide by ``gpus``.
    """
    images = cfg.SOLVER.IMS_PER_BATCH
    if images % gpus:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {images} does not divide by {gpus} GPUs; take another number"
        )
    size = size or training_size(cfg)
    number = images_of(cfg.DATASETS.TRAIN)
    return Estimate(
        iterations=cfg.SOLVER.MAX_ITER,
        images_per_step=images,
        images_per_gpu=images // gpus,
        epochs=None if number is None else cfg.SOLVER.MAX_ITER * images / number,
        size=size,
        state_bytes=_state(row, cfg.SOLVER.OPTIMIZER),
        kept_bytes=_scaled(row, size),
    )


def training_size(cfg: Any) -> tuple[int, int]:
    """Height and width of the largest image that a model is trained on.

    That of the jitter or of the crop, otherwise the largest short side and the longest long side.
    """
    if cfg.INPUT.SCALE_JITTER.ENABLED:
        height, width = cfg.INPUT.SCALE_JITTER.SIZE
    elif cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "absolute":
        height, width = cfg.INPUT.CROP.SIZE
    else:
        height, width = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    return int(height), int(width)


def images_of(datasets: tuple[str, ...]) -> int | None:
    """Images of training sets with these names; None if one is not known."""
    numbers = [
        next((count for start, count in IMAGES.items() if name.startswith(start)), None)
        for name in datasets
    ]
    return None if None in numbers else sum(number or 0 for number in numbers)


def _state(row: Mapping[str, Any], optimizer: str) -> int | None:
    if row["parameters"] is None or row["trainable"] is None:
        return None
    learnt: int = (1 + _STATES[optimizer]) * row["trainable"]
    return _BYTES * (int(row["parameters"]) + learnt)


def _scaled(row: Mapping[str, Any], size: tuple[int, int]) -> int | None:
    if row["kept_bytes"] is None:
        return None
    kept: int = row["kept_bytes"]
    scale: float = math.prod(size) / math.prod(row["size"])
    return round(kept * scale)

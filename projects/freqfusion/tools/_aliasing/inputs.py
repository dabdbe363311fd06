"""Images as a model takes them, with the edges of their labels where a data set has any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from freqfusion.drawing import Picture
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, read_image


@dataclass(frozen=True)
class Item:
    """One image: what the model takes, the same with its targets (if known), and how to see it."""

    inputs: dict[str, Any]
    truth: dict[str, Any] | None
    picture: Callable[[], Picture]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as the model takes it."""
        planes: Tensor = self.inputs["image"]
        return planes.shape[-2], planes.shape[-1]


class Reader:
    """Reads one image at a time, resized as for testing; targets are those of the training.

    Args:
        cfg: ``INPUT`` says how images are read and which targets the attention learns from.
        predictor: Of the model.
        with_truth: Whether targets are wanted.
    """

    def __init__(self, cfg: Any, predictor: Predictor, *, with_truth: bool) -> None:
        self.predictor = predictor
        self.mapper = _mapper(cfg) if with_truth else None

    def __call__(self, source: Source) -> Item:
        """Read an image.

        Raises:
            ValueError: if it or its truth cannot be read.
        """
        picture = read_image(source.path)
        inputs = self.predictor.inputs(picture)
        truth = None
        if self.mapper is not None and source.truth is not None:
            try:
                truth = self.mapper(dict(source.truth))
            except (OSError, KeyError) as error:
                raise ValueError(f"{source.path}: its truth cannot be read: {error}") from error
            if truth["image"].shape != inputs["image"].shape:
                raise ValueError(f"{source.path} has another size than its data set says")
        height, width = inputs["image"].shape[-2:]
        return Item(inputs, truth, lambda: resized(picture, height, width))


def edges_of(item: Item, size: tuple[int, int], ignore_value: int) -> tuple[Tensor, Tensor] | None:
    """Label edges and where labels are ignored, (1, 1, height, width) each; None without labels.

    Edges are those that supervise the attention. ``size`` is that of the padded image.
    """
    import torch

    from freqfusion.modeling.sfm.edges import ignored_pixels, label_edges, label_maps

    if item.truth is None or not any(True for _ in label_maps(item.truth, ignore_value)):
        return None
    device = torch.device("cpu")
    edges = label_edges([item.truth], size, device, ignore_value=ignore_value)
    return edges, ignored_pixels([item.truth], size, device, ignore_value=ignore_value)


def _mapper(cfg: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from freqfusion.data.mapper import SegmentationMapper, build_augmentations

    # Boxes have no edges of things.
    targets = [name for name in cfg.INPUT.TARGETS if name != "instances" or cfg.MODEL.MASK_ON]
    mapper: Callable[[dict[str, Any]], dict[str, Any]] = SegmentationMapper(
        True,
        augmentations=build_augmentations(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        targets=targets,
        use_masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
    )
    return mapper


def resized(picture: Picture, height: int, width: int) -> Picture:
    """A picture as large as the model sees it."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))

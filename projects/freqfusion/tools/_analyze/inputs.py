"""A random image, and something to learn from it, for any of Detectron2's models."""

from __future__ import annotations

from typing import Any

import torch

_BLOCK = 32
_BOXES = 8


def random_image(cfg: Any, size: tuple[int, int]) -> dict[str, Any]:
    """One image of noise, (height, width), as the data loader gives it; the same each time."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    channels = len(cfg.MODEL.PIXEL_MEAN)
    pixels = torch.randint(0, 256, (channels, height, width), generator=generator)
    return {"image": pixels.to(torch.uint8), "height": height, "width": width}


def with_targets(image: dict[str, Any], cfg: Any) -> dict[str, Any]:
    """The image with labels in blocks of 32 pixels, and with eight boxes side by side."""
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = image["height"], image["width"]
    down, right = torch.meshgrid(
        torch.arange(height) // _BLOCK, torch.arange(width) // _BLOCK, indexing="ij"
    )
    count = min(_BOXES, width)
    edges = torch.linspace(0, width, count + 1).round()
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, left, end in zip(masks, edges.long(), edges[1:].long(), strict=False):
        mask[: (height + 1) // 2, left:end] = True
    boxes = torch.zeros(count, 4)
    boxes[:, 0], boxes[:, 2], boxes[:, 3] = edges[:-1], edges[1:], (height + 1) // 2
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(count, dtype=torch.long)
    instances.gt_masks = BitMasks(masks)
    labels = (down + right) % cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    return image | {"sem_seg": labels, "instances": instances}

"""What Mask2Former learns from: a class and a mask for each segment of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, PolygonMasks
from torch import Tensor

from freqfusion.modeling.mask2former.predictions import MaskTargets


def mask_targets(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> list[MaskTargets]:
    """Targets of a batch, padded to ``size`` (height, width).

    Each image has one of the mapper's targets, and the first of these is taken: ``pan_seg`` with
    ``segments_info`` (crowds are left out), ``instances`` with masks, ``sem_seg`` (each class that
    occurs is one segment; ``ignore_value`` is none).
    """
    return [_padded(image_targets(image, ignore_value), size, device) for image in images]


def image_targets(image: Mapping[str, Any], ignore_value: int) -> MaskTargets:
    """Labels (T,) and boolean masks (T, H, W) of one image, before padding."""
    if "pan_seg" in image:
        return _of_panoptic(image["pan_seg"], image["segments_info"])
    if "instances" in image:
        return _of_instances(image["instances"])
    if "sem_seg" in image:
        return _of_labels(image["sem_seg"], ignore_value)
    raise ValueError(
        f"{image.get('file_name', 'an image')} has no pan_seg, instances or sem_seg to train on: "
        "set INPUT.TARGETS to one that the data set has"
    )


def _of_panoptic(ids: Tensor, segments: Iterable[Mapping[str, Any]]) -> MaskTargets:
    used = [segment for segment in segments if not segment.get("iscrowd", 0)]
    labels = torch.tensor([segment["category_id"] for segment in used], dtype=torch.long)
    numbers = torch.tensor([segment["id"] for segment in used], dtype=ids.dtype)
    masks = ids == numbers[:, None, None]
    seen = masks.flatten(1).any(dim=1)
    return {"labels": labels[seen], "masks": masks[seen]}


def _of_instances(instances: Any) -> MaskTargets:
    height, width = instances.image_size
    if not instances.has("gt_masks"):
        if len(instances):
            raise ValueError("instances have no masks: set MODEL.MASK_ON True")
        return {
            "labels": torch.zeros(0, dtype=torch.long),
            "masks": torch.zeros(0, height, width, dtype=torch.bool),
        }
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    pixels = masks.tensor if isinstance(masks, BitMasks) else masks
    return {"labels": instances.gt_classes, "masks": pixels.bool()}


def _of_labels(labels: Tensor, ignore_value: int) -> MaskTargets:
    classes = labels.unique()
    classes = classes[classes != ignore_value]
    return {"labels": classes.long(), "masks": labels == classes[:, None, None]}


def _padded(targets: MaskTargets, size: tuple[int, int], device: torch.device) -> MaskTargets:
    labels, masks = targets["labels"].to(device), targets["masks"].to(device)
    below, right = size[0] - masks.shape[-2], size[1] - masks.shape[-1]
    return {"labels": labels, "masks": F.pad(masks, (0, right, 0, below))}

"""What the decoder predicts, what it learns from, and checks of both.

Shapes: B images, Q queries, K classes, T objects in an image. h x w is the size of the predicted
masks, H x W that of the ground-truth masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NotRequired, TypedDict

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, PolygonMasks
from torch import Tensor


class MaskPredictions(TypedDict):
    """Classes and masks of every query.

    Attributes:
        pred_logits: (B, Q, K + 1), the last one for "no object".
        pred_masks: (B, Q, h, w), logits.
    """

    pred_logits: Tensor
    pred_masks: Tensor


class DecoderOutput(MaskPredictions):
    """The last predictions, and in ``aux_outputs`` those before each layer."""

    aux_outputs: NotRequired[list[MaskPredictions]]


class MaskTargets(TypedDict):
    """The objects of one image.

    Attributes:
        labels: (T,), integers from 0 to K - 1.
        masks: (T, H, W), boolean or 0 and 1, of the same field of view as the predicted masks:
            padded where the image was.
    """

    labels: Tensor
    masks: Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the values in float32 where they are in half precision or whole numbers."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()


def check_targets(targets: Sequence[MaskTargets], *, batch_size: int, num_classes: int) -> None:
    """Refuse targets that do not fit the predictions or each other.

    Raises:
        ValueError: with what came, what is allowed and what to do.
    """
    if len(targets) != batch_size:
        raise ValueError(
            f"every image needs its targets: got {len(targets)} for a batch of {batch_size} images"
        )
    for index, target in enumerate(targets):
        labels, masks = target["labels"], target["masks"]
        if labels.dim() != 1 or masks.dim() != 3 or len(labels) != len(masks):
            raise ValueError(
                f"target {index} must have labels (T,) and masks (T, H, W) for the same T objects; "
                f"got {tuple(labels.shape)} and {tuple(masks.shape)}"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"labels of target {index} must be integers, got {labels.dtype}")
    sizes = sorted({tuple(target["masks"].shape[-2:]) for target in targets})
    if len(sizes) > 1:
        raise ValueError(
            f"the masks of a batch must have one size, got {', '.join(map(str, sizes))}: pad them "
            "as the images were padded"
        )
    _check_labels(targets, num_classes)


def _check_labels(targets: Sequence[MaskTargets], num_classes: int) -> None:
    labels = torch.cat([target["labels"] for target in targets]) if targets else torch.empty(0)
    if not labels.numel():
        return
    lowest, highest = (int(label) for label in labels.aminmax())
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"label {wrong} is not one of the {num_classes} classes 0 to {num_classes - 1}: check "
            "the number of classes in the configuration, and that ignored regions are left out"
        )


def mask_targets(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> list[MaskTargets]:
    """Return the targets of a batch, padded to ``size`` (height, width).

    Each image has one of the mapper's targets, and the first of these is taken: ``pan_seg`` with
    ``segments_info`` (crowds are left out), ``instances`` with masks, ``sem_seg`` (each class that
    occurs is one segment, apart from ``ignore_value``).
    """
    return [_padded(image_targets(image, ignore_value), size, device) for image in images]


def image_targets(image: Mapping[str, Any], ignore_value: int) -> MaskTargets:
    """Return labels (T,) and boolean masks (T, H, W) of one image, before padding."""
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


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Switch autocast off within the block; do nothing on "meta", which has no autocast."""
    if device.type == "meta":
        return nullcontext()
    switched_off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return switched_off

"""What the decoder predicts, what it is compared with, and checks of both.

Shapes: B images, Q queries, K classes, T objects in an image. h x w is the size of the predicted
masks, H x W that of the true ones.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
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
    """The same values in float32 where they are in half precision or whole numbers."""
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

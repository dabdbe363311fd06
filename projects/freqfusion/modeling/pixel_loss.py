"""The loss of heads that classify pixels."""

import torch.nn.functional as F
from torch import Tensor


def labelled_cross_entropy(logits: Tensor, targets: Tensor | None, *, ignore_value: int) -> Tensor:
    """Mean cross-entropy over the labelled pixels, 0 where there are none.

    Args:
        logits: (B, classes, H, W); what lies beyond the targets below and to the right is cut off.
        targets: (B, h, w), not larger.
        ignore_value: Label of pixels that have none.
    """
    if targets is None:
        raise ValueError("in training the head needs the labels (sem_seg) of every image")
    height, width = targets.shape[-2:]
    loss = F.cross_entropy(
        logits[..., :height, :width], targets, ignore_index=ignore_value, reduction="none"
    )
    return loss.sum() / (targets != ignore_value).sum().clamp(min=1)

"""Costs and losses of classes and masks, as functions.

Shapes: M masks or Q queries, T objects, P points of a mask. Mask targets are numbers from 0 to 1.
The functions compute in the type they are given: the callers see to float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross entropy (M,) over the points of each mask; both are (M, P)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the dice coefficient (M,), smoothed by one point; both are (M, P).

    ``1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)`` with the probabilities p (Milletari et al.,
    V-Net, 3DV 2016).
    """
    masks = logits.sigmoid()
    overlap = 2 * (masks * targets).sum(dim=1)
    return 1 - (overlap + 1) / (masks.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_mask_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """:func:`mask_cross_entropy` (Q, T) of every mask (Q, P) with every object (T, P).

    The cross entropy of a point is ``softplus(x) - x t``, so one matrix product does.
    """
    matched = logits @ targets.T
    return (F.softplus(logits).sum(dim=1)[:, None] - matched) / logits.shape[1]


def pairwise_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """:func:`dice_loss` (Q, T) of every mask (Q, P) with every object (T, P)."""
    masks = logits.sigmoid()
    overlap = 2 * (masks @ targets.T)
    return 1 - (overlap + 1) / (masks.sum(dim=1)[:, None] + targets.sum(dim=1)[None] + 1)


def classification_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Weighted mean cross entropy of the queries.

    Args:
        logits: (B, Q, K + 1).
        labels: (B, Q), integers from 0 to K.
        class_weights: (K + 1,).

    Returns:
        The sum of the weighted entropies over the sum of the weights; zero where that is zero.
    """
    weights = class_weights.to(logits)
    total = F.cross_entropy(logits.transpose(1, 2), labels, weight=weights, reduction="sum")
    return total / weights[labels].sum().clamp(min=torch.finfo(logits.dtype).tiny)

"""Matching of queries to objects with the smallest total cost."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqfusion.modeling.mask2former.mask_losses import (
    PointSource,
    pairwise_dice_loss,
    pairwise_mask_cross_entropy,
    sample_points,
    uniform_points,
)
from freqfusion.modeling.mask2former.structures import (
    MaskPredictions,
    MaskTargets,
    at_least_float32,
    without_autocast,
)

Matches = tuple[Tensor, Tensor]
"""Queries, ascending, and the objects that they are matched with; both int64 on the CPU."""


class HungarianMatcher(nn.Module):
    """Match each object with one query so that the sum of the costs is smallest.

    The cost of a pair is the weighted sum of three parts: minus the probability of the object's
    class, the binary cross entropy and the dice loss of the mask. Masks are compared at random
    points, the same ones for all pairs of an image (Cheng et al., Mask2Former, CVPR 2022, section
    3.3). Where there are more objects than queries, some objects stay unmatched.

    Args:
        cost_class: Weight of the class probability.
        cost_mask: Weight of the cross entropy.
        cost_dice: Weight of the dice loss.
        num_points: Points at which masks are compared.
    """

    def __init__(
        self,
        *,
        cost_class: float = 2.0,
        cost_mask: float = 5.0,
        cost_dice: float = 5.0,
        num_points: int = 12544,
    ):
        super().__init__()
        weights = {"cost_class": cost_class, "cost_mask": cost_mask, "cost_dice": cost_dice}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(f"costs must not be negative, and one must be positive; got {weights}")
        if num_points < 1:
            raise ValueError(f"num_points must be positive, got {num_points}")
        self.cost_class, self.cost_mask, self.cost_dice = cost_class, cost_mask, cost_dice
        self.num_points = num_points

    @torch.no_grad()
    def forward(
        self,
        outputs: MaskPredictions,
        targets: Sequence[MaskTargets],
        *,
        draw_points: PointSource = uniform_points,
    ) -> list[Matches]:
        """Match the objects of every image.

        Args:
            outputs: Predictions for B images.
            targets: The objects of each image.
            draw_points: Called once for each image, also for one without objects.

        Returns:
            For each image ``min(Q, T)`` queries, ascending, and their objects.

        Raises:
            RuntimeError: if a cost is not finite, or scipy is not installed.
        """
        costs = [
            self.costs(logits, masks, target, draw_points=draw_points)
            for logits, masks, target in zip(
                outputs["pred_logits"], outputs["pred_masks"], targets, strict=True
            )
        ]
        # All costs are on their way before the first one is waited for.
        return [_assign(cost.cpu(), image) for image, cost in enumerate(costs)]

    @torch.no_grad()
    def costs(
        self,
        logits: Tensor,
        masks: Tensor,
        target: MaskTargets,
        *,
        draw_points: PointSource = uniform_points,
    ) -> Tensor:
        """Return the cost (Q, T) of every pair in one image.

        Args:
            logits: (Q, K + 1), class logits.
            masks: (Q, h, w), mask logits.
            target: The objects of the image.
            draw_points: Called once.
        """
        points = draw_points(1, self.num_points, masks.device)
        # Small differences between costs decide, so half precision is not enough for them.
        with without_autocast(masks.device):
            probabilities = at_least_float32(logits).softmax(dim=-1)
            predicted = sample_points(masks[None], points)[0]
            true = sample_points(target["masks"][None].to(masks.device), points)[0].to(predicted)
            labels = target["labels"].to(logits.device)
            return (
                self.cost_mask * pairwise_mask_cross_entropy(predicted, true)
                - self.cost_class * probabilities[:, labels]
                + self.cost_dice * pairwise_dice_loss(predicted, true)
            )

    def extra_repr(self) -> str:
        """Show the weights in ``repr``."""
        return (
            f"cost_class={self.cost_class}, cost_mask={self.cost_mask}, "
            f"cost_dice={self.cost_dice}, num_points={self.num_points}"
        )


def _assign(cost: Tensor, image: int) -> Matches:
    """Solve the assignment problem of one image."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise RuntimeError("matching queries to objects needs scipy: pip install scipy") from error
    if not cost.isfinite().all():
        raise RuntimeError(
            f"the predictions for image {image} of the batch give costs that are not finite, so "
            "the model has diverged: lower the learning rate, clip gradients, or train with "
            "bfloat16 or float32 instead of float16"
        )
    queries, objects = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(queries).long(), torch.from_numpy(objects).long()

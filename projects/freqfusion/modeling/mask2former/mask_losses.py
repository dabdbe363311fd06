"""Compute costs and losses of classes and masks at sampled points.

Shapes: M masks or Q queries, T objects, P points of a mask. Mask targets are numbers from 0 to 1.
The losses are computed in the type of their arguments: callers pass float32.

Points are (x, y) in [0, 1] over the whole field of view, whatever its size: (0, 0) is the outer
corner of the first pixel. After Kirillov, Wu, He, Girshick: PointRend, CVPR 2020.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.sampling import gather_at, sample_at

PointSource = Callable[[int, int, torch.device], Tensor]
"""Returns random points (sets, points, 2) in [0, 1) for their numbers and a device."""


def uniform_points(sets: int, points: int, device: torch.device) -> Tensor:
    """Return independent random points (sets, points, 2), uniform in the unit square."""
    return torch.rand(sets, points, 2, device=device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points, bilinearly; outside there are zeros.

    Args:
        maps: (N, C, H, W). Half precision is read in float32. Booleans and integers are read
            without turning the maps into numbers of four bytes first.
        points: (N, P, 2), shared by the C channels.

    Returns:
        (N, C, P), in float32, or in float64 where the maps are.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if maps.dim() != 4 or points.dim() != 3 or points.shape[-1] != 2 or len(maps) != len(points):
        raise ValueError(
            f"maps must be (N, C, H, W) and points (N, P, 2); got {tuple(maps.shape)} and "
            f"{tuple(points.shape)}"
        )
    dtype = maps.dtype if maps.dtype == torch.float64 else torch.float32
    if not maps.numel() or not points.numel():
        # No points to read; the sum keeps the connection of the losses to the predictions.
        shape = (*maps.shape[:2], points.shape[1])
        return maps.sum().to(dtype) * 0 + torch.zeros(shape, dtype=dtype, device=maps.device)
    points = points[:, None].to(dtype) * 2 - 1
    sample = sample_at if maps.is_floating_point() else gather_at
    return sample(maps, points)[:, :, 0]


@torch.no_grad()
def choose_uncertain_points(
    logits: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    draw_points: PointSource = uniform_points,
) -> Tensor:
    """Return points where masks are uncertain, and some more from anywhere.

    From ``oversample_ratio`` times as many random points as are wanted, take those with the
    smallest ``|logit|``, for a part ``importance_sample_ratio`` of the points; the rest is uniform.

    Args:
        logits: (M, h, w), one mask each.
        num_points: Points P for each mask.
        oversample_ratio: At least 1.
        importance_sample_ratio: From 0 to 1.
        draw_points: Called once for the candidates and, if there is a rest, once for that.

    Returns:
        (M, P, 2): the uncertain points, most uncertain first, then the rest.
    """
    candidates = draw_points(len(logits), int(num_points * oversample_ratio), logits.device)
    num_uncertain = int(importance_sample_ratio * num_points)
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs()
    chosen = certainty.topk(num_uncertain, dim=1, largest=False).indices
    points = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    if num_uncertain == num_points:
        return points
    rest = draw_points(len(logits), num_points - num_uncertain, logits.device)
    return torch.cat((points, rest.to(points)), dim=1)


def mask_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross entropy (M,) over the points of each mask; both are (M, P)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the dice coefficient (M,), smoothed by one point; both are (M, P).

    ``1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)`` with the probabilities p (Milletari et al.,
    V-Net, 3DV 2016).
    """
    masks = logits.sigmoid()
    overlap = 2 * (masks * targets).sum(dim=1)
    return 1 - (overlap + 1) / (masks.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_mask_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return :func:`mask_cross_entropy` (Q, T) of every mask (Q, P) with every object (T, P).

    The cross entropy of a point is ``softplus(x) - x t``, so one matrix product does.
    """
    matched = logits @ targets.T
    return (F.softplus(logits).sum(dim=1)[:, None] - matched) / logits.shape[1]


def pairwise_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return :func:`dice_loss` (Q, T) of every mask (Q, P) with every object (T, P)."""
    masks = logits.sigmoid()
    overlap = 2 * (masks @ targets.T)
    return 1 - (overlap + 1) / (masks.sum(dim=1)[:, None] + targets.sum(dim=1)[None] + 1)


def classification_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Return the weighted mean cross entropy of the queries.

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

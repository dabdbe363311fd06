"""Teaching the attention where semantic edges are.

The method is known to supervise its attention with label edges; weights and normalisation are not
public. Jin et al., Learning to Downsample for Segmentation, 2022, teach a sampling density by
smoothed label edges. The divergence and the warping of the target are our design. Shapes: edges
and logits (B, 1, H, W), labels (B, H, W).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_map, check_odd
from freqfusion.layers.sampling import lattice_points_of, sample_at, wide_dtype
from freqfusion.layers.sfm.displacement import spatial_softmax
from freqfusion.layers.sfm.mapping import MappingStack

EdgeLoss = Literal["kl", "mse"]
# Gives images without any edge an even target.
_EVEN = 1e-6


def semantic_edge_target(label: Tensor, *, ignore_index: int = 255, width: int = 3) -> Tensor:
    """Mark the pixels near a change of class: 1 there, 0 elsewhere, float32 (B, 1, H, W).

    A pixel is on an edge if one of its four neighbours has another class and neither is ignored;
    edges are then widened by the maximum over ``width`` x ``width`` pixels. A straight edge is
    ``width + 1`` pixels wide. Padded areas must be labelled ``ignore_index``.
    """
    check_odd(width=width)
    if label.dim() != 3:
        raise ValueError(f"label must be (batch, height, width), got {tuple(label.shape)}")
    edge = torch.zeros_like(label, dtype=torch.bool)
    counts = label != ignore_index
    for dim in (1, 2):
        length = label.shape[dim] - 1
        here, there = label.narrow(dim, 0, length), label.narrow(dim, 1, length)
        differs = here != there
        differs &= counts.narrow(dim, 0, length) & counts.narrow(dim, 1, length)
        edge.narrow(dim, 0, length).logical_or_(differs)
        edge.narrow(dim, 1, length).logical_or_(differs)
    return F.max_pool2d(edge[:, None].float(), width, stride=1, padding=width // 2)


@torch.no_grad()
def warp_edge_target(
    edge: Tensor, size: tuple[int, int], mappings: MappingStack | None = None
) -> Tensor:
    """Bring edges (B, 1, any, any) of the image to the space of an attention map of ``size``.

    The edges are averaged to ``size`` and read where the pixels of the map come from. ``mappings``
    are those of the stages before the map, none for the first one. There is no gradient.
    """
    check_map("edge", edge)
    target = F.adaptive_avg_pool2d(edge, size)
    if not mappings:
        return target
    first, last = mappings[0], mappings[-1]
    points = lattice_points_of(last.displacement, size, last.align_corners)
    points = mappings.forward(points)
    warped = sample_at(target, points, padding_mode="border", align_corners=first.align_corners)
    return warped.to(edge.dtype)


def attention_edge_loss(
    logits: Tensor, edge: Tensor, *, kind: EdgeLoss = "kl", floor: float = 0.05
) -> Tensor:
    """How far the attention's distribution over an image is from that of its edges.

    The target is ``edge + floor * max(edge)``, normalised over the image. For one attention map;
    average over the stages. Images without edges pull towards an even attention.

    Args:
        logits: (B, 1, H, W).
        edge: (B, 1, H, W), not negative, in the attention's own space: see
            :func:`warp_edge_target`.
        kind: ``"kl"``: the Kullback-Leibler divergence of the attention from the target, whose
            gradient in the logits is their difference. ``"mse"``: squared difference of both maps
            at mean one.
        floor: Attention left for places without edges. Logits bounded by two reach ratios of e^-4
            = 0.018, so a floor much below would never be met.

    Returns:
        A scalar, the mean over the batch, in float32 or better.

    Raises:
        ValueError: if the shapes differ, or the floor is negative.
    """
    check_choice(EdgeLoss, kind=kind)
    check_map("logits", logits)
    check_map("edge", edge)
    if logits.shape != edge.shape:
        raise ValueError(
            f"logits and edge must have one shape, got {tuple(logits.shape)} and "
            f"{tuple(edge.shape)}: bring the edges there with warp_edge_target"
        )
    if floor < 0:
        raise ValueError(f"floor must not be negative, got {floor}")
    dtype = wide_dtype(logits)
    logits, target = logits.to(dtype), edge_distribution(edge.to(dtype), floor=floor)
    if kind == "mse":
        return F.mse_loss(spatial_softmax(logits), target * target[0].numel())
    found = logits.flatten(1).log_softmax(dim=1)
    return F.kl_div(found, target.flatten(1), reduction="batchmean")


def edge_distribution(edge: Tensor, *, floor: float = 0.05) -> Tensor:
    """Edges (B, 1, H, W) as distributions over the image; an image without edges gives an even one.

    Every pixel gets ``floor`` times the strongest edge beside its own.
    """
    weight = edge + floor * edge.amax(dim=(1, 2, 3), keepdim=True) + _EVEN
    return weight / weight.sum(dim=(1, 2, 3), keepdim=True)

"""How much the features of every place resemble those of one place."""

from __future__ import annotations

import torch
from torch import Tensor

from freqfusion.analysis.resized import ResizedMap, ResizeMode

# Norms are kept above this, so that a place of zeros resembles nothing instead of giving nan.
_SMALLEST_NORM = 1e-8


@torch.no_grad()
def point_similarity(
    features: Tensor,
    point: tuple[float, float],
    size: tuple[int, int],
    *,
    covered: tuple[float, float] = (1.0, 1.0),
    mode: ResizeMode = "nearest",
) -> Tensor:
    """Cosine of each pixel's feature with that of the cell under a point: (H, W), -1..1, float64.

    Args:
        features: (C, h, w) of any floating type.
        point: Across and down, as parts of the width and the height of the image, 0..1.
        size: (H, W) of the result.
        covered: Part of the map's height and width that the image covers, from the top left.
        mode: ``"nearest"`` shows the cells as they are.

    Raises:
        ValueError: if the features are no map of one image or not finite, or the point lies outside
            the image.
    """
    if features.ndim != 3 or not features.is_floating_point() or not features.numel():
        raise ValueError(
            "features must be channels x height x width of one image in floating point, not"
            f" {features.dtype} of shape {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError("the features hold nan or infinity, which resembles nothing")
    if not all(0 <= part <= 1 for part in point):
        raise ValueError(f"the point must lie in the image, from 0 to 1 on both axes, not {point}")
    row, column = (
        min(int(part * share * cells), cells - 1)
        for part, share, cells in zip(point[::-1], covered, features.shape[1:], strict=True)
    )
    chosen = features[:, row, column].double()
    chosen = chosen / torch.linalg.vector_norm(chosen).clamp_min(_SMALLEST_NORM)
    result: Tensor = chosen.new_zeros(size)
    for rows, products, lengths in ResizedMap(features, size, covered, mode).products(chosen[None]):
        result[rows] = products[0] / lengths.clamp_min(_SMALLEST_NORM)
    result.clamp_(-1, 1)
    return result

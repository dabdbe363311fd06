"""How much each pixel resembles its neighbours."""

from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_map, check_odd, check_positive
from freqfusion.layers.neighbourhood import Geometry, correlate

SimilarityMeasure = Literal["cosine", "dot"]

# Norms are kept above this, so that a pixel of zeros resembles nothing instead of giving NaN.
_SMALLEST_NORM = 1e-8


def local_similarity(
    features: Tensor,
    *,
    kernel_size: int = 3,
    dilation: int = 2,
    measure: SimilarityMeasure = "cosine",
) -> Tensor:
    """Similarity over channels of every pixel with its neighbours (FreqFusion, section 3.3).

    Args:
        features: (B, C, H, W).
        kernel_size: Odd width of the neighbourhood in taps.
        dilation: Distance between taps in pixels.
        measure: ``"cosine"`` or the plain ``"dot"`` product.

    Returns:
        (B, kernel_size ** 2 - 1, H, W): the neighbours in row-major order without the centre. A
        neighbour outside the image has similarity 0. The dtype is that of ``features``.

    Raises:
        ValueError: for an even ``kernel_size`` or one below 3, or an unknown ``measure``.
    """
    check_odd(kernel_size=kernel_size)
    if kernel_size == 1:
        raise ValueError("kernel_size must be at least 3, since a pixel is not its own neighbour")
    check_positive(dilation=dilation)
    check_choice(SimilarityMeasure, measure=measure)
    check_map("features", features)
    geometry = Geometry(kernel_size, dilation=dilation)
    products = correlate(features, features, geometry)
    centre = kernel_size**2 // 2
    if measure == "cosine":
        # Not unit vectors: the product of every pixel with itself is there already, and dividing
        # products touches fewer numbers than dividing features.
        squares = products[:, centre : centre + 1].clamp_min(_SMALLEST_NORM**2)
        inverse = squares.rsqrt()
        products = products * correlate(inverse, inverse, geometry)
    neighbours = torch.cat([products[:, :centre], products[:, centre + 1 :]], dim=1)
    return neighbours.to(features.dtype)

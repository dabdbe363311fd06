"""How near every pixel's feature is to the centre of its class, and to those of other classes.

Shapes: features (C, h, w), labels (H, W); a centre is the mean feature of a class in one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freqfusion.analysis.bands import split_pixels
from freqfusion.analysis.moments import FloatArray, IntArray
from freqfusion.analysis.resized import ResizedMap, ResizeMode

LabelMap = Tensor | NDArray[np.integer[Any]]

# Norms are kept above this, so that a pixel of zeros resembles nothing instead of giving nan.
_SMALLEST_NORM = 1e-8
# Rounding makes differences of this size between centres that are the same.
_TIE = 1e-12


@dataclass(frozen=True)
class SimilarityMaps:
    """Similarities of one image; cosines, so -1..1.

    ``own`` (H, W) is that of each pixel to the centre of its class, nan where it is ignored or its
    class has no centre. ``margin`` (H, W) is by how much that exceeds the similarity to the nearest
    other centre: below 0 the pixel is nearer to another class; nan also where there is no other
    centre. ``measured`` (H, W) are the pixels that count: all that have ``own``, or those on the
    boundary band. ``labels`` (H, W) is the truth, ``classes`` (K,) are those with a centre in
    rising order, ``between`` (K, K) is the similarity of their centres.
    """

    own: FloatArray
    margin: FloatArray
    measured: NDArray[np.bool_]
    labels: IntArray
    classes: IntArray
    between: FloatArray

    @property
    def nearer_to_another(self) -> NDArray[np.bool_]:
        """Measured pixels to which another class's centre is strictly more similar, (H, W)."""
        result: NDArray[np.bool_] = self.measured & (self.margin < -_TIE)
        return result


@torch.no_grad()
def similarity_maps(
    features: Tensor,
    labels: LabelMap,
    *,
    edge_width: int = 0,
    ignore_label: int = 255,
    covered: tuple[float, float] = (1.0, 1.0),
    mode: ResizeMode = "bilinear",
) -> SimilarityMaps:
    """Similarity of each pixel of one image to the centres of its classes.

    The features are compared as resized to the labels, in float64 and on their device.

    Args:
        features: (C, h, w), of any floating type.
        labels: (H, W), whole numbers, a tensor or an array.
        edge_width: 0 measures all pixels, a width those on the band around class boundaries; see
            ``bands.split_pixels``.
        ignore_label: Label of pixels that have none.
        covered: Part of the map's height and width that the labels cover, from the top left.
        mode: How the features are resized.

    Raises:
        ValueError: for other shapes or types, or features that are not finite.
    """
    truth = _checked(features, labels)
    measured, centred = split_pixels(truth, edge_width, ignore_label)
    size = (truth.shape[0], truth.shape[1])
    resized = ResizedMap(features, size, covered, mode)
    classes = torch.unique(truth[centred])
    # Where each pixel's class is among the classes; -1 for none.
    place = torch.searchsorted(classes, truth.contiguous())
    known = torch.isin(truth, classes) & (truth != ignore_label)
    place = torch.where(known, place, -1)
    centres = _centres(resized, torch.where(centred, place, -1), len(classes))
    own, other = _nearest(resized, place, centres)
    return SimilarityMaps(
        own=_array(own),
        margin=_array(own - other),
        measured=(measured & known).cpu().numpy(),
        labels=truth.cpu().numpy(),
        classes=classes.cpu().numpy(),
        between=_array(centres @ centres.T),
    )


def _centres(resized: ResizedMap, place: Tensor, count: int) -> Tensor:
    """Unit vectors (K, C) along the mean features of the classes."""
    pixels = torch.bincount(place[place >= 0], minlength=count)
    centres = resized.sums(place, count) / pixels[:, None]
    norms = torch.linalg.vector_norm(centres, dim=1, keepdim=True)
    unit: Tensor = centres / norms.clamp_min(_SMALLEST_NORM)
    return unit


def _nearest(resized: ResizedMap, place: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity to the own and to the nearest other centre, (H, W); nan where there is none."""
    own = centres.new_full(resized.size, torch.nan)
    other = own.clone()
    if not len(centres):
        return own, other
    for rows, products, lengths in resized.products(centres):
        cosines = products / lengths.clamp_min(_SMALLEST_NORM)
        at = place[rows]
        first = at.clamp_min(0)[None]
        rest = cosines.scatter(0, first, -torch.inf).amax(0)
        own[rows] = cosines.gather(0, first)[0].masked_fill(at < 0, torch.nan)
        other[rows] = rest.masked_fill((at < 0) | rest.isinf(), torch.nan)
    return own, other


def _checked(features: Tensor, labels: LabelMap) -> Tensor:
    """The labels as int64 on the device of the features."""
    if features.ndim != 3 or not features.is_floating_point() or not features.numel():
        raise ValueError(
            "features must be channels x height x width of one image in floating point, not"
            f" {features.dtype} of shape {tuple(features.shape)}"
        )
    truth = torch.as_tensor(
        np.ascontiguousarray(labels) if isinstance(labels, np.ndarray) else labels
    )
    if truth.ndim != 2 or not truth.numel() or truth.is_floating_point() or truth.is_complex():
        raise ValueError(
            f"labels must be height x width of whole numbers, not {truth.dtype} of shape"
            f" {tuple(truth.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(
            "the features hold nan or infinity, which resembles nothing; did it diverge?"
        )
    return truth.to(features.device, torch.int64)


def _array(values: Tensor) -> FloatArray:
    result: FloatArray = values.cpu().numpy()
    return result

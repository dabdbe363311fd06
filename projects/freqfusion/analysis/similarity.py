"""How near every pixel's feature is to the centers of classes, or to that of one point.

Shapes: features (C, h, w), labels (H, W); a center is the mean feature of a class in one image.
Features are compared as resized to the labels, without making the resized map: resizing is linear,
so that a sum over pixels is a weighted sum over cells, the product of a pixel with a vector is the
resized product of the cells, and the squared length of a pixel comes from those of cells and of the
steps between neighboring cells. The channels are touched at the map's own size only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from freqfusion.analysis.running import FloatArray, IntArray
from freqfusion.layers.checks import check_choice

ResizeMode = Literal["bilinear", "nearest"]
# Values that are made at a time.
_PIECE = 2**22
LabelMap = Tensor | NDArray[np.integer[Any]]
# Norms are kept above this, so that a pixel of zeros resembles nothing instead of giving nan.
_SMALLEST_NORM = 1e-8
# Rounding makes differences of this size between centers that are the same.
_TIE = 1e-12


def split_pixels(labels: Tensor, edge_width: int, ignore_label: int) -> tuple[Tensor, Tensor]:
    """Return masks of the measured pixels and of those that make centers, both (H, W).

    Without an edge width both are all labelled pixels. With one, the boundary is where the discrete
    Laplacian of the label map is not 0 (mirrored at the border), and the measured pixels are those
    within a square of ``edge_width`` pixels around it, less those as near to ignored ones. The
    centers are then made of all other labelled pixels, so that a class that lies on boundaries
    only has none.

    This is the band of the published numbers. A pixel between one of the next lower and one of the
    next higher label is no boundary of its own in it; its neighbors are.
    """
    if edge_width < 0:
        raise ValueError(
            f"edge_width must be 0 (all pixels) or a width in pixels, not {edge_width}"
        )
    labelled = labels != ignore_label
    if not edge_width:
        return labelled, labelled
    band = _widen(_laplacian(labels) != 0, edge_width) & ~_widen(~labelled, edge_width)
    return band, labelled & ~band


def _laplacian(labels: Tensor) -> Tensor:
    """Return sum of the four neighbors less four times the pixel."""
    image = labels.long()
    total = -4 * image
    for axis in (0, 1):
        size = image.shape[axis]
        here = torch.arange(size, device=image.device)
        for step in (-1, 1):
            there = (here + step).abs()  # -1 is mirrored to 1
            there = torch.where(there < size, there, 2 * (size - 1) - there).clamp_min(0)
            total = total + image.index_select(axis, there)
    return total


def _widen(mask: Tensor, width: int) -> Tensor:
    """Return whether the mask holds anywhere in a square around each pixel."""
    before, after = width // 2, width - 1 - width // 2
    image = F.pad(mask[None, None].float(), (before, after, before, after))
    wide: Tensor = F.max_pool2d(image, width, stride=1)[0, 0] > 0
    return wide


class ResizedMap:
    """A map (C, h, w) as ``F.interpolate`` would resize it to (H, W); computes in float64.

    Args:
        features: (C, h, w).
        size: (H, W).
        covered: The part of the map's height and width, from the top and the left, that the result
            shows: 1 but for a model whose input was padded below and on the right.
        mode: ``"bilinear"`` (corners not aligned) or ``"nearest"``.
    """

    def __init__(
        self,
        features: Tensor,
        size: tuple[int, int],
        covered: tuple[float, float] = (1.0, 1.0),
        mode: ResizeMode = "bilinear",
    ) -> None:
        check_choice(ResizeMode, mode=mode)
        if not all(0 < part <= 1 for part in covered):
            raise ValueError(f"covered must be two parts above 0 and up to 1, not {covered}")
        self.features, self.size = features, size
        places = zip(features.shape[1:], size, covered, strict=True)
        self._rows, self._columns = (
            _neighbors(before, after, part, mode, features.device) for before, after, part in places
        )

    def sums(self, place: Tensor, count: int) -> Tensor:
        """Return sums (count, C) of the pixels in each place; ``place`` (H, W) is -1 for none."""
        if not count:
            return self.features.new_zeros(0, len(self.features), dtype=torch.float64)
        height, width = self.features.shape[1:]
        first = place.clamp_min(0) * (height * width)
        counts = (place >= 0).double()
        cells = counts.new_zeros(count * height * width)
        upper, lower, down = (part[:, None] for part in self._rows)
        left, right, along = self._columns
        for row, by_row in ((upper, 1 - down), (lower, down)):
            for column, by_column in ((left, 1 - along), (right, along)):
                where = first + (row * width + column)
                cells.index_add_(0, where.flatten(), (counts * by_row * by_column).flatten())
        weights = cells.view(count, -1).T
        parts = [part.double().flatten(1) @ weights for part in self._channels()]
        return torch.cat(parts).T

    def products(self, vectors: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Return products with vectors (K, C), a few rows at a time.

        Yields the rows, the products (K, rows, W) and the lengths of the pixels (rows, W).
        """
        maps = vectors.new_zeros(len(vectors), *self.features.shape[1:])
        for part, ours in zip(self._channels(), vectors.split(self._step(), 1), strict=True):
            maps += torch.einsum("kc,chw->khw", ours, part.double())
        squares = self._lengths_and_steps()
        step = max(1, _PIECE // ((len(vectors) + len(squares)) * self.size[1]))
        for start in range(0, self.size[0], step):
            rows = slice(start, min(start + step, self.size[0]))
            yield rows, self._resized(maps, rows), self._squares(squares, rows).sqrt()

    def _step(self) -> int:
        """Return the number of channels that are converted at a time."""
        return max(1, _PIECE // max(1, self.features[0].numel()))

    def _channels(self) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.features.split(self._step())
        return parts

    def _resized(self, maps: Tensor, rows: slice) -> Tensor:
        upper, lower, share = (part[rows] for part in self._rows)
        piece = torch.lerp(maps[:, upper], maps[:, lower], share[:, None])
        left, right, share = self._columns
        return torch.lerp(piece[:, :, left], piece[:, :, right], share)

    def _lengths_and_steps(self) -> Tensor:
        """Return (4, h, w): squared lengths of cells, of their steps down and right, of both."""
        total = self.features.new_zeros(4, *self.features.shape[1:], dtype=torch.float64)
        for part in self._channels():
            cell = part.double()
            down, right = _next(cell, 1) - cell, _next(cell, 2) - cell
            for squares, one in zip(
                total, (cell, down, right, _next(right, 1) - right), strict=True
            ):
                squares += one.square().sum(0)
        return total

    def _squares(self, maps: Tensor, rows: slice) -> Tensor:
        """Return squared lengths (rows, W) of the resized pixels.

        That of a mean ``lerp(a, b, t)`` is ``lerp(|a|^2, |b|^2, t) - t (1 - t) |b - a|^2``; this
        is used for the rows, of cells and of their steps to the right, and then for the columns.
        """
        upper, lower, down = (part[rows] for part in self._rows)
        left, right, along = self._columns
        down = down[:, None]
        lengths, steps = (
            torch.lerp(squares[upper], squares[lower], down) - down * (1 - down) * below[upper]
            for squares, below in ((maps[0], maps[1]), (maps[2], maps[3]))
        )
        whole = torch.lerp(lengths[:, left], lengths[:, right], along)
        return (whole - along * (1 - along) * steps[:, left]).clamp_min(0)  # rounding


def _next(maps: Tensor, axis: int) -> Tensor:
    """Return every cell's next one on an axis, the last one its own."""
    size = maps.shape[axis]
    last = maps.narrow(axis, size - 1, 1)
    return torch.cat((maps.narrow(axis, 1, size - 1), last), dim=axis)


def _neighbors(
    before: int, after: int, part: float, mode: ResizeMode, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source pixels of each output pixel on an axis, and the second one's share."""
    step = before * part / after
    out = torch.arange(after, device=device, dtype=torch.float64)
    if mode == "nearest":
        first = (out * step).floor().long().clamp_max(before - 1)
        return first, first, torch.zeros_like(out)
    place = ((out + 0.5) * step - 0.5).clamp(0, before - 1)
    first = place.floor().long()
    return first, (first + 1).clamp_max(before - 1), place - first


@dataclass(frozen=True)
class SimilarityMaps:
    """Similarities of one image; cosines, so -1..1.

    ``own`` (H, W) is that of each pixel to the center of its class, nan where it is ignored or its
    class has no center. ``margin`` (H, W) is by how much that exceeds the similarity to the nearest
    other center: below 0 the pixel is nearer to another class; nan also where there is no other
    center. ``measured`` (H, W) are the pixels that count: all that have ``own``, or those on the
    boundary band. ``labels`` (H, W) is the ground truth, ``classes`` (K,) are those with a center
    in rising order, ``between`` (K, K) is the similarity of their centers.
    """

    own: FloatArray
    margin: FloatArray
    measured: NDArray[np.bool_]
    labels: IntArray
    classes: IntArray
    between: FloatArray

    @property
    def nearer_to_another(self) -> NDArray[np.bool_]:
        """Return the measured pixels that another class's center is strictly nearer to."""
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
    """Return similarity of each pixel of one image to the centers of its classes.

    The features are compared as resized to the labels, in float64 and on their device.

    Args:
        features: (C, h, w), of any floating type.
        labels: (H, W), whole numbers, a tensor or an array.
        edge_width: 0 measures all pixels, a width those on the band around class boundaries; see
            ``split_pixels``.
        ignore_label: Label of pixels that have none.
        covered: Part of the map's height and width that the labels cover, from the top left.
        mode: How the features are resized.

    Raises:
        ValueError: for other shapes or types, or features that are not finite.
    """
    gt = _checked(features, labels)
    measured, centered = split_pixels(gt, edge_width, ignore_label)
    size = (gt.shape[0], gt.shape[1])
    resized = ResizedMap(features, size, covered, mode)
    classes = torch.unique(gt[centered])
    # Where each pixel's class is among the classes; -1 for none.
    place = torch.searchsorted(classes, gt.contiguous())
    known = torch.isin(gt, classes) & (gt != ignore_label)
    place = torch.where(known, place, -1)
    centers = _centers(resized, torch.where(centered, place, -1), len(classes))
    own, other = _nearest(resized, place, centers)
    return SimilarityMaps(
        own=_array(own),
        margin=_array(own - other),
        measured=(measured & known).cpu().numpy(),
        labels=gt.cpu().numpy(),
        classes=classes.cpu().numpy(),
        between=_array(centers @ centers.T),
    )


def _centers(resized: ResizedMap, place: Tensor, count: int) -> Tensor:
    """Return unit vectors (K, C) along the mean features of the classes."""
    pixels = torch.bincount(place[place >= 0], minlength=count)
    centers = resized.sums(place, count) / pixels[:, None]
    norms = torch.linalg.vector_norm(centers, dim=1, keepdim=True)
    unit: Tensor = centers / norms.clamp_min(_SMALLEST_NORM)
    return unit


def _nearest(resized: ResizedMap, place: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return similarities to the own and to the nearest other center, (H, W), or nan."""
    own = centers.new_full(resized.size, torch.nan)
    other = own.clone()
    if not len(centers):
        return own, other
    for rows, products, lengths in resized.products(centers):
        cosines = products / lengths.clamp_min(_SMALLEST_NORM)
        at = place[rows]
        first = at.clamp_min(0)[None]
        rest = cosines.scatter(0, first, -torch.inf).amax(0)
        own[rows] = cosines.gather(0, first)[0].masked_fill(at < 0, torch.nan)
        other[rows] = rest.masked_fill((at < 0) | rest.isinf(), torch.nan)
    return own, other


def _check_features(features: Tensor) -> None:
    if features.ndim != 3 or not features.is_floating_point() or not features.numel():
        raise ValueError(
            "features must be channels x height x width of one image in floating point, not"
            f" {features.dtype} of shape {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(
            "the features hold nan or infinity, which resembles nothing; did it diverge?"
        )


def _checked(features: Tensor, labels: LabelMap) -> Tensor:
    """Return the labels as int64 on the device of the features."""
    _check_features(features)
    gt = torch.as_tensor(np.ascontiguousarray(labels) if isinstance(labels, np.ndarray) else labels)
    if gt.ndim != 2 or not gt.numel() or gt.is_floating_point() or gt.is_complex():
        raise ValueError(
            f"labels must be height x width of whole numbers, not {gt.dtype} of shape"
            f" {tuple(gt.shape)}"
        )
    return gt.to(features.device, torch.int64)


def _array(values: Tensor) -> FloatArray:
    result: FloatArray = values.cpu().numpy()
    return result


@torch.no_grad()
def point_similarity(
    features: Tensor,
    point: tuple[float, float],
    size: tuple[int, int],
    *,
    covered: tuple[float, float] = (1.0, 1.0),
    mode: ResizeMode = "nearest",
) -> Tensor:
    """Return the cosine of each pixel's feature with that under a point: (H, W), float64.

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
    _check_features(features)
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

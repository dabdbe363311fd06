"""How well features separate classes, over a data set: IntraSim, InterSim, margin, error rate.

The measures of Chen et al., "Frequency-Aware Feature Fusion for Dense Image Prediction", TPAMI
2024: what fusion ought to do is to make the features of a class alike and its boundary sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from freqfusion.analysis.running import FloatArray, IntArray, Moments
from freqfusion.analysis.similarity import LabelMap, ResizeMode, SimilarityMaps, similarity_maps


@dataclass(frozen=True)
class ClassValues:
    """A measure by class (N,): mean, unbiased standard deviation, and whether the class counts.

    nan where there is nothing to average. ``overall`` and ``overall_std`` are the unweighted means
    over the classes that count, nan if none does.
    """

    mean: FloatArray
    std: FloatArray
    counts: NDArray[np.bool_]

    @property
    def overall(self) -> float:
        """Return mean of the means."""
        return _mean(self.mean[self.counts])

    @property
    def overall_std(self) -> float:
        """Return mean of the standard deviations."""
        return _mean(self.std[self.counts])


@dataclass(frozen=True)
class SimilarityResult:
    """Scores of the features of many images.

    ``intra`` is the similarity of pixels to the center of their class in the image (more is
    better), ``inter`` that of the centers of two classes, filed under the lower one (less is
    better), ``margin`` by how much a pixel is nearer to its own center than to the nearest other
    one (more is better). ``errors`` (N,) counts the pixels that are nearer to another class, of
    ``pixels`` (N,); ``images`` are those with a measured pixel.
    """

    images: int
    pixels: IntArray
    errors: IntArray
    intra: ClassValues
    inter: ClassValues
    margin: ClassValues
    error_counts: NDArray[np.bool_]

    @property
    def error_rates(self) -> FloatArray:
        """Return the share of pixels nearer to another class, by class (N,); nan without pixels."""
        rates: FloatArray = np.full(len(self.pixels), np.nan)
        np.divide(self.errors, self.pixels, out=rates, where=self.pixels > 0)
        return rates

    @property
    def class_error_rate(self) -> float:
        """Return mean of the classes' error rates, of those that count."""
        return _mean(self.error_rates[self.error_counts])

    @property
    def pixel_error_rate(self) -> float:
        """Return the share of all pixels, of the classes that count, nearer to another class."""
        pixels = int(self.pixels[self.error_counts].sum())
        return int(self.errors[self.error_counts].sum()) / pixels if pixels else float("nan")


class FeatureSimilarity:
    """Takes images one at a time and keeps counts and moments only.

    Args:
        num_classes: Labels are 0 to this, less one.
        edge_width: 0 measures all pixels; a width in pixels, the band around class boundaries,
            with centers from all pixels off the band.
        ignore_label: Label of pixels that have none.
        min_images: A class counts in the overall scores when it was measured in so many images (for
            ``inter``, when it has so many pairs), or in all where there are fewer. The published
            numbers take 2. What is said by class does not depend on it.
        mode: How features are resized to the labels.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        edge_width: int = 0,
        ignore_label: int = 255,
        min_images: int = 2,
        mode: ResizeMode = "bilinear",
    ) -> None:
        for name, value, lowest in (
            ("num_classes", num_classes, 1),
            ("edge_width", edge_width, 0),
            ("min_images", min_images, 1),
        ):
            if value < lowest:
                raise ValueError(f"{name} must be {lowest} or more, not {value}")
        if 0 <= ignore_label < num_classes:
            raise ValueError(
                f"ignore_label {ignore_label} is one of the classes 0..{num_classes - 1}; give a"
                " label outside of them"
            )
        self.num_classes, self.edge_width = num_classes, edge_width
        self.ignore_label, self.min_images, self.mode = ignore_label, min_images, mode
        self.images = 0
        self._intra, self._inter, self._margin = (Moments(num_classes) for _ in range(3))
        self._errors, self._measured, self._seen, self._compared = (
            np.zeros(num_classes, dtype=np.int64) for _ in range(4)
        )

    def update(
        self, features: Tensor, labels: LabelMap, covered: tuple[float, float] = (1.0, 1.0)
    ) -> SimilarityMaps:
        """Measure the features (C, h, w) of one image with labels (H, W); return its maps.

        Raises:
            ValueError: as ``similarity_maps``, or for a label that is neither a class nor ignored;
                nothing is counted then.
        """
        self._check_labels(labels)
        maps = similarity_maps(
            features,
            labels,
            edge_width=self.edge_width,
            ignore_label=self.ignore_label,
            covered=covered,
            mode=self.mode,
        )
        self.add(maps)
        return maps

    def add(self, maps: SimilarityMaps) -> None:
        """Count the maps of one image, made with the same settings."""
        labels, size = maps.labels[maps.measured], self.num_classes
        self._intra.add(maps.own[maps.measured], labels)
        compared = maps.measured & ~np.isnan(maps.margin)
        self._margin.add(maps.margin[compared], maps.labels[compared])
        lower, higher = np.triu_indices(len(maps.classes), 1)
        self._inter.add(maps.between[lower, higher], maps.classes[lower])
        self._errors += np.bincount(maps.labels[maps.nearer_to_another], minlength=size)
        self._measured += np.bincount(labels, minlength=size) > 0
        self._compared += np.bincount(maps.labels[compared], minlength=size) > 0
        self._seen[maps.classes] += 1
        self.images += bool(labels.size)

    def result(self) -> SimilarityResult:
        """Return the scores of all images so far."""
        # No class can be in two images where there is only one.
        needed = max(1, min(self.min_images, self.images))
        pixels = self._intra.count.copy()
        return SimilarityResult(
            images=self.images,
            pixels=pixels,
            errors=self._errors.copy(),
            intra=_values(self._intra, self._measured >= needed),
            inter=_values(self._inter, self._inter.count >= needed),
            margin=_values(self._margin, self._compared >= needed),
            error_counts=(self._seen >= needed) & (pixels > 0),
        )

    def _check_labels(self, labels: LabelMap) -> None:
        found = (
            labels.unique().tolist() if isinstance(labels, Tensor) else np.unique(labels).tolist()
        )
        wrong = [
            label
            for label in found
            if label != self.ignore_label and not 0 <= label < self.num_classes
        ]
        if wrong:
            raise ValueError(
                f"unexpected label {', '.join(map(str, wrong[:8]))}: allowed are"
                f" 0..{self.num_classes - 1}, or {self.ignore_label} (ignored); map the labels"
                " first, or set num_classes and ignore_label to fit"
            )


def _values(moments: Moments, counts: NDArray[np.bool_]) -> ClassValues:
    return ClassValues(moments.mean(), moments.std(), counts)


def _mean(values: FloatArray) -> float:
    """Return the mean of the values that are not nan; nan when all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

"""All layers of one model over a data set, one image at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freqfusion.analysis import FeatureSimilarity, SimilarityMaps
from freqfusion.drawing import VOID, LabelMap, Picture
from freqfusion.tools._feature_similarity.layers import Layer
from freqfusion.tools._feature_similarity.recording import record_maps
from freqfusion.tools._feature_similarity.truth import LabelSource, true_labels
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, read_image

# Maps that are kept for a figure are no larger than this.
_DRAWN_SIDE = 800


@dataclass(frozen=True)
class Scene:
    """An image of the data set, and its truth."""

    name: str
    image: Picture
    truth: LabelMap


@dataclass(frozen=True)
class Drawing:
    """What a figure shows of one image and one model."""

    scene: Scene
    maps: Mapping[str, SimilarityMaps]


def read_scenes(
    sources: Iterable[Source], metadata: Any, labels: LabelSource | None
) -> Iterator[Scene]:
    """The images with their truth, one at a time; ValueError for one that cannot be read."""
    for source in sources:
        image = read_image(source.path)
        size = (image.shape[0], image.shape[1])
        truth = true_labels(source.truth or {}, metadata, size, labels)
        yield Scene(source.path.name, image, truth)


class Measurement:
    """The scores of some layers of a model for each width of the boundary band."""

    def __init__(
        self,
        predictor: Predictor,
        layers: Sequence[Layer],
        edge_widths: Sequence[int],
        min_images: int,
    ) -> None:
        self.predictor, self.layers = predictor, layers
        self.edge_widths, self.min_images = edge_widths, min_images
        self.scores: dict[tuple[str, int], FeatureSimilarity] = {}

    def add(self, scene: Scene, drawn: bool) -> Drawing | None:
        """Measure an image; the maps of the first width for a figure if they are to be drawn."""
        inputs = self.predictor.inputs(scene.image)
        recorded = record_maps(self.predictor.model, inputs, self.layers)
        kept: dict[str, SimilarityMaps] = {}
        for label, one in recorded.items():
            for width in self.edge_widths:
                scores = self._scores(label, width, len(scene.truth.names))
                try:
                    maps = scores.update(one.features, scene.truth.labels, one.covered)
                except ValueError as error:
                    raise ValueError(f"{label} of {scene.name}: {error}") from error
                if drawn and width == self.edge_widths[0]:
                    kept[label] = _thinned(maps)
        return Drawing(_thinned_scene(scene), kept) if drawn else None

    def _scores(self, label: str, width: int, classes: int) -> FeatureSimilarity:
        return self.scores.setdefault(
            (label, width),
            FeatureSimilarity(
                classes, edge_width=width, ignore_label=VOID, min_images=self.min_images
            ),
        )


def _step(shape: Sequence[int]) -> int:
    return math.ceil(max(shape[:2]) / _DRAWN_SIDE)


def _thinned(maps: SimilarityMaps) -> SimilarityMaps:
    """Every few pixels of a large map: figures are small, and many are kept at a time."""
    step = _step(maps.own.shape)
    names = ("own", "margin", "measured", "labels")
    parts: dict[str, Any] = {name: getattr(maps, name)[::step, ::step].copy() for name in names}
    return replace(maps, **parts)


def _thinned_scene(scene: Scene) -> Scene:
    step = _step(scene.image.shape)
    truth = replace(scene.truth, labels=np.ascontiguousarray(scene.truth.labels[::step, ::step]))
    return Scene(scene.name, np.ascontiguousarray(scene.image[::step, ::step]), truth)

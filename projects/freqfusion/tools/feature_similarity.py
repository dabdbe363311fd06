"""How well features separate classes: ``python -m freqfusion.tools.feature_similarity``.

For chosen layers of a model, on a data set with semantic or panoptic labels: the similarity of
pixels to the center of their class (IntraSim), that of the centers of different classes (InterSim),
the margin between the two, and the part of the pixels that are nearer to another class; on all
pixels, and on the band of 3 pixels along class boundaries. Writes ``similarity.json`` and figures
of the first images.

A layer is ``NAME[:PART|@ARGUMENT]``: a module as ``named_modules()`` calls it, or an output of the
backbone (``p2``, ``res4``); a PART of its output (a key or an index), or an ARGUMENT of its input.
Unasked, the map before and the map after the finest fusion are taken.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freqfusion.analysis import (
    FeatureSimilarity,
    SimilarityMaps,
    SimilarityResult,
    similarity_figure,
)
from freqfusion.data.workers import progress
from freqfusion.drawing import VOID, Classes, LabelMap, PanopticMap, Picture
from freqfusion.drawing.colors import VOID_COLOR
from freqfusion.predictor import Predictor, check_weights, read_config
from freqfusion.tools._arguments import model_parser, number_from, parse, text_table, write_json
from freqfusion.tools._images import ImageSource, from_dataset, read_image
from freqfusion.tools._layers import Layer, default_layers, find_layers, record_maps

EDGE_WIDTHS = (0, 3)  # 0: all pixels
_COLUMNS = ("IntraSim", "InterSim", "margin", "nearer to another class", "class mean")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        measurement = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"feature_similarity: {error}", file=sys.stderr)
        return 2
    print(*text_table(measurement.rows(), words=2), sep="\n")
    print(f"\n{measurement.images} images; scores and figures: {options.output}")
    return 0


def run(options: argparse.Namespace) -> Measurement:
    """Measure the model, and write what was measured."""
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; name a folder")
    cfg = read_config(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    check_weights(cfg.MODEL.WEIGHTS)
    sources, metadata = from_dataset(options.dataset, options.limit)
    next(read_scenes(sources[:1], metadata))  # before the model is built
    predictor = Predictor(cfg)
    named = options.layers
    layers = find_layers(predictor.model, named) if named else default_layers(predictor.model)
    measurement = Measurement(predictor, layers)
    options.output.mkdir(parents=True, exist_ok=True)
    scenes = read_scenes(sources, metadata)
    for number, scene in enumerate(progress(scenes, "measuring", "image", total=len(sources))):
        maps = measurement.add(scene)
        if number < options.figures:
            path = options.output / f"similarity_{number:05d}_{Path(scene.name).stem}.png"
            scene_figure(scene, maps).savefig(path, dpi=130)
    facts = {"config": options.config_file, "weights": cfg.MODEL.WEIGHTS}
    facts |= {"dataset": options.dataset, "images": measurement.images}
    write_json(options.output / "similarity.json", facts | measurement.content())
    return measurement


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "feature_similarity", "Measure and draw how well the features of a model separate classes."
    )
    add = parser.add_argument
    data = "a registered data set with semantic or panoptic ground truth"
    add("--dataset", required=True, metavar="NAME", help=data)
    layers = "NAME[:PART|@ARGUMENT]; not given: before and after the finest fusion"
    add("--layers", nargs="+", metavar="LAYER", help=layers)
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--limit", type=number_from(1), metavar="N", help="the first N images only")
    add("--figures", type=number_from(0), default=4, metavar="N", help="draw the first N images; 4")
    return parser


@dataclass(frozen=True)
class LabeledImage:
    """An image of the data set, and its ground truth."""

    name: str
    image: Picture
    gt: LabelMap


def read_scenes(sources: Iterable[ImageSource], metadata: Any) -> Iterator[LabeledImage]:
    """Yield the images with their ground truth; ValueError for one that cannot be read."""
    for source in sources:
        image = read_image(source.path)
        gt = gt_labels(source.gt or {}, metadata, (image.shape[0], image.shape[1]))
        yield LabeledImage(source.path.name, image, gt)


def gt_labels(entry: Mapping[str, Any], metadata: Any, size: tuple[int, int]) -> LabelMap:
    """Return the labels of an image of ``size`` (height, width); -1 is void.

    They are the data set's semantic labels, or else the categories of its panoptic segments.

    Raises:
        ValueError: if there is no such ground truth, or it is not of the image's size.
    """
    from freqfusion.evaluation.overlays import gt_content

    content = gt_content(entry, metadata, size)
    found = content.semantic
    if found is None and content.panoptic is not None:
        found = categories(content.panoptic, metadata)
    name = entry.get("file_name", "the image")
    if found is None:
        raise ValueError(
            f"{name} has no semantic or panoptic ground truth, by which features are compared; take"
            " a data set that has"
        )
    if found.labels.shape != size:
        raise ValueError(
            f"{name} is {size[0]} x {size[1]} (height x width), but its ground truth is"
            f" {found.labels.shape[0]} x {found.labels.shape[1]}"
        )
    return found


def categories(panoptic: PanopticMap, metadata: Any) -> LabelMap:
    """Return the category of each pixel's segment, the things before the stuff; crowds are void."""
    classes = Classes(metadata)
    labels = np.full(panoptic.ids.shape, VOID, dtype=np.int64)
    for segment in panoptic.segments:
        if not segment.is_crowd:
            labels[panoptic.ids == segment.id] = segment.category
    names = (*classes.things, *classes.stuff)
    return LabelMap(labels, names, (*classes.thing_colors, *classes.stuff_colors))


class Measurement:
    """The scores of some layers of a model, on all pixels and on the band along boundaries."""

    def __init__(self, predictor: Predictor, layers: Sequence[Layer]) -> None:
        self.predictor, self.layers = predictor, layers
        self.names: tuple[str, ...] = ()
        self.images = 0
        self._scores: dict[tuple[str, int], FeatureSimilarity] = {}

    def add(self, scene: LabeledImage) -> dict[str, SimilarityMaps]:
        """Measure an image; return the maps of all its pixels by layer."""
        self.names = self.names or scene.gt.names
        if scene.gt.names != self.names:
            raise ValueError(
                f"{scene.name} has {len(scene.gt.names)} classes, others {len(self.names)};"
                " name the classes in the data set's metadata (stuff_classes)"
            )
        recorded = record_maps(self.predictor, scene.image, self.layers)
        kept: dict[str, SimilarityMaps] = {}
        for (label, one), width in itertools.product(recorded.items(), EDGE_WIDTHS):
            new = FeatureSimilarity(len(self.names), edge_width=width, ignore_label=VOID)
            scores = self._scores.setdefault((label, width), new)
            try:
                maps = scores.update(one.features, scene.gt.labels, one.covered)
            except ValueError as error:
                raise ValueError(f"{label} of {scene.name}: {error}") from error
            if not width:
                kept[label] = maps
        self.images += 1
        return kept

    def rows(self) -> list[tuple[str, ...]]:
        """Return a head, and a line for each layer; "-" where there is nothing to average."""
        lines = [
            (label, f"band {width}" if width else "all", *_overall(scores.result()))
            for (label, width), scores in sorted(self._scores.items(), key=lambda item: item[0][1])
        ]
        return [("layer", "pixels", *_COLUMNS), *lines]

    def content(self) -> dict[str, Any]:
        """Return all scores for a JSON file; nan where there is nothing to average."""
        modules = {layer.label: str(layer) for layer in self.layers}
        rows = [
            {"layer": label, "module": modules[label], "edge_width": width}
            | _entry(scores.result(), self.names)
            for (label, width), scores in self._scores.items()
        ]
        return {"classes": list(self.names), "rows": rows}


def _overall(result: SimilarityResult) -> tuple[str, ...]:
    cosines = (part.overall for part in (result.intra, result.inter, result.margin))
    rates = (result.pixel_error_rate, result.class_error_rate)
    return (
        *("-" if math.isnan(value) else f"{value:.3f}" for value in cosines),
        *("-" if math.isnan(rate) else f"{100 * rate:.2f} %" for rate in rates),
    )


def _entry(result: SimilarityResult, names: Sequence[str]) -> dict[str, Any]:
    """Return the scores over all classes, and by class."""
    parts = {"intra": result.intra, "inter": result.inter, "margin": result.margin}
    overall = {name: values.overall for name, values in parts.items()}
    overall |= {f"{name}_std": values.overall_std for name, values in parts.items()}
    overall |= {"pixel_error_rate": result.pixel_error_rate}
    overall |= {"class_error_rate": result.class_error_rate}
    classes = {}
    for at, name in enumerate(names):
        means = {part: float(values.mean[at]) for part, values in parts.items()}
        stds = {f"{part}_std": float(values.std[at]) for part, values in parts.items()}
        rate = {"error_rate": float(result.error_rates[at]), "pixels": int(result.pixels[at])}
        classes[name] = means | stds | rate
    return {
        "images": result.images,
        "pixels": int(result.pixels.sum()),
        "overall": overall,
        "per_class": classes,
    }


def scene_figure(scene: LabeledImage, maps: Mapping[str, SimilarityMaps]) -> Any:
    """Draw an image, its ground truth with the largest classes named, and its maps."""
    gt = scene.gt
    colored = np.array([*gt.colors, VOID_COLOR], dtype=np.uint8)[gt.labels]
    labels, pixels = np.unique(gt.labels[gt.labels >= 0], return_counts=True)
    order = labels[np.argsort(-pixels, kind="stable")].tolist()
    classes = {gt.names[label]: gt.colors[label] for label in order}
    return similarity_figure(scene.image, colored, maps, classes=classes, title=scene.name)


if __name__ == "__main__":
    sys.exit(main())

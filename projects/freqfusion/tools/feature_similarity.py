"""How well features separate classes: ``python -m freqfusion.tools.feature_similarity``.

For chosen layers of one or several models, on a data set with semantic labels: the similarity of
pixels to the center of their class (IntraSim), that of the centers of different classes (InterSim),
the margin between the two, and the part of the pixels that are nearer to another class; on all
pixels, and on bands along class boundaries. Writes ``similarity.json`` and figures of some images.

A layer is ``[LABEL=]NAME[:PART|@ARGUMENT]``: a module as ``named_modules()`` calls it, or an output
of the backbone (``p2``, ``res4``); a PART of its output (a key, a place, ``1+2`` for a sum), or an
ARGUMENT of its input. Unasked, the map before and the map after the finest fusion are taken.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freqfusion.analysis import SimilarityResult, similarity_figure
from freqfusion.drawing import LabelMap, Picture
from freqfusion.drawing.colors import RGB, VOID_COLOR
from freqfusion.files import add_unsafe_config
from freqfusion.predictor import Predictor, build_model, check_weights, read_config
from freqfusion.tools._arguments import number_from, text_table, write_json
from freqfusion.tools._feature_similarity import (
    Drawing,
    LabelSource,
    Measurement,
    default_layers,
    parse_layer,
    read_scenes,
    resolve_layers,
)
from freqfusion.tools._images import ImageSource, from_dataset

logger = logging.getLogger(__name__)

_COLUMNS = ("IntraSim", "InterSim", "margin", "nearer to another class", "class mean")


@dataclass(frozen=True)
class NamedModel:
    """A model as the command line names it."""

    name: str
    config_file: str
    weights: str | None


@dataclass
class MeasuredModels:
    """What has been measured and drawn."""

    rows: list[SimilarityRow]
    drawings: dict[str, list[Drawing]]
    names: tuple[str, ...] = ()
    images: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw; return the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        models = _models(options)
        report = run(models, options)
        print(_write(report, models, options))
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"feature_similarity: {error}", file=sys.stderr)
        return 2
    return 0


def run(models: Sequence[NamedModel], options: argparse.Namespace) -> MeasuredModels:
    """Measure one model after the other, so that only one is in memory."""
    layers = [parse_layer(text) for text in options.layers or ()]
    widths = tuple(dict.fromkeys(options.edge_width))
    report = MeasuredModels([], {})
    for model in models:
        cfg = read_config(
            model.config_file, model.weights, options.opts, unsafe=options.allow_unsafe_config
        )
        check_weights(cfg.MODEL.WEIGHTS)
        sources, metadata = from_dataset(options.dataset, options.limit)
        _check_truth(sources[0], metadata, options.labels)
        network = build_model(cfg)
        chosen = resolve_layers(network, layers) if layers else default_layers(network)
        measurement = Measurement(Predictor(cfg, network), chosen, widths, options.min_images)
        report.drawings[model.name] = _measure(
            model, measurement, sources, metadata, options, report
        )
        places = {layer.label: str(layer) for layer in chosen}
        report.rows += [
            SimilarityRow(model.name, label, places[label], width, scores.result())
            for (label, width), scores in measurement.scores.items()
        ]
    return report


def _check_truth(source: ImageSource, metadata: Any, labels: LabelSource | None) -> None:
    """Raise ValueError, before a model is built, where the data set has no ground truth."""
    next(read_scenes([source], metadata, labels))


def _measure(
    model: NamedModel,
    measurement: Measurement,
    sources: Sequence[ImageSource],
    metadata: Any,
    options: argparse.Namespace,
    report: MeasuredModels,
) -> list[Drawing]:
    """Measure every image of the data set; return what is to be drawn of the first ones."""
    from tqdm import tqdm

    drawings: list[Drawing] = []
    scenes = read_scenes(sources, metadata, options.labels)
    bar = tqdm(scenes, total=len(sources), desc=model.name, unit="image", disable=None)
    for number, scene in enumerate(bar):
        if report.names and scene.gt.names != report.names:
            raise ValueError(
                f"{scene.name} has {len(scene.gt.names)} classes, others {len(report.names)};"
                " name the classes in the data set's metadata (stuff_classes)"
            )
        report.names = scene.gt.names
        drawing = measurement.add(scene, drawn=number < options.figures)
        drawings += [drawing] if drawing else []
    report.images = len(sources)
    return drawings


def _write(
    report: MeasuredModels, models: Sequence[NamedModel], options: argparse.Namespace
) -> str:
    """Write the files; what to print."""
    options.output.mkdir(parents=True, exist_ok=True)
    facts = {
        "dataset": options.dataset,
        "images": report.images,
        "min_images": options.min_images,
        "models": {one.name: {"config": one.config_file, "weights": one.weights} for one in models},
    }
    path = options.output / "similarity.json"
    write_json(path, json_content(report.rows, report.names, facts))
    paths = save_figures(report.drawings, options.output) if options.figures else []
    parts = [table(report.rows, report.images)]
    if options.per_class:
        parts += [class_table(row, report.names) for row in report.rows]
    drawn = f"\nfigures: {len(paths)}, {paths[0]} the first" if paths else ""
    return "\n\n".join([*parts, f"scores: {path}{drawn}"])


def _models(options: argparse.Namespace) -> list[NamedModel]:
    """Return the models of the command line, each under a name of its own."""
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; name a folder")
    models = [NamedModel(*words) for words in options.model or ()]
    if options.config_file:
        stem = Path(options.config_file).stem
        models.insert(0, NamedModel(stem, options.config_file, options.weights))
    elif options.weights:
        raise ValueError("--weights belongs to --config-file; --model has weights of its own")
    if not models:
        raise ValueError(
            "there is no model; give --config-file FILE --weights FILE, or --model NAME CONFIG"
            " WEIGHTS, once or more often"
        )
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two models are called {name}; give each a name of its own")
    return models


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.feature_similarity",
        description="Measure and draw how well the features of models separate classes.",
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="configuration of one model (YAML)")
    add_unsafe_config(parser)
    add("--weights", metavar="FILE", help="its checkpoint; not given: MODEL.WEIGHTS")
    add(
        "--model",
        nargs=3,
        action="append",
        metavar=("NAME", "CONFIG", "WEIGHTS"),
        help="a model to compare; repeat for others",
    )
    add(
        "--dataset",
        required=True,
        metavar="NAME",
        help="a registered data set with its ground truth",
    )
    add(
        "--labels",
        choices=("semantic", "panoptic"),
        help="which ground truth; not given: the first there is",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="[LABEL=]NAME[:PART|@ARGUMENT]; not given: before and after the finest fusion",
    )
    add(
        "--edge-width",
        nargs="+",
        type=number_from(0),
        default=[0, 3],
        metavar="K",
        help="band along class boundaries in pixels, 0 for all pixels; default: 0 3",
    )
    add("--limit", type=number_from(1), metavar="N", help="the first N images only")
    add("--figures", type=number_from(0), default=4, metavar="N", help="draw the first N images; 4")
    add(
        "--min-images",
        type=number_from(1),
        default=2,
        metavar="N",
        help="a class counts in the means from so many images on; 2",
    )
    add("--per-class", action="store_true", help="print the scores of every class too")
    add(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="changes of all configurations, after -- if need be",
    )
    return parser


@dataclass(frozen=True)
class SimilarityRow:
    """The scores of one layer of one model, on all pixels or on a band."""

    model: str
    layer: str
    place: str
    edge_width: int
    result: SimilarityResult

    @property
    def pixels(self) -> str:
        """Return in words which pixels were measured."""
        return f"band {self.edge_width}" if self.edge_width else "all"


def cells(rows: Sequence[SimilarityRow]) -> list[tuple[str, ...]]:
    """Return a head, and a line for each row; "-" where there is nothing to average."""
    lines = [
        (row.model, row.layer, row.pixels, *_overall(row.result))
        for row in sorted(rows, key=lambda row: row.edge_width)
    ]
    return [("model", "layer", "pixels", *_COLUMNS), *lines]


def table(rows: Sequence[SimilarityRow], images: int) -> str:
    """Return the cells as text."""
    count = f"{images} image{'s' if images > 1 else ''}"
    return "\n".join([count, "", *text_table(cells(rows), words=3)])


def class_table(row: SimilarityRow, names: Sequence[str]) -> str:
    """Return a line for each class that occurs, those left out of the means in brackets."""
    result, lines = row.result, []
    for number, name in enumerate(names):
        if not result.pixels[number] and math.isnan(result.inter.mean[number]):
            continue
        counted = result.error_counts[number]
        values = (part.mean[number] for part in (result.intra, result.inter, result.margin))
        rate = percent(result.error_rates[number])
        pixels = str(result.pixels[number])
        lines.append((name if counted else f"({name})", *map(cosine, values), rate, pixels))
    head = ("class", *_COLUMNS[:4], "pixels")
    title = f"{row.model}, {row.layer}, pixels: {row.pixels}"
    return "\n".join([title, *text_table([head, *lines])])


def json_content(
    rows: Iterable[SimilarityRow], names: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all scores for a JSON file; nan where there is nothing to average."""
    return {**facts, "classes": list(names), "rows": [_entry(row, names) for row in rows]}


def cosine(value: float) -> str:
    """Return a cosine with three digits."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def percent(rate: float) -> str:
    """Return a part of 1 in percent."""
    return "-" if math.isnan(rate) else f"{100 * rate:.2f} %"


def _overall(result: SimilarityResult) -> tuple[str, ...]:
    values = (part.overall for part in (result.intra, result.inter, result.margin))
    return (
        *map(cosine, values),
        percent(result.pixel_error_rate),
        percent(result.class_error_rate),
    )


def _entry(row: SimilarityRow, names: Sequence[str]) -> dict[str, Any]:
    result = row.result
    parts = {"intra": result.intra, "inter": result.inter, "margin": result.margin}
    overall: dict[str, Any] = {}
    for name, values in parts.items():
        overall |= {name: values.overall, f"{name}_std": values.overall_std}
    overall["pixel_error_rate"] = result.pixel_error_rate
    overall["class_error_rate"] = result.class_error_rate
    classes = {}
    for at, name in enumerate(names):
        one: dict[str, Any] = {"pixels": int(result.pixels[at])}
        for part, values in parts.items():
            one |= {
                part: float(values.mean[at]),
                f"{part}_std": float(values.std[at]),
                f"{part}_counts": bool(values.counts[at]),
            }
        one["error_rate"] = float(result.error_rates[at])
        one["error_counts"] = bool(result.error_counts[at])
        classes[name] = one
    return {
        "model": row.model,
        "layer": row.layer,
        "place": row.place,
        "edge_width": row.edge_width,
        "images": result.images,
        "pixels": int(result.pixels.sum()),
        "overall": overall,
        "per_class": classes,
    }


def save_figures(drawings: Mapping[str, Sequence[Drawing]], folder: Path) -> list[Path]:
    """Write the figures; drawings by model, each of the same images in the same order."""
    paths = []
    for number, (name, figure) in enumerate(build_figures(drawings)):
        paths.append(folder / f"similarity_{number:05d}_{Path(name).stem}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def build_figures(drawings: Mapping[str, Sequence[Drawing]]) -> Iterator[tuple[str, Any]]:
    """Return the name of each image, and its figure."""
    for parts in zip(*drawings.values(), strict=True):
        scene = parts[0].scene
        yield (
            scene.name,
            similarity_figure(
                scene.image,
                colored(scene.gt),
                {name: part.maps for name, part in zip(drawings, parts, strict=True)},
                classes=_legend(scene.gt),
                title=scene.name,
            ),
        )


def colored(gt: LabelMap) -> Picture:
    """Return each pixel in the color of its class, void gray; (H, W, 3)."""
    table = np.array([*gt.colors, VOID_COLOR], dtype=np.uint8)
    return table[gt.labels]


def _legend(gt: LabelMap) -> dict[str, RGB]:
    """Return the classes of an image, the largest first."""
    labels, pixels = np.unique(gt.labels[gt.labels >= 0], return_counts=True)
    order = labels[np.argsort(-pixels, kind="stable")].tolist()
    return {gt.names[label]: gt.colors[label] for label in order}


if __name__ == "__main__":
    sys.exit(main())

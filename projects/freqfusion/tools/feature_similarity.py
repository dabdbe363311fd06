"""How well features separate classes: ``python -m freqfusion.tools.feature_similarity``.

For chosen layers of one or several models, on a data set with semantic truth: the similarity of
pixels to the centre of their class (IntraSim), that of the centres of different classes (InterSim),
the margin between the two, and the part of the pixels that are nearer to another class; on all
pixels, and on bands along class boundaries. Writes ``similarity.json`` and figures of some images.

A layer is ``[LABEL=]NAME[:PART|@ARGUMENT]``: a module as ``named_modules()`` calls it, or an output
of the backbone (``p2``, ``res4``); a PART of its output (a key, a place, ``1+2`` for a sum), or an
ARGUMENT of its input. Unasked, the map before and the map after the finest fusion are taken.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion.files import add_unsafe_config
from freqfusion.tools._arguments import number_from
from freqfusion.tools._feature_similarity.figures import save_figures
from freqfusion.tools._feature_similarity.layers import (
    default_layers,
    parse_layer,
    resolve_layers,
)
from freqfusion.tools._feature_similarity.measuring import Drawing, Measurement, read_scenes
from freqfusion.tools._feature_similarity.report import Row, class_table, content, table
from freqfusion.tools._feature_similarity.truth import LabelSource
from freqfusion.tools._model import build_model, check_weights, read_config
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, from_dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A model as the command line names it."""

    name: str
    config_file: str
    weights: str | None


@dataclass
class Report:
    """What has been measured and drawn."""

    rows: list[Row]
    drawings: dict[str, list[Drawing]]
    names: tuple[str, ...] = ()
    images: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        models = _models(options)
        report = run(models, options)
        print(_write(report, models, options))
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"feature_similarity: {error}", file=sys.stderr)
        return 2
    return 0


def run(models: Sequence[Model], options: argparse.Namespace) -> Report:
    """Measure one model after the other, so that only one is in memory."""
    layers = [parse_layer(text) for text in options.layers or ()]
    widths = tuple(dict.fromkeys(options.edge_width))
    report = Report([], {})
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
            Row(model.name, label, places[label], width, scores.result())
            for (label, width), scores in measurement.scores.items()
        ]
    return report


def _check_truth(source: Source, metadata: Any, labels: LabelSource | None) -> None:
    """ValueError, before a model is built, where the data set has no truth to compare with."""
    next(read_scenes([source], metadata, labels))


def _measure(
    model: Model,
    measurement: Measurement,
    sources: Sequence[Source],
    metadata: Any,
    options: argparse.Namespace,
    report: Report,
) -> list[Drawing]:
    """Every image of the data set; what is to be drawn of the first ones."""
    from tqdm import tqdm

    drawings: list[Drawing] = []
    scenes = read_scenes(sources, metadata, options.labels)
    bar = tqdm(scenes, total=len(sources), desc=model.name, unit="image", disable=None)
    for number, scene in enumerate(bar):
        if report.names and scene.truth.names != report.names:
            raise ValueError(
                f"{scene.name} has {len(scene.truth.names)} classes, others {len(report.names)};"
                " name the classes in the data set's metadata (stuff_classes)"
            )
        report.names = scene.truth.names
        drawing = measurement.add(scene, drawn=number < options.figures)
        drawings += [drawing] if drawing else []
    report.images = len(sources)
    return drawings


def _write(report: Report, models: Sequence[Model], options: argparse.Namespace) -> str:
    """Write the files; what to print."""
    options.output.mkdir(parents=True, exist_ok=True)
    facts = {
        "dataset": options.dataset,
        "images": report.images,
        "min_images": options.min_images,
        "models": {one.name: {"config": one.config_file, "weights": one.weights} for one in models},
    }
    path = options.output / "similarity.json"
    scores = content(report.rows, report.names, facts)
    path.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    paths = save_figures(report.drawings, options.output) if options.figures else []
    parts = [table(report.rows, report.images)]
    if options.per_class:
        parts += [class_table(row, report.names) for row in report.rows]
    drawn = f"\nfigures: {len(paths)}, {paths[0]} the first" if paths else ""
    return "\n\n".join([*parts, f"scores: {path}{drawn}"])


def _models(options: argparse.Namespace) -> list[Model]:
    """The models of the command line, each under a name of its own."""
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; name a folder")
    models = [Model(*words) for words in options.model or ()]
    if options.config_file:
        stem = Path(options.config_file).stem
        models.insert(0, Model(stem, options.config_file, options.weights))
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
    add("--dataset", required=True, metavar="NAME", help="a registered data set with its truth")
    add(
        "--labels",
        choices=("semantic", "panoptic"),
        help="which truth; not given: the first there is",
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


if __name__ == "__main__":
    sys.exit(main())

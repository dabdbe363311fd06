"""Evaluate every test set of a configuration, and write the scores to ``results.json``."""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from freqfusion import __version__
from freqfusion.data.bad_samples import BadSample, CountedBatches, skipped_summary
from freqfusion.evaluation import SkippingEvaluator
from freqfusion.files import write_whole

logger = logging.getLogger(__name__)

TRAINING = "training"


class Scores(OrderedDict[str, Any]):
    """Holds scores by task, or by data set and task where there are several sets.

    ``skipped`` has the images that were left out, by data set and file.
    """

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.skipped: dict[str, dict[str, BadSample]] = {}


def evaluate_model(
    model: nn.Module,
    evaluations: Mapping[str, Callable[[], tuple[CountedBatches, DatasetEvaluator]]],
) -> Scores:
    """Evaluate a model, and return scores: those of the main process and empty in others.

    Args:
        model: What to evaluate.
        evaluations: Makes the loader and the evaluator of each data set when it is its turn.
    """
    scores: dict[str, Any] = {}
    skipped: dict[str, dict[str, BadSample]] = {}
    for name, prepare in evaluations.items():
        loader, evaluator = prepare()
        skipping = SkippingEvaluator(evaluator, loader.skipped_images)
        scores[name] = inference_on_dataset(model, loader, skipping)
        skipped[name] = skipping.skipped
        if comm.is_main_process():
            logger.info("scores on %s:", name)
            print_csv_format(scores[name])
            if skipping.skipped:
                logger.warning("%s", skipped_summary(f"these scores on {name}", skipping.skipped))
    result = Scores(next(iter(scores.values())) if len(scores) == 1 else scores)
    result.skipped = skipped
    return result


def skipped_in(results: Mapping[str, Any]) -> dict[str, dict[str, BadSample]]:
    """Return what an evaluation left out; nothing for scores of a subclass's own."""
    return results.skipped if isinstance(results, Scores) else {}


def write_results(
    cfg: CfgNode,
    results: Mapping[str, Any],
    *,
    iteration: int | None,
    config_file: str = "",
    weights: str | None = None,
    skipped: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Write the scores of an evaluation to the output folder, whole or not at all.

    Only the main process writes. What is nan or infinite, which JSON does not know, becomes null.

    Args:
        cfg: The configuration of the run.
        results: What ``Trainer.test`` returned.
        iteration: Finished iterations of training; None where they are not known.
        config_file: The file that the configuration was read from.
        weights: The file that was evaluated; None where the weights are in none. In training they
            came from ``MODEL.WEIGHTS``, which is written as ``initial_weights``.
        skipped: Images that were left out, and why, by data set and file; for training under
            ``TRAINING``. Written as ``images_skipped``, where there are any.
    """
    if not comm.is_main_process():
        return
    content = {
        "freqfusion": __version__,
        "config": config_file or None,
        "weights": weights or None,
        "initial_weights": cfg.MODEL.WEIGHTS or None,
        "iteration": iteration,
        "datasets": _finite(by_dataset(cfg, results)),
        "images_skipped": {
            name: {file: str(why) for file, why in files.items()}
            for name, files in (skipped or {}).items()
            if files
        },
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_whole(Path(cfg.OUTPUT_DIR) / "results.json", text)


def by_dataset(cfg: CfgNode, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores by data set and task; Detectron2 leaves out the name of a single set."""
    names = list(cfg.DATASETS.TEST)
    return {names[0]: dict(results)} if len(names) == 1 else dict(results)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None

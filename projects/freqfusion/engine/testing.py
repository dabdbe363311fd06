"""Every test set of a configuration: scores, and the images that they are not about."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from freqfusion.data.bad_samples import BadSample, CountedBatches, skipped_summary
from freqfusion.evaluation import SkippingEvaluator

logger = logging.getLogger(__name__)


class Scores(OrderedDict[str, Any]):
    """Scores by task, or by data set and task where there are several, as Detectron2 has them.

    ``skipped`` has the images that were left out, by data set and file.
    """

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.skipped: dict[str, dict[str, BadSample]] = {}


def evaluate_model(
    model: nn.Module,
    evaluations: Mapping[str, Callable[[], tuple[CountedBatches, DatasetEvaluator]]],
) -> Scores:
    """Evaluate a model; scores are those of the main process and empty in others.

    Args:
        model: What to evaluate.
        evaluations: Makes the loader and the evaluator of each data set when it is its turn.
    """
    scores: dict[str, Any] = {}
    skipped: dict[str, dict[str, BadSample]] = {}
    for name, prepare in evaluations.items():
        loader, evaluator = prepare()
        skipping = SkippingEvaluator(evaluator, loader.tally)
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
    """What an evaluation left out; nothing for scores from elsewhere, such as a subclass's own."""
    return results.skipped if isinstance(results, Scores) else {}

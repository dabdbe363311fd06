"""Evaluation of a data set of which images that cannot be used were left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from freqfusion.data.bad_samples import BadSample, SkippedImages
from freqfusion.evaluation.instances import InstanceEvaluator


class SkippingEvaluator(DatasetEvaluator):
    """Any evaluator, whose scores are those of the images that were not left out.

    Args:
        evaluator: What scores; one that looks for images by itself is told which to leave out.
        tally: Counts what the loader leaves out. All of it is in ``skipped`` after ``evaluate``.
    """

    def __init__(self, evaluator: DatasetEvaluator, tally: SkippedImages) -> None:
        self.evaluator, self.tally = evaluator, tally
        self.skipped: dict[str, BadSample] = {}

    def reset(self) -> None:
        """Begin a new round."""
        self.skipped = {}
        self.evaluator.reset()

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Count a batch."""
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        """The scores; BadSampleError where too many images were left out in all processes."""
        self.skipped = self.tally.gathered()
        numbers = [bad.image_id for bad in self.skipped.values()]
        for part in _parts(self.evaluator):
            if isinstance(part, InstanceEvaluator):
                part.leave_out(numbers)
        return self.evaluator.evaluate()


def _parts(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    return evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]

"""What the evaluators here share: one image at a time, and one sum over all processes.

Nothing is kept of an image but its contribution to the counts, so memory does not grow with the
data set and nothing is written to disk to be read again.
"""

from __future__ import annotations

import json
import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class Counter(Protocol):
    """Counts that can be added up, such as those of ``freqfusion.metrics``."""

    def merge(self, other: Self, /) -> None:
        """Add the counts of another."""


C = TypeVar("C", bound=Counter)


class StreamingEvaluator(DatasetEvaluator):
    """Counts each image as it comes; a subclass says how, and what the scores are.

    As with Detectron2's own evaluators a model without the output has no such scores: a warning,
    and an empty result. A model that has it for some images only is a ValueError.

    ``output_key`` is where the model has the output, ``result_key`` where the scores go.
    """

    output_key: ClassVar[str]
    result_key: ClassVar[str]

    def __init__(self, dataset_name: str, output_dir: str | None, needed: Iterable[str]) -> None:
        self.dataset_name = dataset_name
        self.output_dir = output_dir
        self.metadata = dataset_metadata(dataset_name, needed)

    @abstractmethod
    def count(self, image: Mapping[str, Any], output: Any) -> None:
        """Count one image: its data set dict, and the model's output for it."""

    @abstractmethod
    def scores(self) -> dict[str, float] | None:
        """Sum the counts of all processes; the scores in percent, None but in the main process."""

    def find(self, output: Mapping[str, Any]) -> Any | None:
        """Return what to count of an output for an image; None if the model does not have it."""
        return output.get(self.output_key)

    def reset(self) -> None:
        """Forget all images."""
        self._counted = 0
        self._without = 0

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Count a batch: data set dicts and the model's outputs for them."""
        for image, output in zip(inputs, outputs, strict=True):
            found = self.find(output)
            if found is None:
                self._without += 1
            else:
                self.count(image, found)
                self._counted += 1

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return ``{result_key: scores}`` in the main process, None in others."""
        tallies = comm.all_gather((self._counted, self._without))
        counted, without = (sum(column) for column in zip(*tallies, strict=True))
        if counted and without:
            raise ValueError(
                f"the model gave {self.output_key!r} for {counted} images of {self.dataset_name}"
                f" but not for {without}; it must give it for all or for none"
            )
        if not counted:
            logger.warning(
                "%s has no scores of %s: the model gave no %r for any of its %d images",
                *(self.dataset_name, type(self).__name__, self.output_key, without),
            )
            return {} if comm.is_main_process() else None
        scores = self.scores()
        return None if scores is None else {self.result_key: scores}

    def save(self, content: Mapping[str, Any]) -> None:
        """Write ``<dataset>_<result key>.json`` into the output folder, if there is one."""
        if self.output_dir is None:
            return
        path = Path(self.output_dir) / f"{self.dataset_name}_{self.result_key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")
        logger.info("wrote %s", path)


def summed(counter: C) -> C | None:
    """Return the sum of all counters in the main process, None in others."""
    parts: list[C] = comm.gather(counter)
    if not comm.is_main_process():
        return None
    total = parts[0]
    for part in parts[1:]:
        total.merge(part)
    return total


def log_scores(title: str, dataset_name: str, scores: Mapping[str, float]) -> None:
    """Log a table with a line for each score."""
    lines = "\n".join(f"{name:<32} {score:6.2f}" for name, score in scores.items())
    logger.info("%s on %s:\n%s", title, dataset_name, lines)


def dataset_metadata(dataset_name: str, needed: Iterable[str]) -> Any:
    """Return a data set's metadata; ValueError if it, or one of its entries, is missing."""
    # Asking Detectron2 for the metadata of an unknown name would create an empty entry.
    if dataset_name not in {*MetadataCatalog.list(), *DatasetCatalog.list()}:
        raise ValueError(
            f"no data set {dataset_name!r} is registered; register it, or correct DATASETS.TEST"
        )
    metadata = MetadataCatalog.get(dataset_name)
    missing = [name for name in needed if metadata.get(name) is None]
    if missing:
        raise ValueError(
            f"the metadata of {dataset_name} lacks {', '.join(missing)}; set it with"
            f" MetadataCatalog.get({dataset_name!r}).set(...)"
        )
    return metadata


def image_name(image: Mapping[str, Any]) -> str:
    """Return the name of an image in messages: its file, or else its id."""
    return str(image.get("file_name", image.get("image_id", "without a name")))


def predicted_labels(output: Any, num_classes: int, name: str, dataset_name: str) -> Any:
    """Return the class of the largest score of each pixel of a ``sem_seg``, an integer array."""
    if output.ndim != 3 or len(output) != num_classes:
        raise ValueError(
            f"the sem_seg of {name} has the shape {tuple(output.shape)}, but {dataset_name} needs"
            f" classes x height x width with {num_classes} classes; does"
            " MODEL.SEM_SEG_HEAD.NUM_CLASSES fit?"
        )
    return output.argmax(dim=0).cpu().numpy()


def check_sizes(
    name: str, prediction: Sequence[int], ground_truth: Sequence[int], path: object
) -> None:
    """Refuse a prediction whose (height, width) is not that of the ground truth in ``path``."""
    if tuple(prediction) != tuple(ground_truth):
        raise ValueError(
            f"the prediction for {name} is {' x '.join(map(str, prediction))} (height x width), but"
            f" the ground truth {path} is {' x '.join(map(str, ground_truth))}; a model's output"
            " must have the image's height and width"
        )


def _without_nan(value: Any) -> Any:
    """Replace nan, which JSON does not know, by None."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value

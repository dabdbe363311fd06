"""Measure the losses of training on images that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from freqfusion.data.loaders import checked_images, dataset_dicts
from freqfusion.data.mapper import SegmentationMapper, build_augmentations
from freqfusion.data.randomness import separate_randomness
from freqfusion.engine.hooks import AfterEvaluation, unchanged

# Modules that in training are random or compare images of a batch, by the names of their classes.
_QUIET = ("BatchNorm", "Dropout", "DropPath", "StochasticDepth", "InstanceNorm")
_SEED = 0


class ValidationLoss(AfterEvaluation):
    """Write ``validation/<loss>``, and their sum ``validation/total_loss``, with each evaluation.

    Args:
        period: Of the evaluation.
        model: The trained model, without a wrapper for several processes.
        build_loader: Makes the images with their targets when they are first needed.
    """

    def __init__(self, period: int, model: nn.Module, build_loader: Callable[[], Any]) -> None:
        super().__init__(period)
        self._model, self._build_loader = model, build_loader
        self._loader: Any = None

    def run(self) -> None:
        """Measure, and hand the means to the storage of the main process."""
        # With random numbers of its own, because a loader draws some too.
        with separate_randomness(_SEED):
            if self._loader is None:
                self._loader = self._build_loader()
            losses = validation_losses(self._model, self._loader)
        for name, value in losses.items():
            self.trainer.storage.put_scalar(f"validation/{name}", value, smoothing_hint=False)


def validation_losses(model: nn.Module, loader: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
    """Return the mean of each loss over the batches of all processes, in the main process.

    Losses are those of a training forward, except that normalizations use their running statistics
    and nothing is dropped. The model stays as it is, and so do the storage of training and its
    random numbers where the caller separates them.
    """
    sums: dict[str, float] = {}
    count = 0
    # The heads of Detectron2 put figures of training into whichever storage is open. Iteration 1,
    # since images are drawn in iterations that a period divides.
    with unchanged(model), EventStorage(1):
        _prepare(model)
        for batch in loader:
            losses = model(batch)
            count += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    parts: list[tuple[dict[str, float], int]] = comm.gather((sums, count))
    if not comm.is_main_process():
        return {}
    return _means(parts)


def build_validation_loader(cfg: CfgNode) -> Any:
    """Return images of all test sets, one in a batch, with targets, at the sizes of a test.

    At most ``TEST.VALIDATION_LOSS.MAX_IMAGES``, spread evenly; each process gets a part of them.
    """
    dicts = spread(dataset_dicts(list(cfg.DATASETS.TEST)), cfg.TEST.VALIDATION_LOSS.MAX_IMAGES)
    return checked_images(cfg, dicts, build_validation_mapper(cfg), "the validation loss")


def build_validation_mapper(cfg: CfgNode) -> Callable[[dict[str, Any]], Any]:
    """Return the mapper of training, with the changes of a test in place of its augmentations."""
    steps = build_augmentations(cfg, is_train=False)
    mapper = DatasetMapper if cfg.MODEL.KEYPOINT_ON else SegmentationMapper
    result: Callable[[dict[str, Any]], Any] = mapper(
        cfg, is_train=True, augmentations=steps, recompute_boxes=False
    )
    return result


def spread(items: list[Any], count: int) -> list[Any]:
    """Return at most ``count`` of the items, at even distances from the first one on."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _prepare(model: nn.Module) -> None:
    """Set modules to training, except for what is random or compares the images of a batch."""
    model.train()
    for module in model.modules():
        if any(word in type(module).__name__ for word in _QUIET):
            module.eval()


def _means(parts: Iterable[tuple[dict[str, float], int]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    count = 0
    for part, number in parts:
        count += number
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    means = {name: value / count for name, value in sums.items()}
    return means | {"total_loss": sum(means.values())} if means else {}

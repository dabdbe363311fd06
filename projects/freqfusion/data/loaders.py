"""Build Detectron2's loaders with images that are checked, and count what is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm

from freqfusion.data.bad_samples import (
    SKIP,
    CheckedSamples,
    CountedBatches,
    Mapper,
    SkippedImages,
    policy_of,
)
from freqfusion.data.mapper import build_mapper
from freqfusion.data.reading import in_words
from freqfusion.data.training_loader import TrainingLoader, seeded, wide_or_high
from freqfusion.data.validation.ground_truth import build_ground_truth_check


def train_loader(cfg: CfgNode) -> CountedBatches:
    """Return endless batches of ``DATASETS.TRAIN``, augmented as ``INPUT`` says.

    Images come in the order of ``DATALOADER.SAMPLER_TRAIN``; with
    ``DATALOADER.ASPECT_RATIO_GROUPING`` a batch has either wide or high ones. All processes call
    this together.
    """
    mapper = build_mapper(cfg, is_train=True)
    with_names = ", ".join(cfg.DATASETS.TRAIN)
    made = _explained(
        with_names, lambda: build_detection_train_loader.from_config(cfg, mapper=mapper)
    )
    dicts, node, policy = made["dataset"], cfg.DATALOADER, policy_of(cfg)
    entries = DatasetFromList(dicts, copy=False) if isinstance(dicts, list) else dicts
    batches = TrainingLoader(
        CheckedSamples(entries, mapper, policy, replace=True),
        seeded(made["sampler"]),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        groups=wide_or_high(dicts) if node.ASPECT_RATIO_GROUPING else None,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        num_workers=node.NUM_WORKERS,
    )
    return CountedBatches(batches, SkippedImages(f"training on {with_names}", len(entries), policy))


def evaluation_loader(cfg: CfgNode, name: str) -> CountedBatches:
    """Return the images of a data set, one in a batch, prepared as in a test."""
    arguments = _explained(name, lambda: build_detection_test_loader.from_config(cfg, name))
    mapper = build_mapper(cfg, is_train=False)
    # An evaluator refuses wrong ground truth; to leave the image out is decided before.
    check = build_ground_truth_check(name) if cfg.DATALOADER.BAD_SAMPLES == SKIP else None
    return checked_images(cfg, arguments["dataset"], mapper, name, check)


def checked_images(
    cfg: CfgNode,
    dicts: Any,
    mapper: Mapper,
    name: str,
    check_gt: Callable[[Mapping[str, Any]], None] | None = None,
) -> CountedBatches:
    """Return images of any dicts, one in a batch; each process gets a part of them."""
    policy = policy_of(cfg)
    entries = DatasetFromList(dicts, copy=False) if isinstance(dicts, list) else dicts
    samples = CheckedSamples(entries, mapper, policy, replace=False, check_gt=check_gt)
    batches = build_detection_test_loader(
        samples, mapper=None, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return CountedBatches(batches, SkippedImages(name, len(entries), policy))


def dataset_dicts(names: list[str]) -> list[dict[str, Any]]:
    """Return all dicts of data sets as ``get_detection_dataset_dicts`` does."""
    dicts: list[dict[str, Any]] = _explained(
        ", ".join(names), lambda: get_detection_dataset_dicts(names, filter_empty=False)
    )
    return dicts


def _explained(names: str, load: Callable[[], Any]) -> Any:
    """Return what ``load`` returns; explain what Detectron2 and pycocotools only assert."""
    try:
        return load()
    except (KeyError, AssertionError, TypeError, IndexError, OverflowError, ValueError) as error:
        kind = "" if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__} "
        raise ValueError(
            f"the annotations of {names} cannot be used: {kind}{in_words(error)};"
            f" python -m freqfusion.tools.check_dataset {names.replace(',', '')} says where"
        ) from error

"""Rules between the keys that describe images, tests and the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from detectron2.config import CfgNode

from freqfusion.config_check.names import listed

AMP_DTYPES = ("float16", "bfloat16")
BAD_SAMPLES = ("refuse", "skip")
NON_FINITE = ("stop", "skip")


def input_rules(cfg: CfgNode) -> Iterator[str]:
    """Sizes, crops and flips of images."""
    node, crop = cfg.INPUT, cfg.INPUT.CROP
    for key, value, allowed in (
        ("MASK_FORMAT", node.MASK_FORMAT, ("polygon", "bitmask")),
        ("RANDOM_FLIP", node.RANDOM_FLIP, ("horizontal", "vertical", "none")),
        ("MIN_SIZE_TRAIN_SAMPLING", node.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range")),
        ("CROP.TYPE", crop.TYPE, ("relative", "relative_range", "absolute", "absolute_range")),
    ):
        if value not in allowed:
            yield f"INPUT.{key} must be one of {listed(allowed)}; got {value!r}"
    used = [("TEST", (node.MIN_SIZE_TEST,))]
    if not node.SCALE_JITTER.ENABLED:
        used.insert(0, ("TRAIN", node.MIN_SIZE_TRAIN))
    for when, sizes in used:
        largest = node[f"MAX_SIZE_{when}"]
        if not sizes or max(sizes) > largest:
            yield (
                f"INPUT.MIN_SIZE_{when} {listed(sizes) or 'is empty and'} must not exceed"
                f" INPUT.MAX_SIZE_{when} {largest}: the first is for the shorter side of an image,"
                " the second limits the longer one"
            )
    if node.MIN_SIZE_TRAIN_SAMPLING == "range" and len(node.MIN_SIZE_TRAIN) != 2:
        yield (
            "INPUT.MIN_SIZE_TRAIN_SAMPLING range needs two numbers in INPUT.MIN_SIZE_TRAIN, the"
            f" smallest and the largest; got {listed(node.MIN_SIZE_TRAIN)}"
        )
    if crop.ENABLED and crop.TYPE.startswith("relative") and not _all_fractions(crop.SIZE):
        yield (
            f"INPUT.CROP.SIZE {listed(crop.SIZE)} must be fractions of the image, above 0 and at"
            f" most 1, for INPUT.CROP.TYPE {crop.TYPE}; pixels are for absolute"
        )
    if crop.ENABLED and crop.TYPE.startswith("absolute") and not _all_pixels(crop.SIZE):
        yield (
            f"INPUT.CROP.SIZE {listed(crop.SIZE)} must be whole pixels for INPUT.CROP.TYPE"
            f" {crop.TYPE}; fractions of the image are for relative_range"
        )


def _all_fractions(sizes: Iterable[float]) -> bool:
    return all(0 < size <= 1 for size in sizes)


def _all_pixels(sizes: Iterable[float]) -> bool:
    return all(isinstance(size, int) and size >= 1 for size in sizes)


def loader_rules(cfg: CfgNode) -> Iterator[str]:
    """What happens to images that cannot be used."""
    node = cfg.DATALOADER
    if node.BAD_SAMPLES not in BAD_SAMPLES:
        yield (
            f"DATALOADER.BAD_SAMPLES must be one of {listed(BAD_SAMPLES)}; got {node.BAD_SAMPLES!r}"
        )
    most = node.MAX_BAD_SAMPLES
    if not (0 <= most < 1 or most == int(most) >= 1):
        yield (
            "DATALOADER.MAX_BAD_SAMPLES must be a share of the images from 0 to below 1, or a whole"
            f" number of images such as 10.0; got {most}"
        )


def test_rules(cfg: CfgNode) -> Iterator[str]:
    """What is done with each evaluation."""
    node = cfg.TEST
    if node.SAMPLE_PREDICTIONS < 0:
        yield f"TEST.SAMPLE_PREDICTIONS must be 0 (none) or more; got {node.SAMPLE_PREDICTIONS}"
    if node.BEST_CHECKPOINT and "/" not in node.BEST_CHECKPOINT:
        yield (
            f"TEST.BEST_CHECKPOINT {node.BEST_CHECKPOINT} must be a task and its score, such as"
            " panoptic_seg/PQ, segm/AP or sem_seg/mIoU"
        )
    loss = node.VALIDATION_LOSS
    if loss.ENABLED and loss.MAX_IMAGES < 1:
        yield f"TEST.VALIDATION_LOSS.MAX_IMAGES must be at least 1; got {loss.MAX_IMAGES}"
    for key, wanted in (
        ("BEST_CHECKPOINT", node.BEST_CHECKPOINT),
        ("VALIDATION_LOSS.ENABLED", loss.ENABLED),
    ):
        if wanted and not cfg.DATASETS.TEST:
            yield f"TEST.{key} needs a data set to evaluate: name one in DATASETS.TEST"


def solver_rules(cfg: CfgNode) -> Iterator[str]:
    """Precision and schedule."""
    node = cfg.SOLVER
    if node.AMP.DTYPE not in AMP_DTYPES:
        yield f"SOLVER.AMP.DTYPE must be one of {listed(AMP_DTYPES)}; got {node.AMP.DTYPE!r}"
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if node.AMP.ENABLED and node.AMP.DTYPE == "float16" and not on_gpu:
        yield (
            f"SOLVER.AMP in float16 needs a GPU, but MODEL.DEVICE is {cfg.MODEL.DEVICE}: set"
            " SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False"
        )
    if sorted(node.STEPS) != list(node.STEPS):
        yield f"SOLVER.STEPS must grow: write {listed(sorted(node.STEPS))}"
    for name, none in (("MINUTES", "not by time"), ("KEEP_LAST", "all of them")):
        if node.CHECKPOINT[name] < 0:
            yield (
                f"SOLVER.CHECKPOINT.{name} must be 0 ({none}) or more; got {node.CHECKPOINT[name]}"
            )
    for name in ("BASE_LR", "WEIGHT_DECAY"):
        if not 0 <= node[name] < math.inf:
            yield f"SOLVER.{name} must be a finite number from 0 on; got {node[name]}"
    for name in ("MAX_ITER", "CHECKPOINT_PERIOD"):
        if node[name] < 1:
            yield f"SOLVER.{name} must be at least 1; got {node[name]}"


def health_rules(cfg: CfgNode) -> Iterator[str]:
    """Averages, the scale of the learning rate, and steps that go wrong."""
    node = cfg.SOLVER
    if not 0 < node.EMA.DECAY < 1:
        yield f"SOLVER.EMA.DECAY must be above 0 and below 1; got {node.EMA.DECAY}"
    if node.REFERENCE_BATCH < 0:
        yield f"SOLVER.REFERENCE_BATCH must be 0 (off) or more; got {node.REFERENCE_BATCH}"
    if node.REFERENCE_BATCH and node.REFERENCE_WORLD_SIZE:
        yield (
            "SOLVER.REFERENCE_BATCH and SOLVER.REFERENCE_WORLD_SIZE both scale the learning rate:"
            " set one of them to 0"
        )
    if node.NON_FINITE not in NON_FINITE:
        yield f"SOLVER.NON_FINITE must be one of {listed(NON_FINITE)}; got {node.NON_FINITE!r}"
    if node.NON_FINITE_PATIENCE < 1:
        yield f"SOLVER.NON_FINITE_PATIENCE must be at least 1; got {node.NON_FINITE_PATIENCE}"


def batch_rules(cfg: CfgNode, world_size: int) -> Iterator[str]:
    """The batch can be shared evenly."""
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    # Detectron2 scales a batch that is meant for another number of processes.
    count, key = (reference, "SOLVER.REFERENCE_WORLD_SIZE") if reference else (world_size, "")
    if batch < 1:
        yield f"SOLVER.IMS_PER_BATCH must be at least 1; got {batch}"
    elif batch % count:
        whose = f"{key} {count}" if key else f"the {count} processes"
        lower = batch - batch % count
        near = f"{lower} or {lower + count}" if lower else str(count)
        yield (
            f"SOLVER.IMS_PER_BATCH {batch} is the number of images of all processes together and"
            f" must be a multiple of {whose}: take {near}"
        )
    elif not 1 <= cfg.SOLVER.ACCUMULATE_STEPS <= batch // count:
        yield (
            f"SOLVER.ACCUMULATE_STEPS splits the {batch // count} images that each process has of a"
            f" batch, so it must be from 1 to {batch // count}; got {cfg.SOLVER.ACCUMULATE_STEPS}"
        )


def schedule_warnings(cfg: CfgNode) -> Iterator[str]:
    """Steps, crops and evaluations that never come to bear."""
    node, crop = cfg.SOLVER, cfg.INPUT.CROP
    late = [step for step in node.STEPS if step >= node.MAX_ITER]
    if late and node.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield (
            f"SOLVER.STEPS {listed(late)} come after the last iteration (SOLVER.MAX_ITER"
            f" {node.MAX_ITER}): the learning rate will not fall there"
        )
    if node.WARMUP_ITERS >= node.MAX_ITER:
        yield (
            f"SOLVER.WARMUP_ITERS {node.WARMUP_ITERS} lasts until the end (SOLVER.MAX_ITER"
            f" {node.MAX_ITER}): the learning rate will never be SOLVER.BASE_LR"
        )
    if crop.ENABLED and crop.TYPE == "absolute" and max(crop.SIZE) > cfg.INPUT.MAX_SIZE_TRAIN:
        yield (
            f"INPUT.CROP.SIZE {listed(crop.SIZE)} is larger than any image of training"
            f" (INPUT.MAX_SIZE_TRAIN {cfg.INPUT.MAX_SIZE_TRAIN})"
        )
    if cfg.TEST.BEST_CHECKPOINT and not 0 < cfg.TEST.EVAL_PERIOD < node.MAX_ITER:
        yield (
            "TEST.BEST_CHECKPOINT compares evaluations, but TEST.EVAL_PERIOD"
            f" {cfg.TEST.EVAL_PERIOD} evaluates at the end only"
        )

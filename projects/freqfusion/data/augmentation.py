"""The changes of size, place and colour that ``INPUT`` describes."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

from freqfusion.data.color import ColorJitter


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Crop, resize, jitter and flip, in their order; only a resize where nothing is trained.

    With this project's keys at their defaults they are Detectron2's own, drawn in the same order.
    """
    if not is_train:
        return list(build_augmentation(cfg, is_train=False))
    node = cfg.INPUT
    if node.SCALE_JITTER.ENABLED:
        steps = _scale_jitter(cfg)
    else:
        steps = [T.ResizeShortestEdge(*_train_sizes(cfg))]
        if node.CROP.ENABLED:
            steps.insert(len(steps) if node.CROP.AFTER_RESIZE else 0, _crop(cfg))
    if node.COLOR_JITTER.ENABLED:
        steps.append(_color_jitter(cfg))
    if node.RANDOM_FLIP not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be none, horizontal or vertical; got {node.RANDOM_FLIP!r}"
        )
    if node.RANDOM_FLIP != "none":
        horizontal = node.RANDOM_FLIP == "horizontal"
        steps.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return steps


def _train_sizes(cfg: CfgNode) -> tuple[tuple[int, ...], int, str]:
    node = cfg.INPUT
    return node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING


def _scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Any scale of a range, then a window of one size, filled up where the image is smaller."""
    node = cfg.INPUT.SCALE_JITTER
    height, width = node.SIZE
    scale = T.ResizeScale(node.MIN_SCALE, node.MAX_SCALE, height, width)
    return [scale, T.FixedSizeCrop((height, width), seg_pad_value=_ignored(cfg))]


def _crop(cfg: CfgNode) -> T.Augmentation:
    node = cfg.INPUT.CROP
    return T.RandomCrop_CategoryAreaConstraint(
        node.TYPE, node.SIZE, node.SINGLE_CATEGORY_MAX_AREA, _ignored(cfg)
    )


def _color_jitter(cfg: CfgNode) -> ColorJitter:
    node = cfg.INPUT.COLOR_JITTER
    return ColorJitter(
        brightness=node.BRIGHTNESS,
        contrast=node.CONTRAST,
        saturation=node.SATURATION,
        hue=node.HUE,
        image_format=cfg.INPUT.FORMAT,
    )


def _ignored(cfg: CfgNode) -> int:
    return int(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)

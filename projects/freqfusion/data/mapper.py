"""Map the dict of an image to what a model is trained on."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from numpy.typing import NDArray

from freqfusion.data.bad_samples import NOTES
from freqfusion.data.reading import read_image
from freqfusion.data.validation.classes import counts_labels
from freqfusion.data.validation.ground_truth import (
    LabelRange,
    read_labels,
    read_segments,
)
from freqfusion.metrics.id_codec import rgb_to_id

ImageArray = NDArray[np.uint8]


class ColorJitter(T.Augmentation):
    """Brightness, contrast, saturation and hue, each changed in half of the images.

    Args:
        brightness: Largest shift, in steps of 0..255.
        contrast: Largest relative change of the distance to black.
        saturation: Largest relative change.
        hue: Largest turn, in degrees.
        image_format: "RGB" or "BGR", the order of the channels.
    """

    def __init__(
        self,
        *,
        brightness: float = 32,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 18,
        image_format: str = "BGR",
    ) -> None:
        super().__init__()
        if image_format not in _TO_HSV:
            raise ValueError(f"colors can be changed in RGB and BGR images; got {image_format!r}")
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue, self.image_format = saturation, hue, image_format

    def get_transform(self, image: ImageArray) -> T.Transform:
        """Draw one change."""

        def drawn(largest: float) -> float:
            amount, chosen = np.random.uniform(-largest, largest), np.random.random() < 0.5
            return float(amount) if chosen else 0.0

        shift, gain = drawn(self.brightness), 1 + drawn(self.contrast)
        saturation, hue = 1 + drawn(self.saturation), drawn(self.hue)

        def change(pixels: ImageArray) -> ImageArray:
            lit = _clipped(pixels.astype(np.float32) * gain + shift)
            return _change_hsv(lit, saturation, hue, self.image_format)

        return T.ColorTransform(change)


_TO_HSV = {"RGB": cv2.COLOR_RGB2HSV, "BGR": cv2.COLOR_BGR2HSV}
_FROM_HSV = {"RGB": cv2.COLOR_HSV2RGB, "BGR": cv2.COLOR_HSV2BGR}


def _change_hsv(pixels: ImageArray, saturation: float, hue: float, order: str) -> ImageArray:
    if saturation == 1 and hue == 0:
        return pixels
    hsv: NDArray[Any] = cv2.cvtColor(pixels, _TO_HSV[order]).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue / 2) % 180  # OpenCV keeps half degrees in a byte
    hsv[..., 1] *= saturation
    return np.asarray(cv2.cvtColor(_clipped(hsv), _FROM_HSV[order]))


def _clipped(values: NDArray[Any]) -> ImageArray:
    pixels: ImageArray = np.clip(values, 0, 255).astype(np.uint8)
    return pixels


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Return crop, resize, jitter and flip, in their order; only a resize outside of training.

    With this project's keys at their defaults they are Detectron2's own, drawn in the same order.
    """
    if not is_train:
        return list(build_augmentation(cfg, is_train=False))
    node, ignored = cfg.INPUT, int(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    jitter, crop, color = node.SCALE_JITTER, node.CROP, node.COLOR_JITTER
    if jitter.ENABLED:
        # Any scale of a range, then a window of one size, padded if the image is smaller.
        height, width = jitter.SIZE
        steps: list[T.Augmentation] = [
            T.ResizeScale(jitter.MIN_SCALE, jitter.MAX_SCALE, height, width),
            T.FixedSizeCrop((height, width), seg_pad_value=ignored),
        ]
    else:
        sizes = node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING
        steps = [T.ResizeShortestEdge(*sizes)]
        if crop.ENABLED:
            window = T.RandomCrop_CategoryAreaConstraint(
                crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored
            )
            steps.insert(len(steps) if crop.AFTER_RESIZE else 0, window)
    if color.ENABLED:
        steps.append(
            ColorJitter(
                brightness=color.BRIGHTNESS,
                contrast=color.CONTRAST,
                saturation=color.SATURATION,
                hue=color.HUE,
                image_format=node.FORMAT,
            )
        )
    if node.RANDOM_FLIP not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be none, horizontal or vertical; got {node.RANDOM_FLIP!r}"
        )
    if node.RANDOM_FLIP != "none":
        horizontal = node.RANDOM_FLIP == "horizontal"
        steps.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return steps


logger = logging.getLogger(__name__)

TARGETS = ("instances", "semantic", "panoptic")
_FILES = ("sem_seg_file_name", "pan_seg_file_name", "segments_info", "annotations")


class SegmentationMapper:
    """Read an image with its ground truth, augment both, and return tensors.

    ``image`` is (channels, height, width), uint8. The targets, where a dict has them:

    * ``instances``: ``annotations`` as Detectron2's ``Instances`` (boxes, classes, masks);
    * ``semantic``: ``sem_seg``, (height, width), int64;
    * ``panoptic``: ``pan_seg``, ids (height, width), int64, and ``segments_info`` of the segments
      that the augmented image still shows.

    Outside of training the image is resized only, and the dict keeps its file names.

    Args:
        is_train: Augment, and add the targets.
        augmentations: Changes of the image, in their order.
        image_format: "RGB" or "BGR".
        targets: Which of the three to add.
        use_masks: Instances have masks.
        mask_format: "polygon" or "bitmask"; an image with run-length masks has bitmasks.
        recompute_boxes: Boxes are those of the masks after the augmentation, not the cut ones.
        num_labels: Number of classes of label maps; None leaves their labels unchecked.
        ignore_label: The label that is no class and is not learned.

    An image or ground truth that cannot be used is a ValueError that names the file. What is left
    out of one that can be used is in ``bad_samples.NOTES`` of the result, if there is anything.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        targets: Sequence[str] = ("instances", "semantic"),
        use_masks: bool = True,
        mask_format: str = "polygon",
        recompute_boxes: bool = False,
        num_labels: int | None = None,
        ignore_label: int = 255,
    ) -> None:
        unknown = sorted(set(targets) - set(TARGETS))
        if unknown:
            raise ValueError(
                f"INPUT.TARGETS may name {', '.join(TARGETS)}; got {', '.join(unknown)}"
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.targets = frozenset(targets)
        self.use_masks, self.mask_format = use_masks, mask_format
        self.recompute_boxes = recompute_boxes
        self.num_labels, self.ignore_label = num_labels, ignore_label
        mode = "training" if is_train else "inference"
        logger.info("augmentations in %s: %s", mode, self.augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments from ``INPUT`` and ``MODEL.MASK_ON``."""
        cropped = cfg.INPUT.CROP.ENABLED or cfg.INPUT.SCALE_JITTER.ENABLED
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "targets": cfg.INPUT.TARGETS,
            "use_masks": cfg.MODEL.MASK_ON,
            "mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": is_train and cropped and cfg.MODEL.MASK_ON,
            "num_labels": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if counts_labels(cfg) else None,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the dict with ``image`` and, in training, targets; the argument stays as it is."""
        result = copy.deepcopy(dict(dataset_dict))
        image, note = read_image(result["file_name"], self.image_format)
        check_image_size(result, image.shape)
        notes = [note] if note else []
        labels = self._labels(result) if self.is_train else None
        augmented = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(augmented)
        image = augmented.image
        result["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            result.pop("annotations", None)
            return result | ({NOTES: tuple(notes)} if notes else {})
        if labels is not None:
            result["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        if "panoptic" in self.targets and "pan_seg_file_name" in result:
            target, note = panoptic_target(result, transforms)
            result |= target
            notes += [note] if note else []
        if "instances" in self.targets and "annotations" in result:
            result["instances"] = self._instances(result["annotations"], transforms, image.shape)
        for name in _FILES:
            if name != "segments_info" or "pan_seg" not in result:
                result.pop(name, None)
        return result | ({NOTES: tuple(notes)} if notes else {})

    def _labels(self, dataset_dict: Mapping[str, Any]) -> NDArray[Any] | None:
        if "semantic" not in self.targets or "sem_seg_file_name" not in dataset_dict:
            return None
        path = str(dataset_dict["sem_seg_file_name"])
        allowed = self.num_labels and LabelRange(self.num_labels, self.ignore_label)
        size = dataset_dict["height"], dataset_dict["width"]
        labels = read_labels(path, size, allowed or None)
        if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
            raise ValueError(
                f"{path} has labels {labels.min()}..{labels.max()}; training accepts 0..255"
            )
        return labels.astype(np.uint8)  # bytes, as the transforms expect

    def _instances(
        self,
        annotations: Iterable[dict[str, Any]],
        transforms: T.TransformList,
        shape: Sequence[int],
    ) -> Any:
        """Return the instances, without crowds, that the augmented image still shows."""
        size = tuple(shape[:2])
        kept = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        for annotation in kept:
            if not self.use_masks:
                annotation.pop("segmentation", None)
            annotation.pop("keypoints", None)
        moved = [utils.transform_instance_annotations(a, transforms, size) for a in kept]
        # A run-length mask is an array by now, which cannot become polygons.
        has_pixels = any(isinstance(one.get("segmentation"), np.ndarray) for one in moved)
        form = "bitmask" if has_pixels else self.mask_format
        instances = utils.annotations_to_instances(moved, size, mask_format=form)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)


def build_mapper(cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], Any]:
    """Return ``SegmentationMapper``, or Detectron2's own for keypoints and proposals."""
    detectron2s = cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS
    kind = DatasetMapper if detectron2s else SegmentationMapper
    mapper: Callable[[dict[str, Any]], Any] = kind(cfg, is_train=is_train)
    return mapper


def panoptic_target(
    dataset_dict: Mapping[str, Any], transforms: T.TransformList
) -> tuple[dict[str, Any], str | None]:
    """Return ``pan_seg`` with its ``segments_info``, and a note on segments without pixels.

    ValueError where the PNG and ``segments_info`` do not belong together, or to the image.
    """
    path = str(dataset_dict["pan_seg_file_name"])
    if "segments_info" not in dataset_dict:
        raise ValueError(f"{path} comes without segments_info")
    size = dataset_dict["height"], dataset_dict["width"]
    colors, absent = read_segments(path, size, dataset_dict["segments_info"])
    # As colors, because the transforms move bytes and would round larger numbers.
    ids = rgb_to_id(transforms.apply_segmentation(np.ascontiguousarray(colors)))
    shown = set(np.unique(ids).tolist())
    target = {
        "pan_seg": torch.as_tensor(ids.astype(np.int64)),
        "segments_info": [info for info in dataset_dict["segments_info"] if info["id"] in shown],
    }
    return target, f"{path} {absent[0].found}" if absent else None


def check_image_size(dataset_dict: dict[str, Any], shape: Sequence[int]) -> None:
    """Refuse an image of another size than its dict's, which is set if it is missing."""
    height, width = shape[:2]
    given = dataset_dict.setdefault("height", height), dataset_dict.setdefault("width", width)
    if given == (height, width):
        return
    turned = ", as it would be without its EXIF orientation" if given == (width, height) else ""
    raise ValueError(
        f"{dataset_dict['file_name']} is {height} x {width} (height x width), but its annotation"
        f" says {given[0]} x {given[1]}{turned}"
    )

"""The truth of an image that is to be evaluated, read before it is: all evaluators or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from freqfusion.data.coco import read_json
from freqfusion.data.reading import read_label_png, read_panoptic_png


class TruthCheck:
    """ValueError for an image whose label map or panoptic truth no evaluator would take.

    Args:
        num_labels: Number of classes of label maps; None leaves labels unchecked.
        ignore_label: The label beside them that does not count.
        segments: Panoptic picture and ``segments_info`` of each image id.
    """

    def __init__(
        self,
        num_labels: int | None,
        ignore_label: int | None,
        segments: Mapping[Any, tuple[str, Sequence[Mapping[str, Any]]]],
    ) -> None:
        self.num_labels, self.ignore_label, self.segments = num_labels, ignore_label, segments

    def __call__(self, image: Mapping[str, Any]) -> None:
        """Look at the truth of one image; its dict has its height and width."""
        size = image["height"], image["width"]
        if "sem_seg_file_name" in image:
            path = str(image["sem_seg_file_name"])
            labels = read_label_png(path)
            check_size(path, labels, size)
            if self.num_labels is not None:
                check_labels(path, labels, self.num_labels, self.ignore_label)
        if image.get("image_id") in self.segments:
            path, segments = self.segments[image["image_id"]]
            ids = read_panoptic_png(path)
            check_size(path, ids, size)
            absent = check_segments(path, ids, segments)
            if absent:
                raise ValueError(f"{path} has no pixel of the segment {absent[0]}")


def truth_check(name: str) -> Callable[[Mapping[str, Any]], None]:
    """The check of a registered data set, by its metadata."""
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("stuff_classes")
    segments = {}
    if metadata.get("panoptic_json") and metadata.get("panoptic_root"):
        segments = {
            entry["image_id"]: (
                str(Path(metadata.panoptic_root) / entry["file_name"]),
                entry["segments_info"],
            )
            for entry in read_json(metadata.panoptic_json)["annotations"]
        }
    count = None if classes is None else len(classes)
    return TruthCheck(count, metadata.get("ignore_label"), segments)


def check_size(path: str, labels: NDArray[Any], size: Sequence[int]) -> None:
    """ValueError unless the truth has the height and width of its image."""
    if labels.shape[:2] != tuple(size):
        raise ValueError(
            f"{path} is {labels.shape[0]} x {labels.shape[1]} (height x width), but its image is"
            f" {size[0]} x {size[1]}"
        )


def check_labels(path: str, labels: NDArray[Any], count: int, ignored: int | None) -> None:
    """ValueError for a label that is no class and is not ignored."""
    found = np.unique(labels)
    wrong = found[
        ((found < 0) | (found >= count)) & (found != (-1 if ignored is None else ignored))
    ]
    if wrong.size:
        void = "" if ignored is None else f" and {ignored} (ignored)"
        raise ValueError(
            f"{path} has the label {wrong[0]}; allowed are 0..{count - 1}{void}: map its labels,"
            " or correct MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )


def check_segments(
    path: str, ids: NDArray[Any], segments: Sequence[Mapping[str, Any]]
) -> list[int]:
    """The segments without a pixel; ValueError for pixels without a segment, and ids twice."""
    known = [int(segment["id"]) for segment in segments]
    twice = sorted({number for number in known if known.count(number) > 1})
    if twice:
        raise ValueError(f"segments_info of {path} has the id {twice[0]} twice")
    found = set(np.unique(ids).tolist())
    unknown = sorted(found - set(known) - {0})
    if unknown:
        raise ValueError(f"{path} has the id {unknown[0]}, which segments_info lacks")
    return [number for number in known if number not in found]

"""Check images and their ground truth: what mapper, evaluation and ``check_dataset`` share.

A function ``check_*`` raises ``DatasetIssueError`` for an image that cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.reading import (
    DEEP_MODES,
    LABEL_MODES,
    PANOPTIC_MODES,
    ImageFile,
    check_file,
    check_mode,
    read_label_png,
    read_panoptic_colors,
)
from freqfusion.data.validation.annotations import Size, annotation_issues
from freqfusion.data.validation.issues import (
    DatasetIssue,
    DatasetIssueError,
    collect,
    error,
    format_size,
    note,
    repeated,
    unusable,
)
from freqfusion.messages import shorten
from freqfusion.metrics.id_codec import rgb_to_id

SEGMENT_BOX_SLACK = 1
ABSENT_SEGMENT = "id that is not in the PNG"
# Converted to RGB without loss of what the image shows.
_PLAIN_MODES = ("RGB", "L")


def image_mode_issues(image: ImageFile) -> list[DatasetIssue]:
    """Return what an image's mode means for reading it as RGB."""
    kind, found = "image of a wrong mode", f"has the mode {image.mode}"
    if image.mode in _PLAIN_MODES:
        return []
    if image.mode in DEEP_MODES:
        found += ", which is cut off at 255 when it is read as RGB"
        return [error(kind, image.path, found, "8 bit RGB or grey")]
    return [note(kind, image.path, f"{found} and will be converted", "8 bit RGB or grey")]


def check_size(file: object, size: Sequence[int], other: Sequence[int] | None, owner: str) -> None:
    """Refuse a ``file`` whose ``size`` is not that of ``owner``; None is unknown and fits."""
    if other is not None and tuple(size) != tuple(other):
        expected = f"{format_size((other[0], other[1]))} as {owner}"
        raise unusable("size mismatch", file, f"is {format_size((size[0], size[1]))}", expected)


@dataclass(frozen=True, slots=True)
class LabelRange:
    """Labels that are allowed: 0..``count`` - 1 and ``ignored``."""

    count: int
    ignored: int | None

    def __str__(self) -> str:
        also = "" if self.ignored is None else f", or {self.ignored} (ignored)"
        return f"0..{self.count - 1}{also}"


def label_range(metadata: Mapping[str, Any]) -> LabelRange | None:
    """Return what the metadata allows; None if it names no classes."""
    classes = metadata.get("stuff_classes")
    return None if classes is None else LabelRange(len(classes), metadata.get("ignore_label"))


def labels_in(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the labels that occur, in order."""
    if pixels.dtype == np.uint8:
        return np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    return np.unique(pixels).astype(np.int64)


def check_labels(path: str, pixels: NDArray[Any], allowed: LabelRange | None) -> None:
    """Refuse a map with other labels than those allowed; None allows any."""
    if allowed is None:
        return
    found = labels_in(pixels).tolist()
    wrong = [n for n in found if not 0 <= n < allowed.count and n != allowed.ignored]
    if wrong:
        counts = shorten(f"{n} ({int((pixels == n).sum())} pixels)" for n in wrong)
        raise unusable("label outside of the range", path, f"has the label {counts}", str(allowed))


def number_segments(
    ids: NDArray[np.int32], known: Sequence[int]
) -> tuple[NDArray[np.int32], list[int]]:
    """Return each pixel's position 1.. in ``known``, 0 for others, and the others but void (0)."""
    if not known:
        return np.zeros_like(ids), [value for value in np.unique(ids).tolist() if value]
    order = np.array(known, dtype=np.int32)
    position = np.minimum(np.searchsorted(order, ids), len(known) - 1)
    fits = order[position] == ids
    others = [value for value in np.unique(ids[~fits]).tolist() if value]
    return np.where(fits, position + 1, 0).astype(np.int32), others


def labels_of_segments(
    path: object, ids: NDArray[np.int32], label_of_id: Mapping[int, int], void: int
) -> NDArray[np.integer[Any]]:
    """Return each pixel's label by the id of its segment; refuse an id that has no label."""
    known = sorted(label_of_id)
    numbers, unknown = number_segments(ids, known)
    if unknown:
        found = f"has the ids {shorten(unknown)}, which no segment of its annotation has"
        raise unusable("id that is not in the JSON", path, found, "an entry of segments_info each")
    return np.array([void, *(label_of_id[number] for number in known)])[numbers]


def segment_issues(
    ids: NDArray[np.int32], segments: Sequence[Mapping[str, Any]], path: str, file: str
) -> list[DatasetIssue]:
    """Return which ids a map (0 void) and the segments that ``file`` names have only one of."""
    known = sorted({int(segment["id"]) for segment in segments} - {0})
    numbers, unknown = number_segments(ids, known)
    issues = []
    if unknown:
        found = f"has the ids {shorten(unknown)}, which {file} does not tell of"
        expected = "an entry of segments_info for each"
        issues.append(error("id that is not in the JSON", path, found, expected))
    counts = np.bincount(numbers.ravel(), minlength=len(known) + 1)
    present = {number for number, count in zip(known, counts[1:], strict=True) if count}
    for segment in segments:
        if segment["id"] not in present:
            found = f"has no pixel of the segment {segment['id']}"
            issues.append(error(ABSENT_SEGMENT, path, found, f"some, since {file} tells of it"))
    return issues


def read_labels(
    path: str, size: Sequence[int], allowed: LabelRange | None
) -> NDArray[np.integer[Any]]:
    """Return the labels of a PNG; refuse another size than its image's, and other labels."""
    labels = read_label_png(path)
    check_size(path, labels.shape[:2], size, "its image")
    check_labels(path, labels, allowed)
    return labels


def read_segments(
    path: str, size: Sequence[int], segments: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.uint8], list[DatasetIssue]]:
    """Return the colors of a panoptic PNG, and issues on segments without a pixel.

    A PNG of another size than its image, or with other ids than those of the segments, is refused.
    """
    colors = read_panoptic_colors(path)
    check_size(path, colors.shape[:2], size, "its image")
    issues = repeated(path, "segment id", [int(segment["id"]) for segment in segments])
    issues += segment_issues(rgb_to_id(colors), segments, path, "segments_info")
    for issue in issues:
        if issue.kind != ABSENT_SEGMENT:
            raise DatasetIssueError(issue)
    return colors, issues


class CheckedMap(NamedTuple):
    """The classes that occur, and the ids or labels of all pixels, None where there are none."""

    seen: Iterable[int] = ()
    pixels: NDArray[np.integer[Any]] | None = None


class GroundTruth(Protocol):
    """The ground truth of one image; picklable, since it is checked in another process."""

    def check(self, image: ImageFile | None, issues: list[DatasetIssue]) -> CheckedMap:
        """Append issues (the image is None if unreadable) and return what was read."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceGroundTruth:
    """The annotations of one image; ``size`` is what the JSON says of the image."""

    file: str
    size: Size | None
    annotations: tuple[dict[str, Any], ...]

    def check(self, image: ImageFile | None, issues: list[DatasetIssue]) -> CheckedMap:
        """Compare boxes, areas and masks with one another and with the image."""
        if image is not None and self.size is None:
            found = f"the image entry of {image.path} has no width and height"
            issues.append(error("malformed entry", self.file, found, "whole numbers of pixels"))
        elif image is not None:
            with collect(issues):
                check_size(image.path, image.size, self.size, f"{self.file} says")
        # What the JSON says comes first, so that a wrong image is not reported for each box too.
        size = self.size or (image.size if image else None)
        for annotation in self.annotations:
            issues += annotation_issues(annotation, size, self.file)
        return CheckedMap()


@dataclass(frozen=True, slots=True)
class PanopticGroundTruth:
    """One panoptic PNG with its annotation; ``size`` is what the JSON says of the image.

    ``things`` are the categories of things.
    """

    file: str
    path: str
    size: Size | None
    annotation: dict[str, Any]
    things: frozenset[int] = frozenset()

    def check(self, image: ImageFile | None, issues: list[DatasetIssue]) -> CheckedMap:
        """Compare ids, areas and boxes of the PNG with the JSON, and its size with the image."""
        ids = None
        with collect(issues):
            png = check_file(self.path, self.file, PANOPTIC_MODES)
            check_mode(png, PANOPTIC_MODES, "ids as 8 bit colors")
            ids = rgb_to_id(png.pixels)
            check_size(self.path, png.size, self.size, f"{self.file} says")
            if image is not None:
                check_size(self.path, png.size, image.size, f"its image {image.path}")
            issues += segment_issues(ids, self.annotation["segments_info"], self.path, self.file)
            issues += self._extent_issues(ids)
        return CheckedMap(pixels=ids)

    def _extent_issues(self, ids: NDArray[np.int32]) -> Iterator[DatasetIssue]:
        """Yield an error for each area and box that is not that of the pixels."""
        from freqfusion.data.synthetic.masks import areas_and_boxes

        segments = self.annotation["segments_info"]
        known = sorted({segment["id"] for segment in segments} - {0})
        numbers, _ = number_segments(ids, known)
        areas, boxes = areas_and_boxes(numbers, len(known))
        measured = dict(zip(known, zip(areas, boxes, strict=True), strict=True))
        for segment in segments:
            area, box = measured.get(segment["id"], (0, None))
            if not area or box is None:
                continue
            who, values = f"segment {segment['id']} of {self.path}", segment["bbox"]
            if segment["area"] != area:
                found = f"{who} has the area {segment['area']}"
                yield error("wrong area", self.file, found, f"{area}, its number of pixels")
            if len(values) != 4 or not all(
                abs(value - wanted) <= SEGMENT_BOX_SLACK
                for value, wanted in zip(values, box.xywh(), strict=True)
            ):
                found = f"{who} has the bbox {values}"
                yield error("wrong bbox", self.file, found, f"{box.xywh()} (x, y, width, height)")


@dataclass(frozen=True, slots=True)
class LabelGroundTruth:
    """One label PNG; ``labels`` None allows any."""

    path: str
    labels: LabelRange | None

    def check(self, image: ImageFile | None, issues: list[DatasetIssue]) -> CheckedMap:
        """Look for labels that are not allowed, and another size than the image's."""
        checked = CheckedMap()
        with collect(issues):
            png = check_file(self.path, f"the image {image.path}" if image else "its image")
            check_mode(png, LABEL_MODES, "one number a pixel")
            checked = CheckedMap(labels_in(png.pixels).tolist(), png.pixels)
            with collect(issues):
                check_labels(self.path, png.pixels, self.labels)
            if image is not None:
                check_size(self.path, png.size, image.size, f"its image {image.path}")
        return checked


# A part of a segment's box that lies in the box of its instance: others may hide some of both.
_LEAST_SHARED = 0.5
# A part of the pixels in which label maps may differ, by rounded borders.
_MOST_DIFFERENT = 0.005


def agreement_issues(
    checked: Iterable[tuple[GroundTruth, CheckedMap]], label_of_category: Mapping[int, int]
) -> Iterator[DatasetIssue]:
    """Yield an error where two kinds of ground truth of one image say different things.

    Args:
        checked: The kinds of ground truth of the image, each with what its own check has read.
        label_of_category: Label of each category in the label map of a Panoptic FPN, 0 for things;
            empty where the data set has no such map.
    """
    by_kind = {type(gt): (gt, read.pixels) for gt, read in checked}
    nothing = (None, None)
    panoptic, ids = by_kind.get(PanopticGroundTruth, nothing)
    labels, found = by_kind.get(LabelGroundTruth, nothing)
    instances, _ = by_kind.get(InstanceGroundTruth, nothing)
    if isinstance(panoptic, PanopticGroundTruth) and isinstance(instances, InstanceGroundTruth):
        yield from _lacking_instances(panoptic, instances)
    if isinstance(panoptic, PanopticGroundTruth) and isinstance(labels, LabelGroundTruth):
        yield from _other_labels(panoptic, ids, labels, found, label_of_category)


def _lacking_instances(
    panoptic: PanopticGroundTruth, instances: InstanceGroundTruth
) -> Iterator[DatasetIssue]:
    """Every thing of the panoptic map is an instance, too; one that is hidden is in no map."""
    for segment in panoptic.annotation["segments_info"]:
        if segment["category_id"] not in panoptic.things or segment.get("iscrowd"):
            continue
        boxes = [
            one["bbox"]
            for one in instances.annotations
            if one.get("category_id") == segment["category_id"]
        ]
        if not any(_share_inside(segment["bbox"], box) >= _LEAST_SHARED for box in boxes):
            who = f"segment {segment['id']} of {panoptic.path}"
            found = f"{who} has the category {segment['category_id']}, and no annotation there has"
            expected = "an annotation of its category for each thing of the panoptic map"
            yield error("object that the instances lack", instances.file, found, expected)


def _share_inside(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the part of a box (x, y, width, height) that lies in another."""
    sides = [
        min(box[axis] + box[axis + 2], other[axis] + other[axis + 2]) - max(box[axis], other[axis])
        for axis in (0, 1)
    ]
    return max(sides[0], 0) * max(sides[1], 0) / max(box[2] * box[3], 1e-9)


def _other_labels(
    panoptic: PanopticGroundTruth,
    ids: NDArray[Any] | None,
    labels: LabelGroundTruth,
    found: NDArray[Any] | None,
    label_of_category: Mapping[int, int],
) -> Iterator[DatasetIssue]:
    segments = panoptic.annotation["segments_info"]
    if ids is None or found is None:  # which the check of the file itself has told
        return
    if not all(one["category_id"] in label_of_category for one in segments):
        return
    void = -1
    label_of_id = {one["id"]: label_of_category[one["category_id"]] for one in segments}
    try:
        expected = labels_of_segments(panoptic.path, ids, label_of_id, void)
    except ValueError:  # which the check of the panoptic map has told
        return
    if found.shape != expected.shape:
        return
    share = float(((found != expected) & (expected != void)).mean())
    if share > _MOST_DIFFERENT:
        told = f"{100 * share:.1f} % of its pixels are not those of {panoptic.path}"
        yield error("labels of another image", labels.path, told, "0 for things, and its stuff")


def check_ground_truth(
    labels: LabelRange | None,
    segments: Mapping[Any, tuple[str, Sequence[Mapping[str, Any]]]],
    image: Mapping[str, Any],
) -> None:
    """Refuse an image that is to be evaluated, before the model runs: all evaluators or none.

    Args:
        labels: What label maps may hold; None leaves labels unchecked.
        segments: Panoptic PNG and ``segments_info`` of each image id.
        image: The dict of an image, with its height and width.
    """
    size = image["height"], image["width"]
    if "sem_seg_file_name" in image:
        read_labels(str(image["sem_seg_file_name"]), size, labels)
    if image.get("image_id") in segments:
        path, infos = segments[image["image_id"]]
        _, absent = read_segments(path, size, infos)
        if absent:
            raise DatasetIssueError(absent[0])


def build_ground_truth_check(name: str) -> Callable[[Mapping[str, Any]], None]:
    """Return ``check_ground_truth`` of a registered data set, by its metadata."""
    from detectron2.data import MetadataCatalog

    from freqfusion.data.dataset_dicts import read_json

    metadata = MetadataCatalog.get(name)
    segments = {}
    if metadata.get("panoptic_json") and metadata.get("panoptic_root"):
        segments = {
            entry["image_id"]: (
                str(Path(metadata.panoptic_root) / entry["file_name"]),
                entry["segments_info"],
            )
            for entry in read_json(metadata.panoptic_json)["annotations"]
        }
    return partial(check_ground_truth, label_range(metadata), segments)

"""COCO panoptic truth: PNGs whose colours are ids, and the segments that the JSON tells of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.synthetic.masks import Box, areas_and_boxes
from freqfusion.data.validation.categories import category_findings
from freqfusion.data.validation.finding import Finding, error, shorten
from freqfusion.data.validation.index import (
    Entry,
    Index,
    entry_size,
    join,
    read_index,
    repeated,
    unknown_images,
    without_annotation,
)
from freqfusion.data.validation.pictures import (
    Picture,
    Size,
    read_picture,
    size_findings,
    truth_mode,
)
from freqfusion.data.validation.source import Outcome, Source, outcome
from freqfusion.metrics.id_codec import LARGEST_ID, rgb_to_id

MODES = ("RGB", "RGBA", "P")
BOX_SLACK = 1
_SEGMENT_KEYS = ("id", "category_id", "area", "bbox")


def panoptic_source(
    metadata: Mapping[str, Any], image_path: Callable[[Entry], str] | None = None
) -> Source:
    """Check the index ``panoptic_json`` and collect each image's annotation.

    ``image_path`` finds the image of an entry of 'images'; by default it is the entry's file name
    below ``image_root``.
    """
    source = Source(metadata["panoptic_json"])
    index, source.findings = read_index(source.place, ("file_name",))
    if index is None:
        return source
    source.findings += category_findings(index, metadata, ("thing", "stuff"))
    source.findings += unknown_images(index)
    annotations = [a for a in index.annotations if _is_whole(a, source)]
    numbers = [annotation["image_id"] for annotation in annotations]
    source.findings += repeated(source.place, "annotation of image", numbers)
    source.findings += without_annotation(index, numbers)
    find = image_path or (lambda entry: join(metadata["image_root"], entry["file_name"]))
    things = {n for n, entry in index.categories.items() if entry.get("isthing")}
    for annotation in annotations:
        source.findings += _segment_findings(annotation, index, things)
        source.seen |= {segment["category_id"] for segment in annotation["segments_info"]}
        image = index.images.get(annotation["image_id"])
        path = join(metadata["panoptic_root"], annotation["file_name"])
        source.truth_files.append(path)
        if image is not None:
            truth = PanopticTruth(source.place, path, entry_size(image), annotation)
            source.truths[find(image)] = truth
    source.classes = {number: entry["name"] for number, entry in index.categories.items()}
    return source


@dataclass(frozen=True, slots=True)
class PanopticTruth:
    """One panoptic PNG with its annotation; ``size`` is what the JSON says of the image."""

    file: str
    path: str
    size: Size | None
    annotation: Entry

    def check(self, image: Picture | None) -> Outcome:
        """Compare ids, areas and boxes of the PNG with the JSON, and its size with the image."""
        picture = read_picture(self.path, self.file)
        if isinstance(picture, Finding):
            return outcome([picture])
        findings = truth_mode(picture, MODES, "ids as 8 bit colours")
        if findings:
            return outcome(findings)
        findings = size_findings(self.path, picture.size, self.size, f"{self.file} says")
        if image is not None:
            findings += size_findings(
                self.path, picture.size, image.size, f"its image {image.path}"
            )
        if findings:
            return outcome(findings)
        segments = self.annotation["segments_info"]
        findings += segment_findings(_ids(picture), segments, self.path, self.file)
        return outcome(findings)


def segment_findings(
    ids: NDArray[np.int32], segments: list[Entry], path: str, file: str
) -> Iterator[Finding]:
    """Differences between a map of ids (0 void) and the segments that should be in it."""
    known = sorted({segment["id"] for segment in segments} - {0})
    numbers, strange = _number(ids, known)
    if strange:
        found = f"has the ids {shorten(strange)}, which {file} does not tell of"
        yield error("id that is not in the JSON", path, found, "an entry of segments_info for each")
    areas, boxes = areas_and_boxes(numbers, len(known))
    measured = dict(zip(known, zip(areas, boxes, strict=True), strict=True))
    for segment in segments:
        area, box = measured.get(segment["id"], (0, None))
        if not area or box is None:
            found = f"has no pixel of the segment {segment['id']}"
            yield error("id that is not in the PNG", path, found, f"some, since {file} tells of it")
            continue
        if segment["area"] != area:
            found = f"segment {segment['id']} of {path} has the area {segment['area']}"
            yield error("wrong area", file, found, f"{area}, its number of pixels")
        yield from _box_findings(segment, box, path, file)


def _box_findings(segment: Entry, box: Box, path: str, file: str) -> Iterator[Finding]:
    values = segment["bbox"]
    fits = len(values) == 4 and all(
        abs(value - wanted) <= BOX_SLACK for value, wanted in zip(values, box.xywh(), strict=True)
    )
    if not fits:
        found = f"segment {segment['id']} of {path} has the bbox {values}"
        yield error("wrong bbox", file, found, f"{box.xywh()} (x, y, width, height)")


def _number(ids: NDArray[np.int32], known: list[int]) -> tuple[NDArray[np.int32], list[int]]:
    """Position 1.. of each pixel's id in ``known``, 0 for others; the others but void."""
    if not known:
        return np.zeros_like(ids), [value for value in np.unique(ids).tolist() if value]
    order = np.array(known, dtype=np.int32)
    position = np.minimum(np.searchsorted(order, ids), len(known) - 1)
    fits = order[position] == ids
    strange = np.unique(ids[~fits]).tolist()
    numbers = np.where(fits, position + 1, 0).astype(np.int32)
    return numbers, [value for value in strange if value]


def _segment_findings(annotation: Entry, index: Index, things: set[Any]) -> Iterator[Finding]:
    who = f"of {annotation['file_name']}"
    segments = annotation["segments_info"]
    numbers = [segment["id"] for segment in segments]
    yield from repeated(index.file, "segment id", numbers, f" {who}")
    for segment in segments:
        category = segment["category_id"]
        if category not in index.categories:
            found = f"segment {segment['id']} {who} has the category_id {category!r}"
            yield error("unknown category", index.file, found, "the id of an entry of 'categories'")
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1) or (crowd and category in index.categories.keys() - things):
            found = f"segment {segment['id']} {who} has iscrowd {crowd!r}"
            yield error("inconsistent iscrowd", index.file, found, "0, or 1 for a crowd of things")
        if segment["id"] == 0:
            found = f"a segment {who} has the id 0"
            yield error("segment with the id of void", index.file, found, "ids from 1 on")


def _is_whole(annotation: Entry, source: Source) -> bool:
    segments = annotation.get("segments_info")
    whole = (
        isinstance(annotation.get("file_name"), str)
        and isinstance(segments, list)
        and all(isinstance(s, dict) and all(key in s for key in _SEGMENT_KEYS) for s in segments)
        and all(isinstance(s["id"], int) and 0 <= s["id"] <= LARGEST_ID for s in segments)
        and all(isinstance(s["category_id"], int | str) for s in segments)
        and all(_are_numbers(s["bbox"]) and _are_numbers([s["area"]]) for s in segments)
    )
    if not whole:
        found = f"the annotation of image {annotation['image_id']!r} is not whole"
        expected = f"file_name, and segments_info with good {', '.join(_SEGMENT_KEYS)} each"
        source.findings.append(error("malformed entry", source.place, found, expected))
    return whole


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _ids(picture: Picture) -> NDArray[np.int32]:
    if picture.mode == "RGB":
        return rgb_to_id(picture.pixels)
    with Image.open(picture.path) as file:
        return rgb_to_id(np.asarray(file.convert("RGB")))

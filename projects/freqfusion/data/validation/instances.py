"""COCO instances: boxes, areas, polygons, run-length masks, crowds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.validation.categories import category_findings
from freqfusion.data.validation.finding import Finding, error, format_size
from freqfusion.data.validation.index import (
    Entry,
    Index,
    describe,
    entry_size,
    join,
    read_index,
    repeated,
    unknown_images,
    without_annotation,
)
from freqfusion.data.validation.pictures import Picture, Size, size_findings
from freqfusion.data.validation.shapes import (
    MOST_POINTS,
    Shape,
    finite_numbers,
    number_of_points,
    polygon_area,
    polygon_shape,
    run_shape,
    runs_of,
)
from freqfusion.data.validation.source import Outcome, Source, outcome

# Boxes are written with or without the last pixel, whole or rounded.
BOX_SLACK = 1.5


def instance_source(metadata: Mapping[str, Any], *, polygons_only: bool = False) -> Source:
    """Check the index ``json_file`` and collect each image's annotations.

    ``polygons_only`` makes run-length masks, other than of crowds, an error: the configuration
    reads polygons.
    """
    source = Source(metadata["json_file"])
    index, source.findings = read_index(source.place, ("file_name",), ("category_id",))
    if index is None:
        return source
    source.findings += category_findings(index, metadata, ("thing",))
    source.findings += unknown_images(index)
    ids = [entry["id"] for entry in index.annotations if isinstance(entry.get("id"), int | str)]
    source.findings += repeated(source.place, "annotation id", ids)
    source.findings += [f for entry in index.annotations for f in _entry_findings(entry, index)]
    if polygons_only:
        source.findings += _mask_format_findings(index)
    grouped: dict[Any, list[Entry]] = defaultdict(list)
    for entry in index.annotations:
        grouped[entry["image_id"]].append(entry)
    source.findings += without_annotation(index, grouped)
    for number, image in index.images.items():
        truth = InstanceTruth(source.place, entry_size(image), tuple(grouped.get(number, ())))
        source.truths[join(metadata["image_root"], image["file_name"])] = truth
    source.classes = {number: entry["name"] for number, entry in index.categories.items()}
    source.seen = {entry["category_id"] for entry in index.annotations}
    return source


@dataclass(frozen=True, slots=True)
class InstanceTruth:
    """The annotations of one image; ``size`` is what the JSON says of the image."""

    file: str
    size: Size | None
    annotations: tuple[Entry, ...]

    def check(self, image: Picture | None) -> Outcome:
        """Compare boxes, areas and masks with one another and with the image."""
        # What the JSON says comes first, so that a wrong image is not reported for each box too.
        size = self.size or (image.size if image else None)
        findings: list[Finding] = []
        if image is not None and self.size is not None:
            findings += size_findings(image.path, image.size, self.size, f"{self.file} says")
        elif self.size is None and image is not None:
            found = f"the image entry of {image.path} has no width and height"
            findings.append(error("malformed entry", self.file, found, "whole numbers of pixels"))
        for annotation in self.annotations:
            findings += annotation_findings(annotation, size, self.file)
        return outcome(findings)


def annotation_findings(annotation: Entry, size: Size | None, file: str) -> Iterator[Finding]:
    """What is wrong with one annotation of an image of this size (None: unknown)."""
    who = describe(annotation)
    box = finite_numbers(annotation.get("bbox"))
    if box is None or len(box) != 4:
        found = f"{who} has the bbox {annotation.get('bbox')!r}"
        yield error("malformed entry", file, found, "four numbers x, y, width, height")
        return
    yield from _box_findings(box, size, who, file)
    shape: Shape | None = None
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        findings, shape = _check_runs(segmentation, size, who, file)
        yield from findings
    elif segmentation is not None:
        findings, shape = _check_polygons(segmentation, who, file)
        yield from findings
    if shape is not None:
        yield from _shape_findings(annotation, box, shape, file)


def _entry_findings(entry: Entry, index: Index) -> Iterator[Finding]:
    who = describe(entry)
    if entry["category_id"] not in index.categories:
        found = f"{who} has the category_id {entry['category_id']!r}"
        yield error("unknown category", index.file, found, "the id of an entry of 'categories'")
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        found = f"{who} has iscrowd {crowd!r}"
        yield error("inconsistent iscrowd", index.file, found, "0 or 1")
    elif crowd and isinstance(entry.get("segmentation"), list):
        found = f"{who} has iscrowd 1 and polygons"
        yield error("inconsistent iscrowd", index.file, found, "run-length masks of crowds")


def _mask_format_findings(index: Index) -> list[Finding]:
    masks = [
        entry["id"] if "id" in entry else entry["image_id"]
        for entry in index.annotations
        if isinstance(entry.get("segmentation"), dict) and not entry.get("iscrowd")
    ]
    if not masks:
        return []
    found = f"{len(masks)} objects have run-length masks (first: annotation {masks[0]!r})"
    expected = "polygons, or INPUT.MASK_FORMAT bitmask in the configuration"
    return [error("mask format that is not read", index.file, found, expected)]


def _box_findings(
    box: NDArray[np.float64], size: Size | None, who: str, file: str
) -> Iterator[Finding]:
    left, top, width, height = box.tolist()
    if width <= 0 or height <= 0:
        found = f"{who} has a bbox of width {width:g} and height {height:g}"
        yield error("degenerate box", file, found, "both above 0")
    if size is None:
        return
    outside = max(-left, -top, left + width - size[1], top + height - size[0])
    if outside > BOX_SLACK:
        found = f"{who} has the bbox {box.tolist()}, {outside:g} pixels outside of the image"
        yield error("box outside of the image", file, found, f"within {format_size(size)}")


def _check_runs(
    mask: Mapping[str, Any], size: Size | None, who: str, file: str
) -> tuple[list[Finding], Shape | None]:
    own = finite_numbers(mask.get("size"))
    if own is None or len(own) != 2 or not isinstance(mask.get("counts"), str | list):
        found = f"{who} has a mask that is no run-length encoding"
        return [error("malformed entry", file, found, "size [height, width] and counts")], None
    if size is not None and own.tolist() != list(size):
        found = f"{who} has a run-length mask of the size {mask['size']}"
        return [error("run-length mask of a wrong size", file, found, format_size(size))], None
    try:
        shape = run_shape(runs_of(mask), int(own[0]))
    except (ValueError, TypeError, OverflowError) as reason:
        found = f"{who} has a run-length mask that cannot be decoded ({reason})"
        return [error("broken run-length mask", file, found, "runs that fill the mask")], None
    if shape is None:
        found = f"{who} has a run-length mask without a pixel"
        return [error("empty mask", file, found, "a pixel or more")], None
    return [], shape


def _check_polygons(polygons: Any, who: str, file: str) -> tuple[list[Finding], Shape | None]:
    findings = []
    good = []
    if not isinstance(polygons, list) or not polygons:
        found = f"{who} has the segmentation {polygons!r:.60}"
        return [error("malformed entry", file, found, "polygons or a run-length mask")], None
    points = number_of_points(polygons)
    if points > MOST_POINTS:
        found = f"{who} has {points} points in its polygons"
        return [error("degenerate polygon", file, found, f"at most {MOST_POINTS}")], None
    for number, polygon in enumerate(polygons):
        values = finite_numbers(polygon)
        reason = None
        if values is None or len(values) % 2:
            reason = "is no list of x, y, x, y, ..."
        elif len(values) < 6:
            reason = f"has {len(values) // 2} points"
        elif polygon_area(values.reshape(-1, 2)) == 0:
            reason = "has no area"
        if reason is None and values is not None:
            good.append(values.reshape(-1, 2))
        else:
            found = f"polygon {number} of {who} {reason}"
            findings.append(
                error("degenerate polygon", file, found, "3 or more points around an area")
            )
    return findings, polygon_shape(good) if good and not findings else None


def _shape_findings(
    annotation: Entry, box: NDArray[np.float64], shape: Shape, file: str
) -> Iterator[Finding]:
    who = describe(annotation)
    area = annotation.get("area")
    if not isinstance(area, int | float):
        yield error("malformed entry", file, f"{who} has the area {area!r}", "a number of pixels")
    elif not shape.least_area <= area <= shape.most_area:
        expected = f"about {(shape.least_area + shape.most_area) / 2:.0f} as its mask has"
        yield error("wrong area", file, f"{who} has the area {area:g}", expected)
    left, top, width, height = box.tolist()
    off = np.abs(np.subtract((left, top, left + width, top + height), shape.box)).max()
    if off > BOX_SLACK:
        x0, y0, x1, y1 = shape.box
        found = f"{who} has the bbox {box.tolist()}"
        expected = f"about {[x0, y0, x1 - x0, y1 - y0]} as its mask spans"
        yield error("wrong bbox", file, found, expected)

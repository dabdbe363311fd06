"""Collect the ground truth of a data set's images: COCO instances, panoptic PNGs, label maps.

A source reads an index (a JSON file or a folder), checks it, and names what is to be checked for
each image.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freqfusion.data.reading import label_files
from freqfusion.data.validation.annotations import Size, describe
from freqfusion.data.validation.ground_truth import (
    GroundTruth,
    InstanceGroundTruth,
    LabelGroundTruth,
    PanopticGroundTruth,
    label_range,
)
from freqfusion.data.validation.issues import DatasetIssue, error, note, remedy, repeated
from freqfusion.metrics.id_codec import LARGEST_ID

Entry = dict[str, Any]
Fields = Mapping[str, Callable[[Any], bool]]
"""Each key that an entry of a JSON file needs, and what its value must be."""

_CATEGORIES = "categories that differ"
# Detectron2's metadata leaves these parts of COCO's names out.
_LEFT_OUT = ("-other", "-merged")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _are_segments(value: Any) -> bool:
    return isinstance(value, list) and not any(_mistake(segment, _SEGMENT) for segment in value)


_IMAGE: Fields = {"id": _is_id, "file_name": _is_text}
_CATEGORY: Fields = {"id": _is_id, "name": _is_text}
_INSTANCE: Fields = {"image_id": _is_id, "category_id": _is_id}
_PANOPTIC: Fields = {"image_id": _is_id, "file_name": _is_text, "segments_info": _are_segments}
_SEGMENT: Fields = {
    "id": lambda value: isinstance(value, int) and 0 <= value <= LARGEST_ID,
    "category_id": _is_id,
    "area": _is_number,
    "bbox": lambda value: isinstance(value, list) and all(map(_is_number, value)),
}


def _mistake(entry: Any, fields: Fields) -> str:
    """Return what is wrong with an entry of a JSON file, "" for a well-formed one."""
    if not isinstance(entry, dict):
        return "is no object"
    absent = [key for key in fields if key not in entry]
    if absent:
        return f"lacks {', '.join(absent)}"
    wrong = [key for key, fits in fields.items() if not fits(entry[key])]
    return f"has a wrong {wrong[0]}: {entry[wrong[0]]!r:.60}" if wrong else ""


@dataclass(slots=True)
class GroundTruthSource:
    """One kind of ground truth of a data set: JSON file or folder, its issues, what to check.

    ``by_image`` is the ground truth of each image's path, ``classes`` are the names by number of
    those that should occur, ``seen`` the numbers that do as far as the index tells, ``files``
    further files that the index names.
    """

    index: str
    issues: list[DatasetIssue] = field(default_factory=list)
    by_image: dict[str, GroundTruth] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    files: list[str] = field(default_factory=list)

    def absent_classes(self) -> list[DatasetIssue]:
        """Return notes on classes that never occur; none where there are no images."""
        return [
            note(
                "class that never occurs",
                self.index,
                f"class {name!r} ({number}) has no pixel and no object",
                "each class at least once",
            )
            for number, name in self.classes.items()
            if self.by_image and number not in self.seen
        ]


def instance_source(metadata: Mapping[str, Any]) -> GroundTruthSource:
    """Check the index ``json_file`` and collect each image's annotations."""
    source = GroundTruthSource(metadata["json_file"])
    index = _read_index(source, metadata, ("thing",), _INSTANCE)
    if index is None:
        return source
    ids = [entry["id"] for entry in index.annotations if _is_id(entry.get("id"))]
    source.issues += repeated(source.index, "annotation id", ids)
    grouped: dict[Any, list[Entry]] = defaultdict(list)
    for entry in index.annotations:
        source.issues += _instance_issues(entry, index)
        grouped[entry["image_id"]].append(entry)
    source.issues += _without_annotation(index, grouped)
    for number, image in index.images.items():
        gt = InstanceGroundTruth(source.index, _entry_size(image), tuple(grouped.get(number, ())))
        source.by_image[join(metadata["image_root"], image["file_name"])] = gt
    source.seen = {entry["category_id"] for entry in index.annotations}
    return source


def panoptic_source(
    metadata: Mapping[str, Any], image_path: Callable[[Entry], str] | None = None
) -> GroundTruthSource:
    """Check the index ``panoptic_json`` and collect each image's annotation.

    ``image_path`` finds the image of an entry of 'images'; by default it is the entry's file name
    below ``image_root``.
    """
    source = GroundTruthSource(metadata["panoptic_json"])
    index = _read_index(source, metadata, ("thing", "stuff"), _PANOPTIC)
    if index is None:
        return source
    numbers = [annotation["image_id"] for annotation in index.annotations]
    source.issues += repeated(source.index, "annotation of image", numbers)
    source.issues += _without_annotation(index, numbers)
    known = metadata.get("thing_dataset_id_to_contiguous_id") or index.categories
    things = frozenset(
        n for n, one in index.categories.items() if one.get("isthing") and n in known
    )
    find = image_path or (lambda entry: join(metadata["image_root"], entry["file_name"]))
    for annotation in index.annotations:
        source.issues += _segment_issues(annotation, index)
        source.seen |= {segment["category_id"] for segment in annotation["segments_info"]}
        image = index.images.get(annotation["image_id"])
        path = join(metadata["panoptic_root"], annotation["file_name"])
        source.files.append(path)
        if image is not None:
            gt = PanopticGroundTruth(source.index, path, _entry_size(image), annotation, things)
            source.by_image[find(image)] = gt
    return source


def semantic_source(
    metadata: Mapping[str, Any], named_images: set[str] | None = None
) -> GroundTruthSource:
    """Pair ``image_root`` with ``sem_seg_root`` by the names without suffix.

    ``named_images`` are those of the data set's JSON, if it has one: only they need a label PNG.
    """
    files = label_files(metadata["image_root"], metadata["sem_seg_root"])
    pairs = ((os.path.normpath(image), os.path.normpath(label)) for image, label in files)
    named = (pair for pair in pairs if named_images is None or pair[0] in named_images)
    return label_source(metadata, named)


def label_source(
    metadata: Mapping[str, Any], pairs: Iterable[tuple[str, str]]
) -> GroundTruthSource:
    """Collect the label PNGs of ``sem_seg_root`` from pairs of an image and its PNG."""
    source = GroundTruthSource(metadata["sem_seg_root"])
    labels = label_range(metadata)
    for image, file in pairs:
        source.files.append(file)
        if os.path.isfile(file):
            source.by_image[image] = LabelGroundTruth(file, labels)
        else:
            expected = f"the labels of {image}{remedy(file)}"
            source.issues.append(error("missing file", file, "is not there", expected))
    source.classes = dict(enumerate(metadata.get("stuff_classes", ())))
    return source


def join(folder: str, name: str) -> str:
    """Return a path that compares equal to others of the same file."""
    return os.path.normpath(os.path.join(folder, name))


@dataclass(frozen=True, slots=True)
class _Index:
    """Well-formed entries of a JSON file: images by id, annotations, categories by id."""

    file: str
    images: dict[Any, Entry]
    annotations: list[Entry]
    categories: dict[Any, Entry]


def _read_index(
    source: GroundTruthSource,
    metadata: Mapping[str, Any],
    kinds: Sequence[str],
    annotation: Fields,
) -> _Index | None:
    """Read a JSON file in COCO's format, and check its entries; None if it has nothing."""
    file, issues = source.index, source.issues
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError) as reason:
        issues.append(error("unreadable JSON", file, f"cannot be read ({reason})", "valid JSON"))
        return None
    sections = {"images": _IMAGE, "annotations": annotation, "categories": _CATEGORY}
    lists = content if isinstance(content, dict) else {}
    absent = [name for name in sections if not isinstance(lists.get(name), list)]
    if absent:
        found = f"has no list {' and no list '.join(map(repr, absent))}"
        wanted = f"the sections {', '.join(sections)} of COCO's format"
        issues.append(error("JSON without a section", file, found, wanted))
        return None
    good: dict[str, list[Entry]] = {name: [] for name in sections}
    for name, fields in sections.items():
        wanted = f"an object with good {', '.join(fields)}"
        for position, entry in enumerate(lists[name]):
            mistake = _mistake(entry, fields)
            if mistake:
                found = f"entry {position} of '{name}' {mistake}"
                issues.append(error("malformed entry", file, found, wanted))
            else:
                good[name].append(entry)
    issues += repeated(file, "image id", [entry["id"] for entry in good["images"]])
    issues += repeated(file, "category id", [entry["id"] for entry in good["categories"]])
    issues += repeated(file, "file name", [entry["file_name"] for entry in good["images"]])
    index = _Index(
        file,
        {entry["id"]: entry for entry in good["images"]},
        good["annotations"],
        {entry["id"]: entry for entry in good["categories"]},
    )
    issues += _category_issues(index, metadata, kinds)
    for entry in index.annotations:
        if entry["image_id"] not in index.images:
            found = f"{describe(entry)} has the image_id {entry['image_id']!r}"
            wanted = "the id of an entry of 'images'"
            issues.append(error("annotation of an unknown image", file, found, wanted))
    source.classes = {number: entry["name"] for number, entry in index.categories.items()}
    return index


def _without_annotation(index: _Index, annotated: Iterable[Any]) -> list[DatasetIssue]:
    known = set(annotated)
    return [
        note(
            "image without annotation",
            index.file,
            f"image {number!r} ({entry.get('file_name', 'no file name')}) has no annotation",
            "one or more, unless the image is empty",
        )
        for number, entry in index.images.items()
        if number not in known
    ]


def _entry_size(entry: Entry) -> Size | None:
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _expected_categories(
    metadata: Mapping[str, Any], kinds: Sequence[str]
) -> dict[int, str] | None:
    """Return the name of each category id; None where the metadata has no ids.

    ``kinds`` is "thing", "stuff", or both; a thing that is in both maps has its thing name.
    """
    names: dict[int, str] = {}
    for kind in reversed(kinds):
        labels = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
        if labels is None:
            return None
        classes = metadata.get(f"{kind}_classes", ())
        separated = kind == "stuff" and labels.get(0) == 0 and list(classes[:1]) == ["things"]
        names |= {
            number: classes[label] if label < len(classes) else ""
            for number, label in labels.items()
            # The class of all things is no category of the JSON.
            if not (separated and number == 0)
        }
    return names


def _category_issues(
    index: _Index, metadata: Mapping[str, Any], kinds: Sequence[str]
) -> Iterator[DatasetIssue]:
    """Yield errors where ids, names, or what is a thing differ from the metadata."""
    expected = _expected_categories(metadata, kinds)
    if expected is None:
        return
    things = metadata["thing_dataset_id_to_contiguous_id"]
    for number, entry in index.categories.items():
        name = entry["name"]
        if number not in expected:
            found = f"has the category {number} ({name!r})"
            yield error(_CATEGORIES, index.file, found, "one that the metadata knows")
        elif not _same_name(name, expected[number]):
            wanted = f"{expected[number]!r} as in the metadata"
            yield error(_CATEGORIES, index.file, f"calls category {number} {name!r}", wanted)
        if "stuff" in kinds and entry.get("isthing") != int(number in things):
            found = f"category {number} ({name!r}) has isthing {entry.get('isthing')!r}"
            wanted = f"{int(number in things)} as in the metadata"
            yield error(_CATEGORIES, index.file, found, wanted)
    for number, name in expected.items():
        if number not in index.categories:
            wanted = f"{name!r} as in the metadata"
            yield error(_CATEGORIES, index.file, f"has no category {number}", wanted)


def _same_name(name: str, expected: str) -> bool:
    if not expected or name == expected:
        return True
    for part in _LEFT_OUT:
        name = name.replace(part, "")
    return name == expected


def _instance_issues(entry: Entry, index: _Index) -> Iterator[DatasetIssue]:
    who, crowd = describe(entry), entry.get("iscrowd", 0)
    if entry["category_id"] not in index.categories:
        found = f"{who} has the category_id {entry['category_id']!r}"
        yield error("unknown category", index.file, found, "the id of an entry of 'categories'")
    if not isinstance(crowd, int) or crowd not in (0, 1):
        found = f"{who} has iscrowd {crowd!r}"
        yield error("inconsistent iscrowd", index.file, found, "0 or 1")
    elif crowd and isinstance(entry.get("segmentation"), list):
        found = f"{who} has iscrowd 1 and polygons"
        yield error("inconsistent iscrowd", index.file, found, "run-length masks of crowds")


def _segment_issues(annotation: Entry, index: _Index) -> Iterator[DatasetIssue]:
    who, segments = f"of {annotation['file_name']}", annotation["segments_info"]
    numbers = [segment["id"] for segment in segments]
    yield from repeated(index.file, "segment id", numbers, f" {who}")
    for segment in segments:
        number, category = segment["category_id"], index.categories.get(segment["category_id"])
        if category is None:
            found = f"segment {segment['id']} {who} has the category_id {number!r}"
            yield error("unknown category", index.file, found, "the id of an entry of 'categories'")
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1) or (crowd and category and not category.get("isthing")):
            found = f"segment {segment['id']} {who} has iscrowd {crowd!r}"
            yield error("inconsistent iscrowd", index.file, found, "0, or 1 for a crowd of things")
        if segment["id"] == 0:
            found = f"a segment {who} has the id 0"
            yield error("segment with the id of void", index.file, found, "ids from 1 on")

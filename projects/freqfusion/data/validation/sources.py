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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SECTIONS = ("images", "annotations", "categories")
_SEGMENT_KEYS = ("id", "category_id", "area", "bbox")
_NAMES = ("file_name", "name")
_CATEGORIES = "categories that differ"
# Detectron2's metadata leaves these parts of COCO's names out.
_LEFT_OUT = ("-other", "-merged")


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


def instance_source(
    metadata: Mapping[str, Any], *, polygons_only: bool = False
) -> GroundTruthSource:
    """Check the index ``json_file`` and collect each image's annotations.

    ``polygons_only`` makes run-length masks, other than of crowds, an error: the configuration
    reads polygons.
    """
    source = GroundTruthSource(metadata["json_file"])
    index = _read_index(source, metadata, ("thing",), ("file_name",), ("category_id",))
    if index is None:
        return source
    ids = [entry["id"] for entry in index.annotations if isinstance(entry.get("id"), int | str)]
    source.issues += repeated(source.index, "annotation id", ids)
    grouped: dict[Any, list[Entry]] = defaultdict(list)
    for entry in index.annotations:
        source.issues += _instance_issues(entry, index)
        grouped[entry["image_id"]].append(entry)
    if polygons_only:
        source.issues += _mask_format_issues(index)
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
    index = _read_index(source, metadata, ("thing", "stuff"), ("file_name",), ())
    if index is None:
        return source
    annotations = [a for a in index.annotations if _is_whole(a, source)]
    numbers = [annotation["image_id"] for annotation in annotations]
    source.issues += repeated(source.index, "annotation of image", numbers)
    source.issues += _without_annotation(index, numbers)
    find = image_path or (lambda entry: join(metadata["image_root"], entry["file_name"]))
    for annotation in annotations:
        source.issues += _segment_issues(annotation, index)
        source.seen |= {segment["category_id"] for segment in annotation["segments_info"]}
        image = index.images.get(annotation["image_id"])
        path = join(metadata["panoptic_root"], annotation["file_name"])
        source.files.append(path)
        if image is not None:
            gt = PanopticGroundTruth(source.index, path, _entry_size(image), annotation)
            source.by_image[find(image)] = gt
    return source


def semantic_source(
    metadata: Mapping[str, Any], named_images: set[str] | None = None
) -> GroundTruthSource:
    """Pair ``image_root`` with ``sem_seg_root`` by the names without suffix.

    ``named_images`` are those of the data set's JSON, if it has one: only they need a label PNG.
    """
    source = GroundTruthSource(metadata["sem_seg_root"])
    images = dict(_files_by_stem(metadata["image_root"], IMAGE_SUFFIXES))
    maps = dict(_files_by_stem(source.index, (".png",)))
    if named_images is not None:
        images = {stem: path for stem, path in images.items() if path in named_images}
    for stem, path in images.items():
        if stem in maps:
            source.by_image[path] = LabelGroundTruth(maps[stem], label_range(metadata))
            source.files.append(maps[stem])
        else:
            expected = f"the labels of {path}{remedy(source.index)}"
            file = os.path.join(source.index, f"{stem}.png")
            source.issues.append(error("missing file", file, "is not there", expected))
    if named_images is None:
        source.issues += [
            note("label file without image", path, "has no image of its name", "one in image_root")
            for stem, path in maps.items()
            if stem not in images
        ]
        source.files += maps.values()
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
    image_keys: Sequence[str],
    annotation_keys: Sequence[str],
) -> _Index | None:
    """Read a JSON file in COCO's format, and check its ids and categories; None if it has nothing.

    An image entry needs ``id`` and ``image_keys``, an annotation ``image_id`` and
    ``annotation_keys``, a category ``id`` and ``name``: names are texts, ids texts or numbers.
    """
    file, issues = source.index, source.issues
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError) as reason:
        issues.append(error("unreadable JSON", file, f"cannot be read ({reason})", "valid JSON"))
        return None
    lists = content if isinstance(content, dict) else {}
    absent = [name for name in _SECTIONS if not isinstance(lists.get(name), list)]
    if absent:
        found = f"has no list {' and no list '.join(map(repr, absent))}"
        wanted = f"the sections {', '.join(_SECTIONS)} of COCO's format"
        issues.append(error("JSON without a section", file, found, wanted))
        return None
    needed = (("id", *image_keys), ("image_id", *annotation_keys), ("id", "name"))
    images, annotations, categories = (
        list(_well_formed(file, section, lists[section], keys, issues))
        for section, keys in zip(_SECTIONS, needed, strict=True)
    )
    issues += repeated(file, "image id", [entry["id"] for entry in images])
    issues += repeated(file, "category id", [entry["id"] for entry in categories])
    issues += repeated(file, "file name", [e["file_name"] for e in images if "file_name" in e])
    index = _Index(
        file,
        {entry["id"]: entry for entry in images},
        annotations,
        {entry["id"]: entry for entry in categories},
    )
    issues += _category_issues(index, metadata, kinds)
    for entry in annotations:
        if entry["image_id"] not in index.images:
            found = f"{describe(entry)} has the image_id {entry['image_id']!r}"
            wanted = "the id of an entry of 'images'"
            issues.append(error("annotation of an unknown image", file, found, wanted))
    source.classes = {number: entry["name"] for number, entry in index.categories.items()}
    return index


def _well_formed(
    file: str, section: str, entries: list[Any], keys: Sequence[str], issues: list[DatasetIssue]
) -> Iterator[Entry]:
    """Yield entries that are objects with all keys, and ids that can be looked up."""
    for position, entry in enumerate(entries):
        absent = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if absent:
            what = f"lacks {', '.join(absent)}"
        elif all(isinstance(entry[key], str if key in _NAMES else int | str) for key in keys):
            yield entry
            continue
        else:
            what = "has a value of a wrong type among them"
        found = f"entry {position} of '{section}' {what}"
        issues.append(error("malformed entry", file, found, f"an object with {', '.join(keys)}"))


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


def _mask_format_issues(index: _Index) -> list[DatasetIssue]:
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


def _is_whole(annotation: Entry, source: GroundTruthSource) -> bool:
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
        source.issues.append(error("malformed entry", source.index, found, expected))
    return whole


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _files_by_stem(folder: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield relative path without suffix, and path, of the images in a folder and those below."""
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                path = os.path.normpath(os.path.join(parent, name))
                yield os.path.relpath(os.path.join(parent, stem), folder), path

"""JSON files in COCO's format: sections, and ids that must be unique and known."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion.data.validation.finding import Finding, error, note
from freqfusion.data.validation.pictures import Size

Entry = dict[str, Any]
_TYPES: dict[str, type] = {"file_name": str, "name": str}


@dataclass(frozen=True, slots=True)
class Index:
    """Well-formed entries of a JSON file: images by id, annotations, categories by id."""

    file: str
    images: dict[Any, Entry]
    annotations: list[Entry]
    categories: dict[Any, Entry]


def read_index(
    file: str, image_keys: Iterable[str] = (), annotation_keys: Iterable[str] = ()
) -> tuple[Index | None, list[Finding]]:
    """Read a JSON file; None if there is nothing to work with.

    An image entry needs ``id`` and ``image_keys``, an annotation ``image_id`` and
    ``annotation_keys``, a category ``id`` and ``name``: names are texts, ids texts or numbers.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError) as reason:
        return None, [error("unreadable JSON", file, f"cannot be read ({reason})", "valid JSON")]
    sections = ("images", "annotations", "categories")
    lists = content if isinstance(content, dict) else {}
    absent = [name for name in sections if not isinstance(lists.get(name), list)]
    if absent:
        found = f"has no list {' and no list '.join(map(repr, absent))}"
        wanted = f"the sections {', '.join(sections)} of COCO's format"
        return None, [error("JSON without a section", file, found, wanted)]
    findings: list[Finding] = []
    images = _well_formed(file, "images", lists, ("id", *image_keys), findings)
    keys = ("image_id", *annotation_keys)
    annotations = _well_formed(file, "annotations", lists, keys, findings)
    categories = _well_formed(file, "categories", lists, ("id", "name"), findings)
    findings += repeated(file, "image id", [entry["id"] for entry in images])
    findings += repeated(file, "category id", [entry["id"] for entry in categories])
    names = [entry["file_name"] for entry in images if "file_name" in entry]
    findings += repeated(file, "file name", names)
    index = Index(
        file,
        {entry["id"]: entry for entry in images},
        annotations,
        {entry["id"]: entry for entry in categories},
    )
    return index, findings


def repeated(file: str, what: str, values: Sequence[Any], where: str = "") -> list[Finding]:
    """An error for each value that occurs more than once; ``where`` says of what."""
    return [
        error(f"repeated {what}", file, f"has the {what} {value!r}{where} {count} times", "it once")
        for value, count in Counter(values).items()
        if count > 1
    ]


def unknown_images(index: Index) -> list[Finding]:
    """An error for each annotation whose image is not in the index."""
    return [
        error(
            "annotation of an unknown image",
            index.file,
            f"{describe(entry)} has the image_id {entry['image_id']!r}",
            "the id of an entry of 'images'",
        )
        for entry in index.annotations
        if entry["image_id"] not in index.images
    ]


def without_annotation(index: Index, annotated: Iterable[Any]) -> list[Finding]:
    """A note for each image that has no annotation."""
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


def describe(entry: Mapping[str, Any]) -> str:
    """``annotation 7``, or the annotation of an image where it has no id of its own."""
    if "id" in entry:
        return f"annotation {entry['id']!r}"
    return f"the annotation of image {entry.get('image_id')!r}"


def entry_size(entry: Mapping[str, Any]) -> Size | None:
    """Height and width of an image entry; None if they are not there."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def join(folder: str, name: str) -> str:
    """A path that compares equal to others of the same file."""
    return os.path.normpath(os.path.join(folder, name))


def _well_formed(
    file: str, section: str, lists: Mapping[str, Any], keys: Sequence[str], findings: list[Finding]
) -> list[Entry]:
    """Entries that are objects with all keys, and ids that can be looked up."""
    good = []
    for position, entry in enumerate(lists[section]):
        absent = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        strange = not absent and not all(
            isinstance(entry[key], _TYPES.get(key, int | str)) for key in keys
        )
        if absent or strange:
            what = (
                f"lacks {', '.join(absent)}" if absent else "has a value of a wrong type among them"
            )
            found = f"entry {position} of '{section}' {what}"
            findings.append(
                error("malformed entry", file, found, f"an object with {', '.join(keys)}")
            )
        else:
            good.append(entry)
    return good

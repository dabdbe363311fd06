"""Data sets that a YAML file declares: paths and classes, no Python.

::

    name: streets
    root: streets                        # relative to this file
    ignore_label: 255                    # optional
    classes:
      - {id: 1, name: car, thing: true, color: [0, 0, 142]}
      - {id: 2, name: road}              # stuff unless it says thing: true
    splits:
      train:
        images: images/train
        instances: annotations/instances_train.json     # COCO's JSON
        semantic: labels/train                          # PNG, the position in `classes`
        panoptic_json: annotations/panoptic_train.json
        panoptic: panoptic_train                        # PNG, ids as colors
        stuff: panoptic_stuff_train      # PNG, 0 any thing, then the stuff classes in their order

Every ground truth is optional. The split ``train`` is registered as ``streets_train_instances``,
``streets_train_semantic``, ``streets_train_panoptic`` (one label space) and
``streets_train_panoptic_separated`` (Panoptic FPN), where it has what each needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from freqfusion.data.categories import Category
from freqfusion.files import parse_yaml, read_yaml_text
from freqfusion.messages import did_you_mean

_TOP = ("name", "root", "ignore_label", "classes", "splits")
_CLASS = ("id", "name", "thing", "color")
_SPLIT = ("images", "instances", "semantic", "panoptic_json", "panoptic", "stuff")


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares; the paths of ``splits`` are absolute or relative to the run."""

    name: str
    ignore_label: int
    classes: tuple[Category, ...]
    splits: dict[str, dict[str, str]]


def read_declaration(path: str | Path) -> Declaration:
    """Read and check a declaration; each ValueError names the file and what to change."""
    file = Path(path)
    try:
        text = read_yaml_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the data set declaration {file}: {error}") from error
    content = parse_yaml(text, str(file))
    try:
        return _declaration(content, file)
    except _Wrong as error:
        raise ValueError(f"{file}: {error}") from error


class _Wrong(Exception):
    """What is wrong, without the name of the file."""


def _declaration(content: Any, file: Path) -> Declaration:
    _check_keys("the file", content, _TOP, required=("name", "classes", "splits"))
    root = file.parent / str(content.get("root", "."))
    splits = content["splits"]
    if not isinstance(splits, Mapping) or not splits:
        raise _Wrong("splits must name at least one split, for instance train")
    return Declaration(
        name=str(content["name"]),
        ignore_label=int(content.get("ignore_label", 255)),
        classes=_classes(content["classes"]),
        splits={str(name): _split(str(name), entry, root) for name, entry in splits.items()},
    )


def _classes(entries: Any) -> tuple[Category, ...]:
    if not isinstance(entries, list) or not entries:
        raise _Wrong("classes must be a list with at least one class")
    classes = []
    for number, entry in enumerate(entries):
        _check_keys(f"class {number}", entry, _CLASS, required=("id", "name"))
        color = entry.get("color")
        if color is not None and (len(color) != 3 or not all(0 <= c <= 255 for c in color)):
            raise _Wrong(f"the color of {entry['name']} must be three numbers from 0 to 255")
        classes.append(
            Category(
                id=int(entry["id"]),
                name=str(entry["name"]),
                is_thing=bool(entry.get("thing", False)),
                color=None if color is None else (color[0], color[1], color[2]),
            )
        )
    if any(after.is_thing and not before.is_thing for before, after in pairwise(classes)):
        raise _Wrong("classes with thing: true must come before the others, as COCO's do")
    for what in ("id", "name"):
        values = [str(getattr(entry, what)) for entry in classes]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise _Wrong(f"two classes have the {what} {', '.join(twice)}")
    return tuple(classes)


def _split(name: str, entry: Any, root: Path) -> dict[str, str]:
    _check_keys(f"split {name}", entry, _SPLIT, required=("images",))
    if ("panoptic" in entry) != ("panoptic_json" in entry):
        raise _Wrong(f"split {name} needs panoptic and panoptic_json, or neither")
    if len(entry) == 1:
        raise _Wrong(
            f"split {name} has images but no ground truth; give one of {', '.join(_SPLIT[1:])}"
        )
    return {key: str(root / value) for key, value in entry.items()}


def _check_keys(where: str, entry: Any, known: Iterable[str], required: Iterable[str]) -> None:
    if not isinstance(entry, Mapping):
        raise _Wrong(f"{where} must be keys with values, not {entry!r}")
    for key in entry:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
            raise _Wrong(f"{where} has the unknown key {key}{hint}")
    missing = [key for key in required if key not in entry]
    if missing:
        raise _Wrong(f"{where} lacks {', '.join(missing)}")

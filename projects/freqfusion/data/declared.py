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

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from freqfusion.files import parse_yaml, read_yaml_text

_TOP = ("name", "root", "ignore_label", "classes", "splits")
_CLASS = ("id", "name", "thing", "color")
_SPLIT = ("images", "instances", "semantic", "panoptic_json", "panoptic", "stuff")
_THINGS_COLOR = [82, 18, 128]


@dataclass(frozen=True, slots=True)
class DeclaredClass:
    """One class; ``id`` is its number in the JSON files."""

    id: int
    name: str
    thing: bool
    color: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares; the paths of ``splits`` are absolute or relative to the run."""

    name: str
    ignore_label: int
    classes: tuple[DeclaredClass, ...]
    splits: dict[str, dict[str, str]]

    @property
    def things(self) -> tuple[DeclaredClass, ...]:
        """Return the classes with instances, in their order."""
        return tuple(entry for entry in self.classes if entry.thing)

    @property
    def stuff(self) -> tuple[DeclaredClass, ...]:
        """Return the other classes, in their order."""
        return tuple(entry for entry in self.classes if not entry.thing)

    def separated_labels(self) -> dict[int, int]:
        """Return the label of each id where all things are 0, as in a Panoptic FPN."""
        stuff = {entry.id: label for label, entry in enumerate(self.stuff, start=1)}
        return {entry.id: 0 for entry in self.things} | stuff


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


def _classes(entries: Any) -> tuple[DeclaredClass, ...]:
    if not isinstance(entries, list) or not entries:
        raise _Wrong("classes must be a list with at least one class")
    classes = []
    for number, entry in enumerate(entries):
        _check_keys(f"class {number}", entry, _CLASS, required=("id", "name"))
        color = entry.get("color")
        if color is not None and (len(color) != 3 or not all(0 <= c <= 255 for c in color)):
            raise _Wrong(f"the color of {entry['name']} must be three numbers from 0 to 255")
        classes.append(
            DeclaredClass(
                int(entry["id"]),
                str(entry["name"]),
                bool(entry.get("thing", False)),
                None if color is None else (color[0], color[1], color[2]),
            )
        )
    if any(after.thing and not before.thing for before, after in pairwise(classes)):
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
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise _Wrong(f"{where} has the unknown key {key}{hint}")
    missing = [key for key in required if key not in entry]
    if missing:
        raise _Wrong(f"{where} lacks {', '.join(missing)}")


def metadata_of(declaration: Declaration) -> dict[str, Any]:
    """Return metadata of one label space: the label is the position in ``classes``."""
    labels = {entry.id: label for label, entry in enumerate(declaration.classes)}
    names = [entry.name for entry in declaration.classes]
    return {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {c.id: labels[c.id] for c in declaration.things},
        "stuff_dataset_id_to_contiguous_id": {c.id: labels[c.id] for c in declaration.stuff},
        **_colors(declaration, declaration.classes, declaration.classes, []),
    }


def separated_metadata_of(declaration: Declaration) -> dict[str, Any]:
    """Return metadata of a Panoptic FPN: things and stuff are counted apart, stuff from 1."""
    things, stuff = declaration.things, declaration.stuff
    labels = declaration.separated_labels()
    return {
        "thing_classes": [entry.name for entry in things],
        "stuff_classes": ["things", *(entry.name for entry in stuff)],
        "thing_dataset_id_to_contiguous_id": {c.id: label for label, c in enumerate(things)},
        "stuff_dataset_id_to_contiguous_id": {0: 0} | {c.id: labels[c.id] for c in stuff},
        **_colors(declaration, things, stuff, [_THINGS_COLOR]),
    }


def _colors(
    declaration: Declaration,
    things: Iterable[DeclaredClass],
    stuff: Iterable[DeclaredClass],
    before: list[list[int]],
) -> dict[str, Any]:
    """Return the colors if the file gives all of them."""
    if any(entry.color is None for entry in declaration.classes):
        return {}
    return {
        "thing_colors": [list(entry.color or ()) for entry in things],
        "stuff_colors": [*before, *(list(entry.color or ()) for entry in stuff)],
    }

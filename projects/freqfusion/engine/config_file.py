"""YAML files of a configuration with their ``_BASE_`` files: plain data that knows its lines."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager

BASE = "_BASE_"

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key was set."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Nested keys with their values, and the place of each key, written with dots."""

    tree: dict[str, Any]
    places: dict[str, Place]


def read_config_file(path: str) -> ConfigFile:
    """Read a file and those that its ``_BASE_`` names; what it sets itself comes last.

    A base is looked for beside the file that names it. No YAML tag can run code. ValueError, with
    the file and the line, for whatever cannot be read.
    """
    return _read(path, ())


def _read(path: str, above: tuple[str, ...]) -> ConfigFile:
    """``above``: the files by whose ``_BASE_`` this one was reached, the first one first."""
    same = [_absolute(other) for other in above]
    if _absolute(path) in same:
        circle = [*above[same.index(_absolute(path)) :], path]
        raise ValueError(
            f"{BASE} goes in a circle: {' -> '.join(circle)}; take it out of one of these files"
        )
    tree, places = _parse(_text(path, above), path)
    bases = tree.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{places[BASE]}: {BASE} must be a file or a list of files, got {bases!r}")
    result = ConfigFile({}, {})
    for base in bases:
        read = _read(_beside(path, base), (*above, path))
        _lay_over(read.tree, result.tree)
        result.places.update(read.places)
    _lay_over(tree, result.tree)
    result.places.update(places)
    return result


def _text(path: str, above: tuple[str, ...]) -> str:
    try:
        with PathManager.open(path, "r") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        origin = f"{above[-1]}: {BASE} names {path}, which" if above else f"{path}"
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"{origin} does not exist{_similar(path)}") from error
        raise ValueError(f"{origin} cannot be read as a YAML file: {error}") from error


def _similar(path: str) -> str:
    """A file with a similar name in the same folder, as the end of a sentence."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return f"; there is no folder {folder} either"
    near = difflib.get_close_matches(name, os.listdir(folder or "."), n=1)
    return f"; did you mean {os.path.join(folder, near[0])}?" if near else ""


def _parse(text: str, path: str) -> tuple[dict[str, Any], dict[str, Place]]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        places = dict(_places(node, "", path))
        tree = loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{path} holds a YAML tag that would run code, which a configuration must not"
            f" ({_line(error)}: {error.problem})"
        ) from error
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{path}, {_line(error)}: this is not valid YAML: {reason}") from error
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} must hold keys with values, such as 'SOLVER: {{MAX_ITER: 100}}', but it holds"
            f" a {type(tree).__name__}"
        )
    return tree, places


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "somewhere" if mark is None else f"line {mark.line + 1}"


def _places(node: Any, prefix: str, path: str) -> Iterator[tuple[str, Place]]:
    """Every key, as a text, of a mapping and those within; ValueError for one that comes twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, Place] = {}
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.tag != _MERGE:
            name.tag = _TEXT  # or else a key ON would be True
        key = prefix + str(name.value)
        place = Place(path, name.start_mark.line + 1)
        if key in seen:
            raise ValueError(
                f"{place}: {key} is set a second time, first in line {seen[key].line}; only the"
                " second would count: put them together"
            )
        seen[key] = place
        yield key, place
        yield from _places(value, f"{key}.", path)


def _lay_over(upper: Mapping[str, Any], lower: dict[str, Any]) -> None:
    """Set in ``lower`` what ``upper`` has, section by section."""
    for name, value in upper.items():
        if isinstance(value, dict) and isinstance(lower.get(name), dict):
            _lay_over(value, lower[name])
        else:
            lower[name] = value


def _beside(path: str, base: str) -> str:
    base = os.path.expanduser(base)
    if "://" in base or os.path.isabs(base):
        return base
    return os.path.join(os.path.dirname(path), base)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)

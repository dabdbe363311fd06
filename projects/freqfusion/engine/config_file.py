"""YAML files of a configuration with their ``_BASE_`` files: plain data that knows its lines."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.utils.file_io import PathManager
from yaml import MappingNode, ScalarNode

from freqfusion.files import parse_yaml, read_yaml_text

BASE = "_BASE_"

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_SUFFIXES = (".yaml", ".yml")
_MOST_FILES = 64


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


def read_config_file(path: str, *, unsafe: bool = False) -> ConfigFile:
    """Read a file and those that its ``_BASE_`` names; what it sets itself comes last.

    A base is looked for beside the file that names it. No YAML tag can run code, unless it is
    allowed by ``unsafe``. ValueError, with the file and the line, for whatever cannot be read.
    """
    return _Reader(unsafe).read(path, ())


class _Reader:
    """Reads files that are based on one another, up to a number that no configuration needs."""

    def __init__(self, unsafe: bool) -> None:
        self._unsafe, self._count = unsafe, 0

    def read(self, path: str, above: tuple[str, ...]) -> ConfigFile:
        """``above``: the files by whose ``_BASE_`` this one was reached, the first one first."""
        same = [_absolute(other) for other in above]
        if _absolute(path) in same:
            circle = [*above[same.index(_absolute(path)) :], path]
            raise ValueError(
                f"{BASE} goes in a circle: {' -> '.join(circle)}; take it out of one of these files"
            )
        self._count += 1
        if self._count > _MOST_FILES:
            raise ValueError(
                f"{(*above, path)[0]} is based on more than {_MOST_FILES} files, some of them"
                f" several times; shorten what {BASE} names"
            )
        tree, places = _parse(_text(path, above), path, self._unsafe)
        result = ConfigFile({}, {})
        for base in _bases(tree, places):
            read = self.read(_beside(path, base, self._unsafe), (*above, path))
            _lay_over(read.tree, result.tree)
            result.places.update(read.places)
        _lay_over(tree, result.tree)
        result.places.update(places)
        return result


def _bases(tree: dict[str, Any], places: Mapping[str, Place]) -> list[str]:
    """Take the bases out of what a file holds."""
    bases = tree.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{places[BASE]}: {BASE} must be a file or a list of files, got {bases!r}")
    return bases


def _text(path: str, above: tuple[str, ...]) -> str:
    try:
        return read_yaml_text(PathManager.get_local_path(path) if "://" in path else path)
    except (OSError, ValueError) as error:
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


def _parse(text: str, path: str, unsafe: bool) -> tuple[dict[str, Any], dict[str, Place]]:
    places: dict[str, Place] = {}
    tree = parse_yaml(
        text, path, unsafe=unsafe, look=lambda node: places.update(_places(node, "", path))
    )
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} must hold keys with values, such as 'SOLVER: {{MAX_ITER: 100}}', but it holds"
            f" a {type(tree).__name__}"
        )
    return tree, places


def _places(node: Any, prefix: str, path: str) -> Iterator[tuple[str, Place]]:
    """Every key, as a text, of a mapping and those within; ValueError for one that comes twice."""
    if not isinstance(node, MappingNode):
        return
    seen: dict[str, Place] = {}
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.tag != _MERGE:
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


def _beside(path: str, base: str, unsafe: bool) -> str:
    """Where a base is; ValueError for one that only a file from elsewhere would name."""
    base = os.path.expanduser(base)
    if not base.endswith(_SUFFIXES) or not base.isprintable():
        raise ValueError(f"{path}: {BASE} names {base!r}, which is no YAML file ({_SUFFIXES[0]})")
    if "://" in base and not unsafe:
        raise ValueError(
            f"{path}: {BASE} names {base}, on another machine; download it and name the file, or"
            " give --allow-unsafe-config"
        )
    if "://" in base or os.path.isabs(base):
        return base
    return os.path.join(os.path.dirname(path), base)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)

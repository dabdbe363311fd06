"""Read configuration files with their ``_BASE_`` files, and set keys that fit, with their lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from yaml import MappingNode, ScalarNode

from freqfusion.files import parse_yaml, read_yaml_text
from freqfusion.messages import did_you_mean, nearest

BASE = "_BASE_"

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_SUFFIXES = (".yaml", ".yml")
_COMMAND_LINE = "command line"
_KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Nested keys with their values, and the file and line of each key, written with dots."""

    tree: dict[str, Any]
    lines: dict[str, str]


def read_config_file(path: str, *, unsafe: bool = False) -> ConfigFile:
    """Read a file and those that its ``_BASE_`` names; what it sets itself comes last.

    A base is looked for beside the file that names it. No YAML tag can run code, unless it is
    allowed by ``unsafe``. ValueError, with the file and the line, for whatever cannot be read.
    """
    return _read(path, (), unsafe)


def _read(path: str, above: tuple[str, ...], unsafe: bool) -> ConfigFile:
    """``above``: the files by whose ``_BASE_`` this one was reached, the first one first."""
    if os.path.realpath(path) in map(os.path.realpath, above):
        raise ValueError(f"{above[0]} is based on itself: {' -> '.join((*above, path))}")
    tree, lines = _parse(_text(path, above), path, unsafe)
    result = ConfigFile({}, {})
    for base in _bases(tree, lines):
        read = _read(_beside(path, base, unsafe), (*above, path), unsafe)
        _lay_over(read.tree, result.tree)
        result.lines.update(read.lines)
    _lay_over(tree, result.tree)
    result.lines.update(lines)
    return result


def _bases(tree: dict[str, Any], lines: Mapping[str, str]) -> list[str]:
    """Take the bases out of what a file holds."""
    bases = tree.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{lines[BASE]}: {BASE} must be a file or a list of files, got {bases!r}")
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
    """Return a file with a similar name in the same folder, as the end of a sentence."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return f"; there is no folder {folder} either"
    near = nearest(name, os.listdir(folder or "."), count=1)
    return f"; did you mean {os.path.join(folder, near[0])}?" if near else ""


def _parse(text: str, path: str, unsafe: bool) -> tuple[dict[str, Any], dict[str, str]]:
    lines: dict[str, str] = {}
    tree = parse_yaml(
        text, path, unsafe=unsafe, look=lambda node: lines.update(_key_lines(node, "", path))
    )
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} must hold keys with values, such as 'SOLVER: {{MAX_ITER: 100}}', but it holds"
            f" a {type(tree).__name__}"
        )
    return tree, lines


def _key_lines(node: Any, prefix: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of all keys of a mapping; ValueError for a key that comes twice."""
    if not isinstance(node, MappingNode):
        return
    seen: dict[str, str] = {}
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.tag != _MERGE:
            name.tag = _TEXT  # or else a key ON would be True
        key = prefix + str(name.value)
        where = f"{path}, line {name.start_mark.line + 1}"
        if key in seen:
            raise ValueError(
                f"{where}: {key} is set a second time, first in {seen[key]}; only the second would"
                " count: put them together"
            )
        seen[key] = where
        yield key, where
        yield from _key_lines(value, f"{key}.", path)


def _lay_over(upper: Mapping[str, Any], lower: dict[str, Any]) -> None:
    """Set in ``lower`` what ``upper`` has, section by section."""
    for name, value in upper.items():
        if isinstance(value, dict) and isinstance(lower.get(name), dict):
            _lay_over(value, lower[name])
        else:
            lower[name] = value


def _beside(path: str, base: str, unsafe: bool) -> str:
    """Return where a base is; ValueError for one that only a file from elsewhere would name."""
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


def merge_file(cfg: CfgNode, file: ConfigFile) -> None:
    """Set what a file says; one ValueError with a line for every key that does not fit."""
    _raise(list(_tree_problems(cfg, cfg, file.tree, "", file.lines)))
    cfg.merge_from_other_cfg(CfgNode(file.tree))


def merge_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Set ``KEY VALUE`` pairs; one ValueError with a line for every pair that does not fit."""
    _check_pairs(overrides)
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    _raise([problem for key, value in pairs for problem in _pair_problems(cfg, str(key), value)])
    cfg.merge_from_list(list(overrides))


def known_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield every key, and every section, with dots."""
    for name, value in cfg.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from known_keys(value, f"{prefix}{name}.")


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


def _tree_problems(
    root: CfgNode, node: CfgNode, tree: Mapping[Any, Any], prefix: str, lines: Mapping[str, str]
) -> Iterator[str]:
    """Yield what does not fit of a section of a file."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        where = lines.get(key, "configuration file")
        if name not in node:
            if not (node.is_new_allowed() or root.key_is_deprecated(key)):
                yield _unknown(root, where, key)
        elif isinstance(node[name], CfgNode) and isinstance(value, dict):
            yield from _tree_problems(root, node[name], value, f"{key}.", lines)
        else:
            yield from _value_problems(where, key, value, node[name])


def _pair_problems(cfg: CfgNode, key: str, value: Any) -> Iterator[str]:
    if cfg.key_is_deprecated(key):
        return
    node: Any = cfg
    for name in key.split("."):
        if not isinstance(node, CfgNode) or name not in node:
            yield _unknown(cfg, _COMMAND_LINE, key)
            return
        node = node[name]
    yield from _value_problems(_COMMAND_LINE, key, value, node)


def _check_pairs(overrides: Sequence[Any]) -> None:
    """Refuse what is no sequence of keys and values, whichever way it went wrong."""
    for word in overrides[::2]:
        if str(word).startswith("--"):
            raise ValueError(
                f"{_COMMAND_LINE}: {word} comes too late; options stand before the first KEY VALUE"
            )
        if "=" in str(word):
            key, _, value = str(word).partition("=")
            raise ValueError(
                f"{_COMMAND_LINE}: {word} must be two words, the key and its value: {key} {value}"
            )
    if len(overrides) % 2:
        raise ValueError(
            f"{_COMMAND_LINE}: {overrides[-1]} has no value; settings are pairs of KEY VALUE, but"
            f" there are {len(overrides)} words (a value with spaces needs quotes)"
        )


def _unknown(cfg: CfgNode, where: str, key: str) -> str:
    if cfg.key_is_renamed(key):
        try:
            cfg.raise_key_rename_error(key)
        except KeyError as error:
            return f"{where}: {error.args[0]}"
    hint = did_you_mean(key, known_keys(cfg))
    return f"{where}: there is no key {key}{hint or _siblings(cfg, key)}"


def _siblings(cfg: CfgNode, key: str) -> str:
    """Return what the deepest known section of a key has."""
    node, section = cfg, []
    for name in key.split(".")[:-1]:
        if not isinstance(node.get(name), CfgNode):
            break
        node = node[name]
        section.append(name)
    return f"; {'.'.join(section) or 'the top level'} has {', '.join(node)}"


def _value_problems(where: str, key: str, raw: Any, default: Any) -> Iterator[str]:
    """Compare a value with the key's default by the rules of yacs, whose types must agree."""
    if isinstance(default, CfgNode):
        kind = "empty" if raw is None else f"given the value {raw!r}"
        yield (
            f"{where}: {key} is a section and cannot be {kind}; set one of its keys,"
            f" {', '.join(default)}"
        )
        return
    if isinstance(raw, dict):
        yield f"{where}: {key} is one value, {_expected(default)}, not a section with keys"
        return
    value = CfgNode._decode_cfg_value(raw)
    if type(value) not in (*_KINDS, type(None)):
        kind = type(value).__name__
        yield f"{where}: {key} is a {kind}, {raw!r}, but must be {_expected(default)}"
    elif isinstance(default, list | tuple) and not isinstance(value, list | tuple | None):
        yield _no_list(where, key, raw, value)
    elif not _fits(value, default):
        hint = f"; write {float(value)}" if type(value) is int and type(default) is float else ""
        yield f"{where}: {key} is {raw!r}, but must be {_expected(default)}{hint}"


def _fits(value: Any, default: Any) -> bool:
    sequences = (list, tuple)
    if value is None or default is None or type(value) is type(default):
        return True
    return isinstance(value, sequences) and isinstance(default, sequences)


def _no_list(where: str, key: str, raw: Any, value: Any) -> str:
    """Return the sentence for ``("name")`` and ``(name,)``, which are one text, and for ``(3)``."""
    words = re.findall(r"[^\s()\[\]{},'\"]+", str(raw))
    numbers = [re.fullmatch(r"[-+.\deE]+", word) for word in words]
    items = (word if n else json.dumps(word) for word, n in zip(words, numbers, strict=True))
    right = f"[{', '.join(items)}]"
    if where == _COMMAND_LINE:
        right = f"'{right}'"
    kind = "text" if isinstance(value, str) else "value"
    return f"{where}: {key} must be a list, but {raw} is one {kind}; write {right}"


def _expected(default: Any) -> str:
    if default is None:
        return "a value"
    if default in ("", [], ()):
        return _KINDS[type(default)]
    example = repr(default)
    shown = example if len(example) <= 60 else f"{example[:57]}..."
    return f"{_KINDS[type(default)]} such as {shown}"

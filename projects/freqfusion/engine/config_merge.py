"""Set the keys of a configuration; what does not fit is told in a sentence a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from freqfusion.config import did_you_mean
from freqfusion.engine.config_file import ConfigFile, Place

_COMMAND_LINE = "command line"
_KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def merge_file(cfg: CfgNode, file: ConfigFile) -> None:
    """Set what a file says; one ValueError with a line for every key that does not fit."""
    _raise(list(_tree_problems(cfg, cfg, file.tree, "", file.places)))
    cfg.merge_from_other_cfg(CfgNode(file.tree))


def merge_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Set ``KEY VALUE`` pairs; one ValueError with a line for every pair that does not fit."""
    _check_pairs(overrides)
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    _raise([problem for key, value in pairs for problem in _pair_problems(cfg, str(key), value)])
    cfg.merge_from_list(list(overrides))


def known_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Every key, and every section, with dots."""
    for name, value in cfg.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from known_keys(value, f"{prefix}{name}.")


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


def _tree_problems(
    root: CfgNode, node: CfgNode, tree: Mapping[Any, Any], prefix: str, places: Mapping[str, Place]
) -> Iterator[str]:
    """What does not fit of a section of a file."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        where = str(places.get(key, "configuration file"))
        if name not in node:
            if not (node.is_new_allowed() or root.key_is_deprecated(key)):
                yield _unknown(root, where, key)
        elif isinstance(node[name], CfgNode) and isinstance(value, dict):
            yield from _tree_problems(root, node[name], value, f"{key}.", places)
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
    """What the deepest known section of a key has."""
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
    """The sentence for ``("name")`` and ``(name,)``, which are one text, and for ``(3)``."""
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

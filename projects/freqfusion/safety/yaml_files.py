"""Read YAML as plain data: no tag makes objects, no alias unfolds to more than a file can mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from freqfusion.safety.errors import RefusedError
from freqfusion.safety.extent import check_extent
from freqfusion.safety.formats import open_regular

logger = logging.getLogger(__name__)

_MOST_BYTES, _MOST_PARTS = 1 << 20, 200_000
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = {
    _STANDARD + kind
    for kind in (
        "null", "bool", "int", "float", "binary", "timestamp", "omap", "pairs", "set", "str", "seq",
        "map", "merge", "value",
    )
}  # fmt: skip
_NUMBERS = {f"{_STANDARD}int", f"{_STANDARD}float"}


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file that is meant to be written by hand.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, larger than 1 MiB, or no text.
    """
    with open_regular(Path(path)) as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes, which no YAML file here is")
    return raw.decode("utf-8")


def parse_yaml(
    text: str, name: str, *, unsafe: bool = False, look: Callable[[Any], None] | None = None
) -> Any:
    """The content of a text; None where it is empty.

    Args:
        text: YAML.
        name: Of the file, for messages.
        unsafe: Let tags run code.
        look: Given the root node, whose parts know their lines, before anything is made of it.

    Raises:
        ValueError: with the line, for text that is no YAML, for tags, and for aliases that unfold
            to far more than the file has, and for numbers to base 60.
    """
    import yaml

    loader = None
    try:
        loader = (yaml.UnsafeLoader if unsafe else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        check_extent(node, _children, most=_MOST_PARTS)
        _refuse_base_60(node, name)
        tagged = next((part for part in _parts(node) if part.tag not in _PLAIN), None)
        if tagged is not None and not unsafe:
            raise ValueError(_would_run_code(name, tagged))
        if tagged is not None:
            logger.warning("%s: the tag %s runs code, as was allowed", name, _written(tagged.tag))
        if look is not None:
            look(node)
        return _construct(loader, node, name)
    except RefusedError as error:
        raise ValueError(f"{name} {error}") from error
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{name}, {_line(error)}: this is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deep") from error
    finally:
        if loader is not None:
            loader.dispose()


def _construct(loader: Any, node: Any, name: str) -> Any:
    """What a tree of nodes stands for; dates and numbers may be none."""
    try:
        return loader.construct_document(node)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} has a value that is none: {error}") from error


def _children(node: Any) -> list[Any] | None:
    if isinstance(node.value, str):
        return None
    return [part for entry in node.value for part in (entry if type(entry) is tuple else (entry,))]


def _refuse_base_60(root: Any, name: str) -> None:
    """Refuse ``190:20:30``, which is 685230 in YAML 1.1; a long one takes Python forever."""
    for node in _parts(root):
        if node.tag in _NUMBERS and ":" in node.value:
            raise ValueError(
                f"{name}, line {node.start_mark.line + 1}: {node.value[:40]} is a number to base 60"
                " in YAML: write the plain number, or quotes around a text"
            )


def _parts(root: Any) -> Iterator[Any]:
    """Each node of a tree once, in the order of the text."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting.extend(reversed(_children(node) or ()))


def _would_run_code(name: str, node: Any) -> str:
    return (
        f"{name} holds a YAML tag that would run code, which a configuration must not:"
        f" {_written(node.tag)} in line {node.start_mark.line + 1}. Write the value itself in its"
        " place; only where you trust the file, --allow-unsafe-config lets it run"
    )


def _written(tag: str) -> str:
    """As it stands in the file."""
    return f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else tag


def _line(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    return "somewhere" if mark is None else f"line {mark.line + 1}"

"""Read the requirements that ``setup.py`` declares, without running it."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What must be there before detectron2 can be compiled: in one pip command, which sees all pins.
FOUNDATION = ("torch", "torchvision", "setuptools", "ninja", "wheel")


@dataclass(frozen=True)
class Requirements:
    """The declared requirements, sorted by the step that installs them.

    ``foundation`` comes first, ``detectron2`` is the pinned URL, ``companions`` are what this
    project adds to detectron2. ``constraints`` hold for every installation: none, or the lowest
    versions.
    """

    python: str
    foundation: tuple[str, ...]
    detectron2: str
    companions: tuple[str, ...]
    constraints: tuple[str, ...] = ()


def read_tables(setup_py: Path) -> dict[str, Any]:
    """Return the upper-case literals of ``setup.py`` by name."""
    tables = {}
    for node in ast.parse(setup_py.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            try:
                tables[name] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return {name: value for name, value in tables.items() if name.isupper()}


def requirement_name(requirement: str) -> str:
    """Return the normalised distribution name of a requirement string."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def lowest_version(requirement: str) -> str:
    """Return the requirement with its lower bound as the only version: ``a>=1,<3`` as ``a==1``."""
    return re.sub(r"^([\w.-]+)>=([\w.]+)[^;]*", r"\1==\2", requirement)


def read_requirements(setup_py: Path, *, oldest: bool = False) -> Requirements:
    """Sort what ``setup.py`` declares into the steps of the installation.

    ``oldest`` constrains whatever has a lower bound to that version.
    """
    tables = read_tables(setup_py)
    extra = tables["EXTRAS_REQUIRE"]["detectron2"]
    declared = {requirement_name(item): item for item in [*tables["INSTALL_REQUIRES"], *extra]}
    _, _, url = declared["detectron2"].partition("@")
    everything = [*tables["INSTALL_REQUIRES"], *itertools.chain(*tables["EXTRAS_REQUIRE"].values())]
    lowest = {lowest_version(item) for item in everything if ">=" in item.partition(";")[0]}
    return Requirements(
        python=tables["PYTHON_REQUIRES"],
        foundation=tuple(declared[name] for name in FOUNDATION),
        detectron2=url.strip(),
        companions=tuple(item for item in extra if not item.startswith("detectron2")),
        constraints=tuple(sorted(lowest)) if oldest else (),
    )


def supports(python_requires: str, version: tuple[int, ...]) -> bool:
    """Say whether ``version`` satisfies a range such as ``>=3.11,<3.14``."""
    lower, upper = re.fullmatch(r">=(\d+\.\d+),<(\d+\.\d+)", python_requires).groups()  # type: ignore[union-attr]

    def parse(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("."))

    return parse(lower) <= version[:2] < parse(upper)

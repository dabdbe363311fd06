"""Read and compare requirements; the only module here that needs ``packaging``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

from freqfusion.tools._doctor.facts import normalise


@dataclass(frozen=True)
class Pin:
    """A declared requirement: its text without the marker, its version range and its extra."""

    text: str
    specifier: str
    extra: str


def _packaging(module: str) -> ModuleType:
    """Import a module of packaging, or pip's own copy where packaging is missing."""
    try:
        return importlib.import_module(f"packaging.{module}")
    except ImportError:
        return importlib.import_module(f"pip._vendor.packaging.{module}")


def satisfies(version: str, specifier: str) -> bool:
    """Say whether a version is inside a range; pre-releases count by their number."""
    allowed = _packaging("specifiers").SpecifierSet(specifier)
    return bool(allowed.contains(version, prereleases=True))


def read_pins(requires: Iterable[str]) -> dict[str, Pin]:
    """Sort the requirements of freqfusion by package; the first mention of a package counts."""
    requirement = _packaging("requirements").Requirement
    pins: dict[str, Pin] = {}
    for line in requires:
        item = requirement(line)
        extra = ""
        if item.marker is not None and not item.marker.evaluate({"extra": ""}):
            extra = str(item.marker).rpartition("extra == ")[2].strip("\"' ")
        name = normalise(item.name)
        if name == "freqfusion" or extra == "dev":
            continue
        text = f"{item.name} @ {item.url}" if item.url else f"{item.name}{item.specifier}"
        pins.setdefault(name, Pin(text, str(item.specifier), extra))
    return pins


def unmet(requires: Iterable[str], versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """List the requirements that an installed package does not meet, as (package, requirement)."""
    requirement = _packaging("requirements").Requirement
    found = []
    for line in requires:
        item = requirement(line)
        name = normalise(item.name)
        applies = item.marker is None or item.marker.evaluate({"extra": ""})
        if applies and name in versions and not satisfies(versions[name], str(item.specifier)):
            found.append((name, f"{item.name}{item.specifier}"))
    return found

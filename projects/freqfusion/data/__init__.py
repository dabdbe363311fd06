"""Data sets: registration, mappers, checks, and synthetic scenes (numpy and Pillow only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def load_lazily(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` that loads the module of a public name at its first use (PEP 562).

    Args:
        package: The package's ``__name__``.
        modules: Public name -> module of the package.
    """

    def load(name: str) -> Any:
        if name in modules:
            return getattr(import_module(f"{package}.{modules[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load

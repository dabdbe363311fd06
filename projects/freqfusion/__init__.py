"""FreqFusion and Spatial Frequency Modulation for Detectron2 and for plain PyTorch.

Importing the package is cheap: a subpackage such as ``freqfusion.layers`` is loaded when it is
first used, and nothing here imports Detectron2.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from freqfusion._version import __version__

__all__ = ["__version__"]

_SUBPACKAGES = ("analysis", "data", "layers", "metrics", "tools")


def __getattr__(name: str) -> ModuleType:
    """Load a subpackage at its first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})

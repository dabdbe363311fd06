"""FreqFusion and Spatial Frequency Modulation for Detectron2 and for plain PyTorch.

Importing the package is cheap: a subpackage such as ``freqfusion.layers`` is loaded when it is
first used. ``Predictor``, ``add_freqfusion_config`` and ``get_freqfusion_cfg`` need Detectron2;
asking for one of them registers everything that a Detectron2 configuration can name.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from freqfusion._version import __version__

__all__ = ["__version__"]

_SUBPACKAGES = (
    "analysis",
    "config",
    "data",
    "drawing",
    "engine",
    "evaluation",
    "files",
    "layers",
    "metrics",
    "model_zoo",
    "modeling",
    "predictor",
    "tools",
)
# Names that need Detectron2, and where they are.
_DETECTRON2_NAMES = {
    "Predictor": "predictor",
    "add_freqfusion_config": "config",
    "get_freqfusion_cfg": "config",
}


def __getattr__(name: str) -> Any:
    """Load a subpackage, or what needs Detectron2, at its first use (PEP 562)."""
    if name in _DETECTRON2_NAMES:
        if importlib.util.find_spec("detectron2") is None:
            raise ImportError(
                f"freqfusion.{name} needs Detectron2, which is not installed. Run 'python -m "
                "freqfusion.tools.doctor': it prints the command that installs it."
            )
        importlib.import_module(f"{__name__}.modeling")
        return getattr(importlib.import_module(f"{__name__}.{_DETECTRON2_NAMES[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES, *_DETECTRON2_NAMES})

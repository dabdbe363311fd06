"""Synthetic scenes: images with exact ground truth, painted from a seed.

Layered landscapes of textured stuff and overlapping things, many of them thin, to measure
boundaries and fine detail on. Use them in memory (``make_scene``, ``scene_batch``) or write a data
set in COCO or Cityscapes layout. Needs numpy, Pillow and tqdm only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from freqfusion.data.categories import Category
from freqfusion.data.synthetic.categories import (
    CATEGORIES,
    CLASS_COLORS,
    CLASS_NAMES,
    NUM_CLASSES,
    SPLITS,
    THIN_CATEGORIES,
    VOID_LABEL,
    panoptic_metadata,
    separated_metadata,
)

if TYPE_CHECKING:
    from freqfusion.data.synthetic.cityscapes import write_cityscapes
    from freqfusion.data.synthetic.coco import write_coco
    from freqfusion.data.synthetic.scenes import DETAILS, Scene, Segment, make_scene, scene_batch
    from freqfusion.data.synthetic.writing import TUNE_START, VAL_START

__all__ = [
    "CATEGORIES",
    "CLASS_COLORS",
    "CLASS_NAMES",
    "DETAILS",
    "NUM_CLASSES",
    "SPLITS",
    "THIN_CATEGORIES",
    "TUNE_START",
    "VAL_START",
    "VOID_LABEL",
    "Category",
    "Scene",
    "Segment",
    "make_scene",
    "panoptic_metadata",
    "scene_batch",
    "separated_metadata",
    "write_cityscapes",
    "write_coco",
]

# Loaded at their first use, since registering data sets needs the categories alone.
_LAZY = {
    "write_cityscapes": "cityscapes",
    "write_coco": "coco",
    "DETAILS": "scenes",
    "Scene": "scenes",
    "Segment": "scenes",
    "make_scene": "scenes",
    "scene_batch": "scenes",
    "TUNE_START": "writing",
    "VAL_START": "writing",
}


def __getattr__(name: str) -> Any:
    """Return a public name of another module (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

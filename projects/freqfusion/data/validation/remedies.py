"""Which command makes a file that is derived from others."""

from __future__ import annotations

from pathlib import Path

_PREPARE = "python -m freqfusion.tools.prepare"


def remedy(path: str) -> str:
    """``" (made by ...)"`` for a derived file or folder, and nothing for one of a download."""
    parts = Path(path).parts
    if {"annotations_detectron2", "camvid"} <= set(parts):
        return f" (made by {_PREPARE} camvid)"
    if "annotations_detectron2" in parts:
        return f" (made by {_PREPARE} ade20k)"
    if any(part.startswith(("cityscapes_panoptic_", "cityscapes_stuff_")) for part in parts):
        return f" (made by {_PREPARE} cityscapes)"
    if path.endswith("_labelTrainIds.png"):
        return f" (made by {_PREPARE} cityscapes)"
    if any(part.startswith("panoptic_stuff_") for part in parts):
        if any(part.endswith(("train2017", "val2017")) for part in parts):
            return f" (made by {_PREPARE} coco)"
        return (
            f" (made by {_PREPARE} <declaration>.yaml from an own data set's panoptic files, by"
            " python -m freqfusion.tools.synthesize for synthetic scenes)"
        )
    if "synthetic" in parts:
        return " (made by python -m freqfusion.tools.synthesize)"
    return ""

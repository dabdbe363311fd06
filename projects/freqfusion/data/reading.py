"""Label pictures from disk, as the numbers that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

from freqfusion.metrics.id_codec import rgb_to_id


def read_label_png(path: str | Path) -> NDArray[np.integer[Any]]:
    """Labels of a grey or palette PNG; ValueError for a file that is missing or holds colours.

    Detectron2 reads labels by converting to grey, which mixes up the labels of a palette PNG.
    """
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as picture:
            labels, mode = np.asarray(picture), picture.mode
    except OSError as error:
        raise ValueError(f"cannot read the semantic truth {path}: {error}") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path} is a picture of mode {mode}, but labels need one number a pixel; save it as"
            " 8 or 16 bit grey"
        )
    return labels


def read_panoptic_colors(path: str | Path) -> NDArray[np.uint8]:
    """Colours (height x width x 3) of a panoptic PNG; ValueError where it is missing or grey."""
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as picture:
            if picture.mode not in ("RGB", "RGBA", "P"):
                raise ValueError(
                    f"{path} is a picture of mode {picture.mode}, but panoptic ids are colours"
                    " (R + 256 G + 65536 B); save it as RGB"
                )
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"cannot read the panoptic truth {path}: {error}") from error


def read_panoptic_png(path: str | Path) -> NDArray[np.int32]:
    """Segment ids (height x width) of a panoptic PNG; errors as ``read_panoptic_colors``."""
    return rgb_to_id(read_panoptic_colors(path))

"""Pictures from disk, as the numbers that they hold; what cannot be read is a ValueError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from freqfusion.data.validation.pictures import DEEP_MODES, UNREADABLE
from freqfusion.metrics.id_codec import rgb_to_id


def read_image(path: str | Path, image_format: str) -> tuple[NDArray[Any], str | None]:
    """An image as Detectron2 reads it (height x width x channels, turned as EXIF says), and a note.

    The note says what was left out of a file with several frames; else it is None. ValueError for a
    file that is missing, is no whole picture, has no pixels, is so large that it must be a mistake
    (Pillow's limit) or has more than 8 bits of grey, which the conversion would cut off at 255.
    """
    name = str(path)
    try:
        with PathManager.open(name, "rb") as file, Image.open(file) as picture:
            mode, frames = picture.mode, getattr(picture, "n_frames", 1)
            image = pixels_of(picture, image_format)
    except UNREADABLE as error:
        raise ValueError(f"cannot read the image {name}: {in_words(error)}") from error
    check_depth(mode, name)
    if not image.size:
        raise ValueError(f"{name} has no pixels: it is {image.shape[0]} x {image.shape[1]}")
    return image, f"{name} has {frames} frames: the first one is taken" if frames > 1 else None


def pixels_of(picture: Image.Image, image_format: str) -> NDArray[Any]:
    """Return an open image as an array, turned as EXIF says; errors of Pillow pass."""
    upright = detection_utils._apply_exif_orientation(picture)
    pixels: NDArray[Any] = detection_utils.convert_PIL_to_numpy(upright, image_format)
    return pixels


def check_depth(mode: str, name: str) -> None:
    """Refuse an image with more than 8 bits of grey, by the mode that Pillow gives it."""
    if mode in DEEP_MODES:
        raise ValueError(
            f"{name} is an image of mode {mode}, whose values would be cut off at 255; save it as"
            " 8 bit grey or RGB"
        )


def read_label_png(path: str | Path) -> NDArray[np.integer[Any]]:
    """Labels of a grey or palette PNG; ValueError for a file that is missing or holds colours.

    Detectron2 reads labels by converting to grey, which mixes up the labels of a palette PNG.
    """
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as picture:
            labels, mode = np.asarray(picture), picture.mode
    except UNREADABLE as error:
        raise ValueError(f"cannot read the semantic truth {path}: {in_words(error)}") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path} is a picture of mode {mode}, but labels need one number a pixel; save it as"
            " 8 or 16 bit grey"
        )
    return labels


def read_panoptic_colors(path: str | Path) -> NDArray[np.uint8]:
    """Colours (height x width x 3) of a panoptic PNG; ValueError where it is missing or grey."""
    colors: NDArray[np.uint8] | None = None
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as picture:
            mode = picture.mode
            if mode in ("RGB", "RGBA", "P"):
                colors = np.asarray(picture.convert("RGB"))
    except UNREADABLE as error:
        raise ValueError(f"cannot read the panoptic truth {path}: {in_words(error)}") from error
    if colors is None:
        raise ValueError(
            f"{path} is a picture of mode {mode}, but panoptic ids are colours"
            " (R + 256 G + 65536 B); save it as RGB"
        )
    return colors


def read_panoptic_png(path: str | Path) -> NDArray[np.int32]:
    """Segment ids (height x width) of a panoptic PNG; errors as ``read_panoptic_colors``."""
    return rgb_to_id(read_panoptic_colors(path))


def in_words(error: BaseException) -> str:
    """The message of an error on one line, or its kind where it has none."""
    if isinstance(error, UnidentifiedImageError):  # its message shows an object of Python
        return "it is no picture of a known format"
    return " ".join(str(error).split()) or type(error).__name__

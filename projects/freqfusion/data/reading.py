"""Read images and ground truth from disk, as the numbers that they hold.

What cannot be read is a ValueError that names the file. Files are read whole, so that a truncated
one shows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from freqfusion.data.validation.issues import remedy, unusable
from freqfusion.metrics.id_codec import rgb_to_id

UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's for a damaged PNG
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are no whole image."""

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""More than 8 bits, which a conversion to RGB cuts off."""

PANOPTIC_MODES = ("RGB", "RGBA", "P")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
LABEL_MODES = ("L", "P", "I", "I;16", "I;16B")
_GROUND_TRUTH = "the ground truth"

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Pixels as they lie in the file, and the size that Detectron2 sees (turned as EXIF says)."""

    path: str
    pixels: NDArray[Any]
    mode: str
    size: tuple[int, int]


def read_file(path: str, to_rgb: Collection[str] = ()) -> ImageFile:
    """Read an image as it is, or as RGB where its mode is one of ``to_rgb``.

    Raises one of ``UNREADABLE`` where it is missing or not whole.
    """
    with _open(path) as stream, Image.open(stream) as file:
        pixels = np.asarray(file.convert("RGB") if file.mode in to_rgb else file)
        mode, turned = file.mode, _is_turned(file)
    height, width = pixels.shape[:2]
    return ImageFile(path, pixels, mode, (width, height) if turned else (height, width))


def read_image(path: str | Path, image_format: str) -> tuple[NDArray[Any], str | None]:
    """Return an image as Detectron2 reads it (height x width x channels), and a note.

    The note says what was left out of a file with several frames; else it is None. ValueError for a
    file that is missing, is no whole image, has no pixels, is so large that it must be a mistake
    (Pillow's limit) or has more than 8 bits of grey, which the conversion would cut off at 255.
    """
    name = str(path)
    try:
        with _open(name) as file, Image.open(file) as opened:
            mode, frames = opened.mode, getattr(opened, "n_frames", 1)
            image = pixels_of(opened, image_format)
    except UNREADABLE as error:
        raise ValueError(f"cannot read the image {name}: {in_words(error)}") from error
    check_depth(mode, name)
    if not image.size:
        raise ValueError(f"{name} has no pixels: it is {image.shape[0]} x {image.shape[1]}")
    return image, f"{name} has {frames} frames: the first one is taken" if frames > 1 else None


def pixels_of(image: Image.Image, image_format: str) -> NDArray[Any]:
    """Return an open image as an array, turned as EXIF says; errors of Pillow pass."""
    from detectron2.data import detection_utils

    upright = detection_utils._apply_exif_orientation(image)
    pixels: NDArray[Any] = detection_utils.convert_PIL_to_numpy(upright, image_format)
    return pixels


def check_depth(mode: str, name: str) -> None:
    """Refuse an image with more than 8 bits of grey, by the mode that Pillow gives it."""
    if mode in DEEP_MODES:
        raise ValueError(
            f"{name} is an image of mode {mode}, whose values would be cut off at 255; save it as"
            " 8 bit grey or RGB"
        )


def check_file(path: str | Path, named_by: str, to_rgb: Collection[str] = ()) -> ImageFile:
    """Read an image whole, as RGB where its mode is one of ``to_rgb``, or refuse it."""
    try:
        return read_file(str(path), to_rgb)
    except FileNotFoundError as reason:
        expected = f"an image, since {named_by} needs it{remedy(path)}"
        raise unusable("missing file", path, "is not there", expected) from reason
    except UNREADABLE as reason:
        found, expected = (
            f"cannot be read ({in_words(reason)})",
            f"a whole image{remedy(path)}",
        )
        raise unusable("unreadable image", path, found, expected) from reason


def check_mode(image: ImageFile, allowed: Collection[str], what: str) -> None:
    """Refuse a map of another mode than those allowed."""
    if image.mode not in allowed:
        expected = f"{what} (mode {' or '.join(allowed)})"
        raise unusable("image of a wrong mode", image.path, f"has the mode {image.mode}", expected)


def label_files(image_root: str, sem_seg_root: str) -> Iterator[tuple[Path, Path]]:
    """Yield each image of a folder and of those below, in order, and the PNG of the same name."""
    for image in sorted(Path(image_root).rglob("*")):
        if image.suffix in IMAGE_SUFFIXES and not image.name.startswith("."):
            label = image.relative_to(image_root).with_suffix(".png")
            yield image, Path(sem_seg_root) / label


def read_label_png(path: str | Path) -> NDArray[np.integer[Any]]:
    """Return the labels of a grey or palette PNG; ValueError for one that is missing or colored.

    Detectron2 reads labels by converting to grey, which mixes up the labels of a palette PNG.
    """
    png = check_file(path, _GROUND_TRUTH)
    check_mode(png, LABEL_MODES, "one number a pixel")
    return png.pixels


def read_panoptic_colors(path: str | Path) -> NDArray[np.uint8]:
    """Return a panoptic PNG's colors (height x width x 3); ValueError if it is missing or grey."""
    png = check_file(path, _GROUND_TRUTH, PANOPTIC_MODES)
    check_mode(png, PANOPTIC_MODES, "ids as 8 bit colors")
    return png.pixels


def read_panoptic_png(path: str | Path) -> NDArray[np.int32]:
    """Return the segment ids (height x width) of a panoptic PNG, as ``read_panoptic_colors``."""
    return rgb_to_id(read_panoptic_colors(path))


def in_words(error: BaseException) -> str:
    """Return the message of an error on one line, or its kind where it has none."""
    if isinstance(error, UnidentifiedImageError):  # its message shows an object of Python
        return "it is no image of a known format"
    return " ".join(str(error).split()) or type(error).__name__


def _open(path: str) -> IO[bytes]:
    """Open a file; of paths that are no local ones, Detectron2 knows some."""
    if "://" not in path:
        return open(path, "rb")
    from detectron2.utils.file_io import PathManager

    stream: IO[bytes] = PathManager.open(path, "rb")
    return stream


def _is_turned(file: Image.Image) -> bool:
    try:
        return file.getexif().get(_ORIENTATION) in _TURNED
    except UNREADABLE:
        # Detectron2 ignores EXIF that cannot be read, too.
        return False

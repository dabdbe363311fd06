"""Pictures read whole, so that a truncated file shows."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.validation.finding import Finding, error, format_size, note

Size = tuple[int, int]
"""Height, width."""

UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's for a damaged PNG
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are no whole picture."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
# Converted to RGB without loss of what the picture shows.
_PLAIN_MODES = ("RGB", "L")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""More than 8 bits, which a conversion to RGB cuts off."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels as they lie in the file, and the size that Detectron2 sees (turned as EXIF says)."""

    path: str
    pixels: NDArray[Any]
    mode: str
    size: Size


def read_picture(path: str, named_by: str) -> Picture | Finding:
    """Read a picture; a finding if it is missing or not whole."""
    if not os.path.isfile(path):
        return error("missing file", path, "is not there", f"a picture, since {named_by} needs it")
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file)
            mode, turned = file.mode, _is_turned(file)
    except UNREADABLE as reason:
        words = " ".join(str(reason).split()) or type(reason).__name__
        return error("unreadable picture", path, f"cannot be read ({words})", "a whole picture")
    height, width = pixels.shape[:2]
    return Picture(path, pixels, mode, (width, height) if turned else (height, width))


def digest(picture: Picture) -> bytes:
    """Fingerprint of size, mode and pixels, whatever the file format."""
    mark = hashlib.blake2b(f"{picture.mode} {picture.pixels.shape}".encode(), digest_size=16)
    mark.update(np.ascontiguousarray(picture.pixels).data)
    return mark.digest()


def mode_findings(picture: Picture) -> list[Finding]:
    """What a training image's mode means for reading it as RGB."""
    if picture.mode in _PLAIN_MODES:
        return []
    if picture.mode in DEEP_MODES:
        return [
            error(
                "picture of a wrong mode",
                picture.path,
                f"has the mode {picture.mode}, which is cut off at 255 when it is read as RGB",
                "8 bit RGB or grey",
            )
        ]
    return [
        note(
            "picture of a wrong mode",
            picture.path,
            f"has the mode {picture.mode} and will be converted",
            "8 bit RGB or grey",
        )
    ]


def truth_mode(picture: Picture, allowed: Collection[str], what: str) -> list[Finding]:
    """An error if a truth picture has another mode than those allowed."""
    if picture.mode in allowed:
        return []
    return [
        error(
            "picture of a wrong mode",
            picture.path,
            f"has the mode {picture.mode}",
            f"{what} (mode {' or '.join(allowed)})",
        )
    ]


def size_findings(file: object, size: Size, other: Size | None, owner: str) -> list[Finding]:
    """An error if ``size``, of ``file``, is not that of ``owner``; None is unknown and fits."""
    if other is None or size == other:
        return []
    return [
        error(
            "size mismatch",
            file,
            f"is {format_size(size)}",
            f"{format_size(other)} as {owner}",
        )
    ]


def _is_turned(file: Image.Image) -> bool:
    try:
        return file.getexif().get(_ORIENTATION) in _TURNED
    except UNREADABLE:
        # Detectron2 ignores EXIF that cannot be read, too.
        return False

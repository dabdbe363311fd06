"""Bytes that somebody sends, as an image; nothing is believed before it is checked."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from freqfusion.drawing import Picture

# Formats that hold pixels only; what Pillow would hand to other programs (EPS) is not among them.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
_SMALLEST_SIDE = 8
_LONGEST_TO_SHORTEST = 20


@dataclass(frozen=True)
class Limits:
    """The most bytes and pixels that an image may have."""

    bytes: int
    pixels: int

    @property
    def said(self) -> str:
        """Such as ``20 MB``."""
        return f"{self.bytes / 1e6:g} MB"


def decode_image(data: bytes, limits: Limits) -> Picture:
    """An image in RGB, turned the way its camera was held; of several in a file, the first.

    Raises:
        ValueError: if it is none of ``FORMATS``, broken, of more than 8 bits of grey, or too large,
            small or narrow.
    """
    from PIL import Image

    from freqfusion.data.reading import check_depth, pixels_of

    if len(data) > limits.bytes:
        raise ValueError(f"the file has more than {limits.said}; send a smaller one")
    # Pillow warns of large images; our own limit decides.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            file = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(_too_many(limits)) from error
        except Exception as error:
            raise ValueError(f"this is no image; sent can be {', '.join(FORMATS)}") from error
        with file:
            # Only the header has been read so far.
            _check_size(file.size, limits)
            check_depth(file.mode, "the file")
            try:
                return pixels_of(file, "RGB").copy()
            # What a decoder raises on broken data depends on the format.
            except Exception as error:
                raise ValueError(f"the image is broken: {error}") from error


def shrunk(image: Picture, most: int) -> Picture:
    """The image, with no more pixels than that; a model gives scores for each of them."""
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    if height * width <= most:
        return image
    scale = (most / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    short, long = sorted(size)
    if short * long > limits.pixels:
        raise ValueError(f"{size[0]} x {size[1]} pixels: {_too_many(limits)}")
    if short < _SMALLEST_SIDE or long > _LONGEST_TO_SHORTEST * short:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels: sides must be {_SMALLEST_SIDE} pixels or more, and the"
            f" longer one at most {_LONGEST_TO_SHORTEST} times the shorter"
        )


def _too_many(limits: Limits) -> str:
    return f"an image may have {limits.pixels / 1e6:g} million pixels; send a smaller one"

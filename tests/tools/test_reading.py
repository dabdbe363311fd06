"""Training, the viewer and ``visualize`` read the same image from a file, or refuse it alike."""

import io
import re

import numpy as np
import pytest
from bad_inputs import PIXELS, deep_rgb
from PIL import Image

from freqfusion.data.reading import read_image
from freqfusion.tools import _images
from freqfusion.tools._viewer import read_upload

pytestmark = pytest.mark.detectron2

MOST_PIXELS = 10_000
RAMP = np.arange(320).reshape(16, 20)
REFUSED = {
    "I;16": (RAMP.astype(np.uint16) * 200, "PNG"),
    "I": (RAMP.astype(np.int32) * 9000, "TIFF"),
    "F": (RAMP.astype(np.float32) / 320, "TIFF"),
}
MODES = ("L", "LA", "1", "P", "RGBA", "CMYK")
ACCEPTED = {
    "16-bit RGB": (deep_rgb(), PIXELS),
    **{mode: (Image.fromarray(PIXELS).convert(mode), None) for mode in MODES},
}


def file_of(folder, data):
    path = folder / "image"
    path.write_bytes(data)
    return path


def encoded(picture, kind):
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", REFUSED)
def test_deep_images_are_refused_alike(mode, tmp_path):
    """A conversion to 8 bits would cut them off: most of what they show were white, or black."""
    pixels, kind = REFUSED[mode]
    data = encoded(Image.fromarray(pixels), kind)
    path = file_of(tmp_path, data)
    sentence = (
        f"is an image of mode {mode}, whose values would be cut off at 255; save it as 8 bit grey"
        " or RGB"
    )
    for read in (lambda: read_image(path, "BGR"), lambda: _images.read_image(path)):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {sentence}')}$"):
            read()
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path.name} {sentence}')}$"):
        read_upload(str(path), MOST_PIXELS)


@pytest.mark.parametrize("mode", ACCEPTED)
def test_other_images_are_read_alike(mode, tmp_path):
    picture, expected = ACCEPTED[mode]
    data = picture if isinstance(picture, bytes) else encoded(picture, "TIFF")
    if expected is None:
        expected = np.asarray(picture.convert("RGB"))
    path = file_of(tmp_path, data)
    assert np.array_equal(read_image(path, "BGR")[0][..., ::-1], expected)
    assert np.array_equal(_images.read_image(path), expected)
    assert np.array_equal(read_upload(str(path), MOST_PIXELS), expected)

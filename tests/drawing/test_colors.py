"""Palettes are far apart and repeatable, Oklab goes there and back, ink can be read."""

import itertools

import numpy as np
import pytest

from freqfusion.drawing.colors import from_oklab, ink_on, palette, shade, to_oklab


def distance(first, second):
    lab = to_oklab(np.array([first, second], dtype=np.float64))
    return float(np.linalg.norm(lab[0] - lab[1]))


def test_oklab_of_known_colors():
    """White is (1, 0, 0); the values of red are those of Ottosson's article, rounded."""
    lab = to_oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]], dtype=np.float64))
    expected = [[1, 0, 0], [0.628, 0.225, 0.126], [0, 0, 0]]
    np.testing.assert_allclose(lab, expected, atol=1e-3)


def test_oklab_goes_there_and_back():
    colors = np.random.default_rng(0).integers(0, 256, (200, 3))
    assert (from_oklab(to_oklab(colors.astype(np.float64))) == colors).all()


def test_palette_is_well_separated():
    colors = palette(20)
    pairs = itertools.combinations([*colors, (0, 0, 0), (255, 255, 255)], 2)
    # In a random choice of 20 the nearest two are about 0.02 apart.
    assert min(distance(*pair) for pair in pairs) > 0.1
    assert all(distance(color, (128, 128, 128)) > 0.05 for color in colors)


def test_palette_begins_alike_and_never_ends():
    assert palette(0) == []
    assert palette(300)[:7] == palette(7)
    assert len(set(palette(150))) == 150
    assert all(0 <= value <= 255 for color in palette(300) for value in color)
    with pytest.raises(ValueError, match="0 or more colors, not -1"):
        palette(-1)


def test_shades_are_relatives():
    color = (60, 120, 60)
    assert shade(color, 0) == shade(color, 6) == color
    shades = [shade(color, step) for step in range(6)]
    assert len(set(shades)) == 6
    assert all(0.02 < distance(color, other) < 0.25 for other in shades[1:])


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (20, 10, 20), (0, 0, 142)])
def test_dark_and_light_colors_have_shades_too(color):
    assert all(distance(color, shade(color, step)) > 0.02 for step in (1, 2, 3, 4, 5))


def test_ink():
    assert ink_on((250, 240, 60)) == (0, 0, 0)
    assert ink_on((0, 0, 142)) == (255, 255, 255)

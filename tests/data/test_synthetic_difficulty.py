"""Each dial does what it says, measured on the scenes themselves."""

import numpy as np
import pytest

from freqfusion.data.synthetic import (
    CLASS_NAMES,
    DETAILS,
    THIN_CATEGORIES,
    Difficulty,
    make_scene,
)
from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.painting import (
    paint_fence,
    paint_pole,
    paint_power_line,
)
from freqfusion.data.synthetic.shapes import Window
from freqfusion.data.synthetic.textures import at_frequency
from freqfusion.metrics import erode

SIZE = (128, 160)
THIN_LABELS = [CLASS_NAMES.index(category.name) for category in THIN_CATEGORIES]


def test_object_size():
    """Twice as large, a disc has four times the area; it still stands where it stood."""
    sizes = []
    for factor in (1.0, 2.0):
        heights, areas = [], []
        for index in range(40):
            scene = make_scene(
                4, index, SIZE, detail="simple", difficulty=Difficulty(object_size=factor)
            )
            for segment in scene.segments:
                if CLASS_NAMES[0] == "disc" and segment.category_id == 1:
                    y, x = np.nonzero(scene.panoptic == segment.id)
                    areas.append(len(x))
                    heights.append(y.max())
        sizes.append((np.median(areas), np.median(heights)))
    (small, low), (large, still) = sizes
    assert 3 < large / small < 4.5
    assert abs(low - still) < 6


def test_texture_frequency_on_a_wave():
    """A wave of 12 pixels has 6 with factor 2 and 24 with 1/2, wherever the window lies."""

    def wave(window):
        y, x = window.grid()
        level = 100 + 50 * np.sin(2 * np.pi * (x + 0 * y) / 12, dtype=np.float32)
        return np.broadcast_to(level, (3, window.height, window.width))

    window = Window(5, -3, 16, 48)
    _, x = window.grid()
    for factor, period in ((2.0, 6), (0.5, 24), (1.0, 12)):
        found = at_frequency(wave, factor)(window)
        assert found.shape == (3, 16, 48)
        expected = 100 + 50 * np.sin(2 * np.pi * x / period)
        np.testing.assert_allclose(found[0], np.broadcast_to(expected, (16, 48)), atol=2)


def test_texture_frequency_of_scenes():
    """Without grain, the step from pixel to pixel of what is not an edge grows with the dial."""
    steps = []
    for factor in (0.25, 1.0, 3.0):
        dials = Difficulty(texture_frequency=factor, noise=0)
        values = []
        for index in range(10):
            scene = make_scene(6, index, SIZE, detail="simple", difficulty=dials)
            flat = scene.image.astype(float).mean(axis=2)
            inside = erode(scene.semantic() == CLASS_NAMES.index("grass"), 2)
            change = np.abs(np.diff(flat, axis=0))[inside[1:] & inside[:-1]]
            values.append(change.mean() if change.size else 0)
        steps.append(np.mean(values))
    assert steps[0] < 0.6 * steps[1]
    assert steps[2] > 1.2 * steps[1]


def contrasts(factor):
    """Mean difference of each simple scene to the one without contrast, over its things."""
    found = []
    for index in range(10):
        scene, empty = (
            make_scene(
                8, index, SIZE, detail="simple", difficulty=Difficulty(contrast=part, noise=0)
            )
            for part in (factor, 0)
        )
        inside = np.isin(scene.semantic(), [0, 2])
        if inside.any():
            found.append(np.abs(scene.image[inside].astype(float) - empty.image[inside]).mean())
    return np.array(found)


def test_contrast():
    """Half the dial, half the difference; single scenes are off where colors clip, see below."""
    whole = contrasts(1)
    assert whole.min() > 5
    assert np.median(contrasts(0.5) / whole) == pytest.approx(0.5, abs=0.06)
    assert np.median(contrasts(1.4) / whole) > 1.15
    assert contrasts(0).max() == 0


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_contrast_is_exact_on_the_canvas(factor):
    """Before light, blur and bytes: behind + factor * (painted - behind), between 0 and 255."""
    behind = np.random.default_rng(0).uniform(60, 190, (3, *SIZE)).astype(np.float32)
    pictures = []
    for contrast in (1, factor):
        canvas = Canvas(View(*SIZE, 50.0, 0.5), Difficulty(contrast=contrast))
        canvas.image[:] = behind
        paint_fence(canvas, np.random.default_rng(1))
        pictures.append(canvas.image)
    assert np.abs(pictures[0] - behind).max() > 30
    expected = np.clip(behind + factor * (pictures[0] - behind), 0, 255)
    np.testing.assert_allclose(pictures[1], expected, atol=1e-3)


def test_without_contrast_only_sky_and_grass_are_seen():
    """At the canvas, before light and blur: things leave no trace in the picture."""
    view = View(*SIZE, 50.0, 0.5)
    canvas = Canvas(view, Difficulty(contrast=0))
    canvas.image[:] = np.random.default_rng(0).uniform(0, 255, canvas.image.shape)
    before = canvas.image.copy()
    rng = np.random.default_rng(1)
    paint_fence(canvas, rng)
    paint_power_line(canvas, rng)
    paint_pole(canvas, rng, (80.0, 120.0), 1)
    np.testing.assert_array_equal(canvas.image, before)
    assert canvas.owner.any()


def test_noise():
    """Grain is uniform, g wide with g from 3 to 24: its deviation is factor * g / sqrt(12)."""
    for index in range(6):
        clean, plain, strong = (
            make_scene(9, index, SIZE, difficulty=Difficulty(noise=n)).image.astype(float)
            for n in (0, 1, 2)
        )
        middle = (clean > 60) & (clean < 195)
        one, two = ((noisy - clean)[middle].std() for noisy in (plain, strong))
        assert two / one == pytest.approx(2, rel=0.05)
        assert 3 / 12**0.5 - 0.3 < one < 24 / 12**0.5 + 0.3


def hidden_fraction(detail, occlusion, canvases):
    """Part of what is painted of the things that a later thing hides, and the number of things."""
    painted = seen = things = 0
    for index in range(12):
        canvases.clear()
        make_scene(5, index, SIZE, detail=detail, difficulty=Difficulty(occlusion=occlusion))
        canvas, patches = canvases[-1]
        for number, (category, _) in enumerate(canvas.segments, start=1):
            if category.is_thing:
                things += 1
                painted += patches[number].sum()
                seen += (canvas.owner == number).sum()
    return 1 - seen / painted, things


@pytest.fixture
def canvases(monkeypatch):
    """Each canvas with the whole shape of each of its segments, whatever hides it later."""
    kept = []
    fill = Canvas._fill

    def spy(self, patch, texture, segment, *more, **named):
        if not kept or kept[-1][0] is not self:
            kept.append((self, {}))
        whole = kept[-1][1].setdefault(segment, np.zeros(self.view.size, dtype=bool))
        whole[patch.window.slices] |= patch.mask
        fill(self, patch, texture, segment, *more, **named)

    monkeypatch.setattr(Canvas, "_fill", spy)
    return kept


@pytest.mark.parametrize("detail", DETAILS)
def test_occlusion(detail, canvases):
    """More things, and more of each of them hidden."""
    few, usual, many = (hidden_fraction(detail, part, canvases) for part in (0.3, 1.0, 3.0))
    assert few[0] < usual[0] < many[0]
    assert many[0] > 1.3 * usual[0]
    assert few[1] < usual[1] < many[1]


def test_no_things_without_occlusion():
    for index in range(6):
        scene = make_scene(5, index, SIZE, detail="simple", difficulty=Difficulty(occlusion=0))
        assert not any(segment.is_thing for segment in scene.segments)

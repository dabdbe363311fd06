"""What dials leave alone: the layout of a scene, whatever they are set to."""

import dataclasses

import numpy as np
import pytest

from freqfusion.data.synthetic import (
    CLASS_NAMES,
    DETAILS,
    THIN_CATEGORIES,
    Difficulty,
    make_scene,
    scene_batch,
)
from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.metrics import erode

SIZE = (128, 160)
THIN_LABELS = [CLASS_NAMES.index(category.name) for category in THIN_CATEGORIES]

DIALS = [
    Difficulty(line_thickness=1),
    Difficulty(line_thickness=4),
    Difficulty(object_size=0.5),
    Difficulty(object_size=2),
    Difficulty(texture_frequency=0.5),
    Difficulty(contrast=0.3),
    Difficulty(noise=3),
    Difficulty(occlusion=0.4),
    Difficulty(occlusion=3),
]


def grown(mask, radius):
    return ~erode(np.pad(~mask, radius, mode="edge"), radius)[radius:-radius, radius:-radius]


@pytest.fixture
def shapes(monkeypatch):
    """Name and middle of each shape that is painted, in order, hidden or not."""
    seen = []
    fill = Canvas._fill

    def spy(self, patch, texture, segment, *more, **named):
        y, x = np.nonzero(patch.mask)
        name = self.segments[segment - 1][0].name if segment else "void"
        middle = (
            patch.window.top + (y.min() + y.max()) / 2,
            patch.window.left + (x.min() + x.max()) / 2,
        )
        seen.append((name, middle))
        fill(self, patch, texture, segment, *more, **named)

    monkeypatch.setattr(Canvas, "_fill", spy)
    return seen


def test_without_dials_nothing_changes():
    plain = make_scene(2, 3, SIZE)
    for difficulty in (Difficulty(), Difficulty(noise=1, contrast=1.0)):
        scene = make_scene(2, 3, SIZE, difficulty=difficulty)
        np.testing.assert_array_equal(scene.image, plain.image)
        np.testing.assert_array_equal(scene.panoptic, plain.panoptic)


@pytest.mark.parametrize("detail", DETAILS)
@pytest.mark.parametrize("difficulty", DIALS, ids=str)
def test_same_arguments_same_scene(detail, difficulty):
    for index in range(3):
        first, again = (
            make_scene(1, index, (64, 80), detail=detail, difficulty=difficulty) for _ in range(2)
        )
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.panoptic, again.panoptic)
        assert set(np.unique(first.panoptic)) - {0} == {s.id for s in first.segments}


@pytest.mark.parametrize("detail", ["full", "thin"])
def test_two_thicknesses_share_the_layout(detail, shapes):
    """The same shapes in the same order, with middles at most the wider line's width apart."""
    for index in range(8):
        orders = []
        for pixels in (1, 2, 4):
            shapes.clear()
            make_scene(7, index, SIZE, detail=detail, difficulty=Difficulty(line_thickness=pixels))
            half = len(shapes) // 2  # the first half is the scene without dials
            orders.append([shapes[half:], shapes[:half]])
        (thin, plain), (middle, _), (thick, _) = orders
        assert len(thin) > 5
        for other in (plain, middle, thick):
            assert [name for name, _ in other] == [name for name, _ in thin]
            for (name, first), (_, second) in zip(thin, other, strict=True):
                # The last picket of a fence may fall out when its spacing grows.
                allowed = 14 if name == "fence" else 5
                assert np.abs(np.subtract(first, second)).max() <= allowed, name


@pytest.mark.parametrize("detail", ["full", "thin"])
def test_a_thickness_changes_nothing_away_from_lines(detail):
    """Pictures with lines of 1 and 3 pixels are equal, but for what is thin and a pixel around."""
    for index in range(6):
        one, three = (
            make_scene(3, index, SIZE, detail=detail, difficulty=Difficulty(line_thickness=n))
            for n in (1, 3)
        )
        lines = (one.semantic() != three.semantic()) | (one.panoptic == 0)
        for scene in (one, three):
            labels = scene.semantic()
            lines |= np.isin(labels, [*THIN_LABELS, CLASS_NAMES.index("tree")])
        same = ~grown(lines, 1)
        assert same.mean() > 0.2
        np.testing.assert_array_equal(one.image[same], three.image[same])


@pytest.mark.parametrize("detail", DETAILS)
def test_object_size_keeps_kinds_and_feet(detail, shapes):
    for index in range(6):
        shapes.clear()
        make_scene(4, index, SIZE, detail=detail, difficulty=Difficulty(object_size=1.3))
        half = len(shapes) // 2
        plain, larger = shapes[:half], shapes[half:]
        assert [name for name, _ in plain] == [name for name, _ in larger]
        for (name, first), (_, second) in zip(plain, larger, strict=True):
            if name in ("sky", "grass", "wall", "road", "water", "fence", "wire"):
                assert first == second


def test_occlusion_keeps_the_things_that_are_there(shapes):
    """The shapes of the plain scene are painted in their order, with others among them."""
    for index in range(6):
        shapes.clear()
        make_scene(5, index, SIZE, detail="simple")
        plain = list(shapes)
        shapes.clear()
        make_scene(5, index, SIZE, detail="simple", difficulty=Difficulty(occlusion=2.5))
        crowded = iter(shapes[len(plain) :])
        assert all(shape in crowded for shape in plain)


def test_batch_takes_detail_and_dials():
    dials = Difficulty(line_thickness=2)
    images, labels = scene_batch(2, 5, 2, (24, 32), detail="thin", difficulty=dials)
    scene = make_scene(2, 6, (24, 32), detail="thin", difficulty=dials)
    np.testing.assert_array_equal(images[1], scene.image)
    np.testing.assert_array_equal(labels[1], scene.semantic())


@pytest.mark.parametrize("size", [(8, 8), (8, 300), (300, 8), (65, 257)])
def test_any_size(size):
    dials = Difficulty(
        line_thickness=16,
        object_size=16,
        texture_frequency=16,
        contrast=16,
        noise=16,
        occlusion=3,
    )
    for detail in DETAILS:
        for difficulty in (dials, dataclasses.replace(dials, texture_frequency=0.01)):
            assert make_scene(5, 1, size, detail=detail, difficulty=difficulty).image.any()


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"line_thickness": 0}, "line_thickness must be 1 or more, not 0"),
        ({"line_thickness": 17}, "line_thickness must be 1 to 16 pixels, not 17"),
        ({"line_thickness": 1.5}, "line_thickness must be a whole number from 1 on, not 1.5"),
        ({"object_size": 0}, "object_size must be a number above 0 and at most 16, not 0"),
        ({"texture_frequency": -1}, "texture_frequency must be a number above 0 and.*not -1"),
        ({"contrast": -0.1}, "contrast must be a number of 0 or more and at most 16, not -0.1"),
        ({"noise": float("nan")}, "noise must be a number of 0 or more.*not nan"),
        ({"noise": "much"}, "noise must be a number of 0 or more and at most 16, not 'much'"),
        ({"noise": True}, "not True"),
        ({"occlusion": float("inf")}, "occlusion must be .* not inf"),
        ({"occlusion": 17}, "at most 16, not 17"),
    ],
)
def test_impossible_dials(dials, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(**dials)


def test_difficulty_is_no_dictionary():
    with pytest.raises(ValueError, match=r"difficulty must be a Difficulty, for instance"):
        make_scene(0, 0, (16, 16), difficulty={"noise": 2})

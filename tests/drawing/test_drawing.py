"""What is drawn: colors where they belong, void untouched, names inside, panels in a row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freqfusion.drawing import (
    PANOPTIC_ERRORS,
    SEMANTIC_ERRORS,
    Instance,
    LabelMap,
    PanopticMap,
    PanopticSegment,
    draw_image,
    draw_instance_errors,
    draw_instances,
    draw_panoptic,
    draw_panoptic_errors,
    draw_semantic,
    draw_semantic_errors,
    palette,
    side_by_side,
)
from freqfusion.drawing.overlays import contours, dimmed, enlargement, line_width
from freqfusion.drawing.panels import TextPlacer, fitting, text_size, write

NAMES = ("grass", "sky", "a class with a very long name indeed")
COLORS = ((40, 160, 60), (90, 160, 230), (200, 60, 60))


def photo(height=400, width=400):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def halves(height=400, width=400, left=0, right=1):
    labels = np.full((height, width), left)
    labels[:, width // 2 :] = right
    return LabelMap(labels, NAMES, COLORS)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((64, 80), 6), ((384, 500), 1), ((383, 500), 2), ((1024, 2048), 1), ((10, 700), 2)],
)
def test_enlargement(size, factor):
    """The short side to 384 or more, unless the long one would pass 1536."""
    assert enlargement(*size) == factor


def test_color_is_mixed_into_the_image_and_void_is_left():
    image = photo()
    content = halves(left=0, right=-1)
    before = image.copy()
    picture = draw_semantic(image, content, names=False)
    np.testing.assert_array_equal(image, before)
    mixed = np.round(0.38 * image[200, 50] + 0.62 * np.array(COLORS[0]))
    np.testing.assert_array_equal(picture[200, 50], mixed)
    # Away from the line between the two, void is the image itself.
    np.testing.assert_array_equal(picture[:, 210:], image[:, 210:])
    assert (picture[:, 199:201] > 200).all(), "a white line between the two"


def test_small_images_become_larger_with_sharp_labels():
    image = np.full((64, 80, 3), 128, dtype=np.uint8)
    picture = draw_semantic(image, halves(64, 80), names=False)
    assert picture.shape == (384, 480, 3) == draw_image(image).shape
    for part, color in ((picture[:, :230], COLORS[0]), (picture[:, 250:], COLORS[1])):
        mixed = np.round(0.38 * 128 + 0.62 * np.array(color)).astype(int).tolist()
        assert {tuple(one) for one in part.reshape(-1, 3).tolist()} == {tuple(mixed)}


def test_panoptic_things_of_a_class_differ_and_stuff_does_not():
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    ids = np.repeat(np.array([1, 2, 3, 4]), 100)[None].repeat(400, 0)
    for is_thing, count in ((True, 4), (False, 1)):
        segments = tuple(PanopticSegment(n, 0, "car", COLORS[0], is_thing) for n in (1, 2, 3, 4))
        picture = draw_panoptic(image, PanopticMap(ids, segments))
        middles = picture[100, 50::100]
        assert len({tuple(color) for color in middles.tolist()}) == count


def test_names_are_written_inside_their_segments():
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    content = halves()
    named = draw_semantic(image, content)
    plain = draw_semantic(image, content, names=False)
    rows, columns = np.nonzero((named != plain).any(axis=-1))
    assert (columns < 200).any()
    assert (columns >= 200).any()
    assert not ((columns > 190) & (columns < 210)).any(), "no name lies across the line"
    assert rows.min() > 100, "names are near the middle of their segments"
    labels = np.zeros((400, 400), dtype=np.int64)
    labels[10:14, 10:14] = 1
    content = LabelMap(labels, NAMES, COLORS)
    changed = (draw_semantic(image, content) != draw_semantic(image, content, names=False)).any(-1)
    assert changed[100:300, 100:300].any()
    assert not changed[:40, :60].any(), "too small for a name"


def test_instances():
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    large, small = (np.zeros((400, 400), dtype=np.bool_) for _ in range(2))
    large[100:300, 100:300] = True
    small[180:220, 180:220] = True
    instances = [
        Instance(0, "small", small, (180, 180, 220, 220), 0.9),
        Instance(0, "large", large, (100, 100, 300, 300), 0.6),
    ]
    picture = draw_instances(image, instances)
    above, below = map(np.array, palette(2))
    assert np.abs(picture[150, 150] - (128 + below) / 2).max() <= 1
    mixed = ((128 + below) / 2 + above) / 2
    assert np.abs(picture[200, 200] - mixed).max() <= 1, "the smaller one lies above"
    assert picture[50, 50].tolist() == [128, 128, 128]
    assert (picture[80:100, 100:140] != 128).any(), "a name above the large box"
    assert draw_instances(image, []).tolist() == image.tolist()


def test_an_instance_without_pixels_or_with_a_box_outside():
    image = photo(64, 80)
    empty = Instance(0, "gone", np.zeros((64, 80), dtype=np.bool_), score=0.9)
    outside = Instance(0, "far", box=(-50.0, -50.0, 500.0, 500.0), score=0.8)
    assert draw_instances(image, [empty, outside]).shape == (384, 480, 3)
    assert draw_instance_errors(image, [outside], [empty]).shape == (384, 480, 3)


def test_semantic_errors_have_the_colors_of_the_legend():
    image = np.full((400, 400, 3), 250, dtype=np.uint8)
    gt = halves(right=-1)
    labels = np.where(gt.labels == 0, 0, 1)
    labels[50:60, 50:60] = 2
    picture = draw_semantic_errors(image, LabelMap(labels, NAMES, COLORS), gt)
    shown = picture[55, 55].astype(int)
    distances = {
        name: np.abs(shown - np.array(color)).sum() for name, color in SEMANTIC_ERRORS.items()
    }
    assert min(distances, key=distances.get) == "wrong inside"
    right = picture[200, 50]
    assert right.max() < 130, "dim"
    assert right.max() == right.min(), "gray"
    void = picture[200, 300].astype(int)
    assert np.abs(void - np.array(SEMANTIC_ERRORS["void"])).max() < 20


def test_panoptic_errors_have_the_colors_of_the_legend():
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    ids = halves(left=1, right=2).labels
    gt = PanopticMap(
        ids, (PanopticSegment(1, 0, "a", COLORS[0]), PanopticSegment(2, 1, "b", COLORS[1]))
    )
    guess = PanopticMap(np.where(ids == 1, 1, 0), (PanopticSegment(1, 0, "a", COLORS[0]),))
    picture = draw_panoptic_errors(image, guess, gt).astype(int)
    missed = np.array(PANOPTIC_ERRORS["missed"])
    assert np.abs(picture[200, 300] - missed).max() < 30
    assert np.abs(picture[200, 100] - dimmed(image)[0, 0]).max() < 40


def test_instance_errors_tell_matched_missed_and_spurious_apart():
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    masks = [np.zeros((400, 400), dtype=np.bool_) for _ in range(3)]
    for at, mask in enumerate(masks):
        mask[200:300, 20 + 130 * at : 120 + 130 * at] = True
    matched, missed, spurious = (Instance(0, "a", mask, score=0.9) for mask in masks)
    picture = draw_instance_errors(image, [matched, spurious], [matched, missed]).astype(int)
    green, blue, orange = (picture[250, 70 + 130 * at] for at in range(3))
    assert green.argmax() == 1
    assert blue.argmax() == 2
    assert orange.argmax() == 0


@settings(max_examples=40)
@given(
    st.integers(1, 60), st.integers(1, 90), st.integers(-50, 120), st.integers(-50, 120),
    st.text(min_size=0, max_size=30), st.integers(7, 40),
)  # fmt: skip
def test_text_never_leaves_the_picture(height, width, left, top, text, size):
    """Whatever the place, the size and the text: the answer lies inside, and nothing is raised."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    x, y, right, bottom = write(picture, text.replace("\n", " "), (left, top), size)
    assert 0 <= x <= right <= width
    assert 0 <= y <= bottom <= height


def test_text_is_cut_only_where_it_does_not_fit():
    assert fitting("sky", 20, 500) == "sky"
    text = fitting("a very long name of a class", 20, 150)
    assert text.endswith("…")
    assert text_size(text, 20)[0] <= 150
    assert fitting("name", 20, 1) == ""


def test_places_keep_names_apart():
    places = TextPlacer(100, 100)
    mask = np.ones((100, 100), dtype=np.bool_)
    left, top = places.find(mask, 40, 20)
    assert abs(left - 30) <= 1
    assert abs(top - 40) <= 1, "the middle"
    places.taken.append((left, top, left + 40, top + 20))
    assert places.find(mask, 40, 20) is None
    beside = mask & (np.arange(100) < 25)
    assert places.find(beside, 10, 20)[0] < 20
    mask[:60] = False
    assert places.find(mask, 40, 20)[1] >= 60
    assert places.find(mask, 400, 20) is None
    assert TextPlacer(100, 100).find(np.zeros((100, 100), dtype=np.bool_), 4, 2) is None


def test_side_by_side():
    panels = [np.full((100, 200, 3), value, np.uint8) for value in (10, 20)]
    titled = side_by_side(panels, ["one", "two"])
    with_legend = side_by_side(panels, ["one", "two"], legend={"right": (1, 2, 3)})
    assert titled.shape[1] == with_legend.shape[1]
    assert 100 < titled.shape[0] < with_legend.shape[0]
    assert np.count_nonzero((with_legend == (1, 2, 3)).all(axis=-1)) > 50
    assert np.count_nonzero((titled == 10).all(axis=-1)) == 100 * 200
    assert np.count_nonzero((titled == 20).all(axis=-1)) == 100 * 200


def test_panels_in_rows():
    """Three panels in two columns: the third stands below the first, then white."""
    panels = [np.full((100, 200, 3), value, np.uint8) for value in (10, 20, 30)]
    picture = side_by_side(panels, ["one", "two", "three"], columns=2)
    assert picture.shape[1] == side_by_side(panels[:2], ["one", "two"]).shape[1]
    starts = [tuple(np.argwhere((picture == value).all(axis=-1))[0]) for value in (10, 20, 30)]
    assert starts[0][0] == starts[1][0] < starts[2][0] - 100
    assert starts[0][1] == starts[2][1] < starts[1][1] - 200
    assert (picture[-100:, -100:] == 255).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 titles for 2 panels"):
        side_by_side([photo(), photo()], ["one"])
    for drawn in (
        lambda: draw_semantic(photo(10, 10), halves(10, 12)),
        lambda: draw_semantic_errors(photo(10, 10), halves(10, 12), halves(10, 12)),
        lambda: draw_panoptic(photo(10, 10), PanopticMap(np.zeros((3, 3), int), ())),
        lambda: draw_instances(photo(10, 10), [Instance(0, "a", np.ones((3, 3), bool))]),
    ):
        with pytest.raises(ValueError, match="resize it to the image first"):
            drawn()


def test_contours_have_the_width():
    values = np.zeros((20, 20), dtype=np.int64)
    values[:, 10:] = 1
    for width, columns in ((1, [9]), (2, [9, 10]), (3, [8, 9, 10, 11]), (4, [8, 9, 10, 11])):
        assert np.flatnonzero(contours(values, width)[10]).tolist() == columns
    assert line_width(384, 480) == 2

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from freqfusion.data.synthetic import make_scene
from freqfusion.data.synthetic.masks import mask_polygons, run_lengths
from freqfusion.data.validation.annotations import polygon_area

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)
THIN = hnp.arrays(np.bool_, SHAPES)
HOLED = hnp.arrays(np.bool_, SHAPES, elements=st.integers(0, 9).map(lambda n: n > 1))


def mask_of(text):
    return np.array([[c == "#" for c in row] for row in text.split()])


def drawn(polygons, shape):
    """What COCO's own code makes of the polygons."""
    flat = [[float(value) for point in polygon for value in point] for polygon in polygons]
    return coco.decode(coco.merge(coco.frPyObjects(flat, *shape))).astype(bool)


def test_one_pixel():
    """The pixel in row 1, column 2 covers 2..3 x 1..2."""
    assert mask_polygons(mask_of("... ..# ...")) == [[(2, 1), (3, 1), (3, 2), (2, 2)]]


def test_corner_shape():
    """An L of three pixels has six corners; straight runs need none."""
    polygon = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)]
    assert mask_polygons(mask_of("#. ##")) == [polygon]


def test_hole_is_joined_by_a_slit():
    """A 3x3 ring: the slit runs along y = 1 from the left side to the hole and back."""
    outline = [(0, 0), (3, 0), (3, 3), (0, 3), (0, 1)]
    hole = [(1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]
    assert mask_polygons(mask_of("### #.# ###")) == [[*outline, *hole, (0, 1)]]


def test_slits_are_met_in_order():
    """Two holes beside the left side, which is walked upwards: the lower slit comes first."""
    outline = [(0, 0), (3, 0), (3, 5), (0, 5)]
    lower = [(0, 3), (1, 3), (1, 4), (2, 4), (2, 3), (1, 3), (0, 3)]
    upper = [(0, 1), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1), (0, 1)]
    assert mask_polygons(mask_of("### #.# ### #.# ###")) == [[*outline, *lower, *upper]]


def test_slanted_line_is_one_polygon_and_apart_is_two():
    assert len(mask_polygons(mask_of("#.. .#. ..#"))) == 1
    assert len(mask_polygons(mask_of("#.# #.# #.#"))) == 2
    assert mask_polygons(mask_of("... ...")) == []


@settings(max_examples=100)
@given(st.one_of(THIN, HOLED))
def test_exact_for_any_mask(mask):
    polygons = mask_polygons(mask)
    assert sum(polygon_area(np.array(polygon, dtype=float)) for polygon in polygons) == mask.sum()
    for polygon in polygons:
        assert len(polygon) >= 4
        following = polygon[1:] + polygon[:1]
        assert all(a != b for a, b in zip(polygon, following, strict=True))
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in zip(polygon, following, strict=True))
    if mask.any():
        np.testing.assert_array_equal(drawn(polygons, mask.shape), mask)


def test_exact_for_a_scene():
    scene = make_scene(0, 3, (160, 200))
    for segment in scene.segments:
        mask = scene.panoptic == segment.id
        np.testing.assert_array_equal(drawn(mask_polygons(mask), mask.shape), mask)


def test_many_nested_holes():
    """Rings within rings and a long chain of holes: nothing recursive that could overflow."""
    rings = np.indices((81, 81)).max(axis=0) % 2 == 0
    chain = np.ones((3, 2601), dtype=bool)
    chain[1, 1::2] = False
    for mask in (rings | rings[::-1], chain):
        np.testing.assert_array_equal(drawn(mask_polygons(mask), mask.shape), mask)


def test_hand_derived_runs():
    """Down the columns of [[0, 1], [1, 1], [0, 0]]: 0 1 0 1 1 0, so runs 1 1 1 2 1."""
    assert run_lengths(np.array([[0, 1], [1, 1], [0, 0]], dtype=bool)) == [1, 1, 1, 2, 1]
    assert run_lengths(np.ones((2, 3), dtype=bool)) == [0, 6]
    assert run_lengths(np.zeros((2, 3), dtype=bool)) == [6]


@given(st.one_of(THIN, HOLED))
def test_runs_are_those_of_coco(mask):
    runs = coco.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
    assert runs["counts"] == coco.encode(mask.astype(np.uint8, order="F"))["counts"]

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from freqfusion.metrics import BoundaryIoU, boundary_width, erode, interior

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=11)
MASKS = hnp.arrays(np.bool_, SHAPES, elements=st.integers(0, 9).map(lambda n: n > 1))


def label_maps(labels):
    shape = st.shared(SHAPES, key="shape")
    array = hnp.arrays(np.uint8, shape, elements=st.sampled_from(labels))
    return st.tuples(array, array)


def slow_erode(mask, distance):
    """Look at every pixel of every square; outside of the image there is nothing."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    steps = range(-distance, distance + 1)
    for y in range(height):
        for x in range(width):
            result[y, x] = all(
                0 <= y + dy < height and 0 <= x + dx < width and mask[y + dy, x + dx]
                for dy in steps
                for dx in steps
            )
    return result


def slow_boundary_iou(pairs, num_classes, distance):
    """Class by class, mask less erosion; pairs of (prediction, target), void is 255."""
    scores = []
    for label in range(num_classes):
        intersection = union = 0
        for prediction, target in pairs:
            counts = target != 255
            truth, guess = (target == label) & counts, (prediction == label) & counts
            truth, guess = (mask & ~slow_erode(mask, distance) for mask in (truth, guess))
            intersection += np.sum(truth & guess)
            union += np.sum(truth | guess)
        scores.append(intersection / union if union else math.nan)
    return scores


def test_shifted_square_by_hand():
    """A 3x3 square of class 1 in a 7x7 image, predicted one column too far to the right; d = 1.

    Class 1: both boundaries are rings of 8 pixels. The squares share 3 rows x 2 columns, less the
    two centres: 4 common pixels of 8 + 8 - 4 = 12.
    Class 0 (40 pixels): interior are the pixels not at the border and not next to the square:
    for the target row 5 (5 pixels) and column 5 (4 more), so 31 are boundary; for the prediction
    row 5 only, so 35. Both are class 0 on 49 - 12 = 37 pixels, 9 of them interior to the target:
    28 common of 31 + 35 - 28 = 38.
    """
    target = np.zeros((7, 7), dtype=np.uint8)
    prediction = target.copy()
    target[1:4, 1:4] = 1
    prediction[1:4, 2:5] = 1
    metric = BoundaryIoU(3, distance=1)
    metric.update(prediction, target)
    np.testing.assert_allclose(metric.iou(), [28 / 38, 4 / 12, np.nan])
    assert metric.mean_iou() == pytest.approx((28 / 38 + 4 / 12) / 2)


def test_the_image_border_is_a_boundary():
    """One class everywhere in 6x5: with d = 1 the frame, 30 - 4 * 3 = 18 pixels, is boundary."""
    assert np.sum(~erode(np.ones((6, 5), dtype=bool), 1)) == 18
    metric = BoundaryIoU(1, distance=1)
    same = np.zeros((6, 5), dtype=np.uint8)
    metric.update(same, same)
    assert metric.union.tolist() == [18]
    assert metric.iou().tolist() == [1.0]


def test_only_the_boundary_counts():
    """A wrong pixel deep inside a class has a boundary of its own, but the class around it too.

    11x11, d = 2, one wrong pixel in the centre: class 1 is in the prediction only, so 0. Class 0
    has the frame two wide (121 - 49 = 72 pixels) in both; the prediction adds the 24 around the
    wrong pixel: 72 / 96.
    """
    target = np.zeros((11, 11), dtype=np.uint8)
    prediction = target.copy()
    prediction[5, 5] = 1
    metric = BoundaryIoU(2, distance=2)
    metric.update(prediction, target)
    np.testing.assert_allclose(metric.iou(), [72 / 96, 0])


@given(MASKS, st.integers(1, 4))
def test_erosion_against_loops(mask, distance):
    np.testing.assert_array_equal(erode(mask, distance), slow_erode(mask, distance))


@given(label_maps([0, 1, 2]), st.integers(1, 3))
def test_interior_is_the_erosion_of_every_class(pair, distance):
    labels = np.repeat(np.repeat(pair[0], 2, axis=0), 3, axis=1)
    expected = np.zeros(labels.shape, dtype=bool)
    for label in range(3):
        expected |= slow_erode(labels == label, distance)
    np.testing.assert_array_equal(interior(labels, distance), expected)


@settings(max_examples=60)
@given(label_maps([0, 1, 255]), label_maps([0, 1, 2, 255]), st.integers(1, 3))
def test_against_masks_class_by_class(first, second, distance):
    metric = BoundaryIoU(3, distance=distance)
    pairs = []
    for prediction, target in (first, second):
        pairs.append((np.where(prediction == 255, 1, prediction), target))
        metric.update(*pairs[-1])
    np.testing.assert_allclose(metric.iou(), slow_boundary_iou(pairs, 3, distance))


@given(label_maps([0, 1, 255]), label_maps([0, 1]))
def test_predictions_in_void_do_not_matter(pair, others):
    target = pair[0]
    metric = BoundaryIoU(2, distance=1)
    metric.update(np.where(target == 255, others[0], target), target)
    present = ~np.isnan(metric.iou())
    assert (metric.iou()[present] == 1).all()
    assert present.tolist() == [bool((target == label).any()) for label in range(2)]


@given(label_maps([0, 1]), label_maps([0, 1, 255]))
def test_merging_equals_streaming(first, second):
    stream, one, two = (BoundaryIoU(2, distance=1) for _ in range(3))
    stream.update(first[0], first[1])
    stream.update(np.minimum(second[0], 1), second[1])
    one.update(first[0], first[1])
    two.update(np.minimum(second[0], 1), second[1])
    one.merge(two)
    np.testing.assert_array_equal(stream.iou(), one.iou())


def test_width_by_hand():
    """300x400 has a diagonal of 500: 10. 1024x2048: 2289.7, so 45.8, so 46. 3x4: 0.1, so 1."""
    assert boundary_width((300, 400)) == 10
    assert boundary_width((1024, 2048)) == 46
    assert boundary_width((3, 4)) == 1
    assert boundary_width((300, 400), 0.005) == 2


def test_width_follows_each_image():
    """A 30x40 image has a diagonal of 50: d = 1 at the default of 2 %, d = 5 at 10 %."""
    target = np.zeros((30, 40), dtype=np.uint8)
    target[8:20, 5:25] = 1
    prediction = np.roll(target, 3)
    scores = []
    for options in ({}, {"distance": 1}, {"dilation_ratio": 0.1}, {"distance": 5}):
        metric = BoundaryIoU(2, **options)
        metric.update(prediction, target)
        scores.append(metric.union.tolist())
    assert scores[0] == scores[1]
    assert scores[2] == scores[3] != scores[0]


def test_errors():
    with pytest.raises(ValueError, match="distance must be 1 pixel or more"):
        BoundaryIoU(2, distance=0)
    with pytest.raises(ValueError, match="dilation_ratio must lie between 0 and 1, not 2"):
        BoundaryIoU(2, dilation_ratio=2)
    with pytest.raises(ValueError, match="one at a time"):
        BoundaryIoU(2).update(np.zeros((1, 4, 4), dtype=int), np.zeros((1, 4, 4), dtype=int))
    with pytest.raises(ValueError, match="unexpected label 5 in the prediction"):
        BoundaryIoU(2).update(np.full((4, 4), 5), np.zeros((4, 4), dtype=int))
    with pytest.raises(ValueError, match="same settings"):
        BoundaryIoU(2).merge(BoundaryIoU(2, distance=3))
    with pytest.raises(ValueError, match="distance must be 1"):
        erode(np.ones((3, 3), dtype=bool), 0)

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from freqfusion.metrics import ConfusionMatrix


def maps(labels, count=2):
    shape = st.shared(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), key="shape")
    array = hnp.arrays(np.int16, shape, elements=st.sampled_from(labels))
    return st.tuples(*[array] * count)


def test_hand_derived_scores():
    """Target 0 0 1 1 2 void, prediction 0 1 1 1 1 7.

    Class 0: 1 hit, union 2. Class 1: 2 hits, union 4. Class 2: no hit, union 1. Class 3: absent.
    Mean (1/2 + 1/2 + 0) / 3 = 1/3; 3 of 5 pixels are right.
    """
    confusion = ConfusionMatrix(4)
    target = np.array([[0, 0, 1], [1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 1, 7]], dtype=np.uint8)
    confusion.update(prediction, target)
    np.testing.assert_array_equal(confusion.iou(), [0.5, 0.5, 0, np.nan])
    assert confusion.mean_iou() == pytest.approx(1 / 3)
    assert confusion.pixel_accuracy() == pytest.approx(3 / 5)
    assert confusion.matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@given(maps([0, 1, 2, 255]))
def test_against_counting_pixel_by_pixel(pair):
    target, prediction = pair
    prediction = np.where(prediction == 255, 0, prediction)
    confusion = ConfusionMatrix(3)
    confusion.update(prediction, target)
    expected = np.zeros((3, 3), dtype=int)
    for t, p in zip(target.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != 255:
            expected[t, p] += 1
    np.testing.assert_array_equal(confusion.matrix, expected)
    for label, score in enumerate(confusion.iou()):
        hit = np.sum((target == label) & (prediction == label))
        union = np.sum((target != 255) & ((target == label) | (prediction == label)))
        assert score == pytest.approx(hit / union) if union else math.isnan(score)


@given(maps([0, 1, 2], count=4))
def test_updates_in_any_grouping_agree(arrays):
    a, b, c, d = arrays
    stream, first, second = (ConfusionMatrix(3) for _ in range(3))
    stream.update(a, b)
    stream.update(c, d)
    first.update(a, b)
    second.update(c, d)
    first.merge(second)
    np.testing.assert_array_equal(stream.matrix, first.matrix)


def test_nothing_counted_is_nan():
    confusion = ConfusionMatrix(2)
    confusion.update(np.zeros((2, 2), dtype=int), np.full((2, 2), 255))
    assert np.isnan(confusion.iou()).all()
    assert math.isnan(confusion.mean_iou())
    assert math.isnan(confusion.pixel_accuracy())


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 3]], [[0, 1]], r"unexpected label 3 in the prediction.*0\.\.2"),
        ([[0, -1]], [[0, 1]], "unexpected label -1 in the prediction"),
        ([[0, 255]], [[0, 1]], "unexpected label 255 in the prediction"),
        ([[0, 1]], [[9, 8]], "unexpected label 8, 9 in the target.*or 255"),
        ([[0.0, 1.0]], [[0, 1]], "prediction must hold integer labels, not float64"),
        ([[0, 1]], [[0], [1]], r"\(1, 2\) and target \(2, 1\) differ in shape"),
    ],
)
def test_bad_labels_are_named_and_nothing_is_counted(prediction, target, message):
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        confusion.update(np.array(prediction), np.array(target))
    assert not confusion.matrix.any()


def test_without_ignored_label():
    confusion = ConfusionMatrix(3, ignore_label=None)
    with pytest.raises(
        ValueError, match=r"unexpected label 255 in the target: allowed are 0\.\.2;"
    ):
        confusion.update(np.array([0]), np.array([255]))


def test_impossible_settings():
    with pytest.raises(ValueError, match="num_classes must be 1 or more, not 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="ignore_label 2 is one of the 3 classes"):
        ConfusionMatrix(3, ignore_label=2)
    with pytest.raises(ValueError, match="a matrix of 3 classes"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))

"""Loose ends of panoptic maps, boxes of masks, and what is refused."""

import numpy as np
import pytest

from freqfusion.drawing import Instance, LabelMap, PanopticMap, PanopticSegment, panoptic_map
from freqfusion.drawing.content import check_picture

RED = (255, 0, 0)


def test_panoptic_map_without_loose_ends():
    """PanopticSegment 3 has no pixel, and the pixels of 9 belong to no segment."""
    ids = np.array([[1, 9, 0], [2, 2, 9]])
    content = panoptic_map(ids, [PanopticSegment(number, 0, "a", RED) for number in (1, 2, 3)])
    assert [one.id for one in content.segments] == [1, 2]
    assert content.ids.tolist() == [[1, 0, 0], [2, 2, 0]]
    assert panoptic_map(ids, []).ids.sum() == 0
    assert isinstance(content, PanopticMap)


def test_extent_of_a_mask():
    mask = np.zeros((5, 7), dtype=np.bool_)
    mask[1:3, 2:6] = True
    assert Instance(0, "a", mask).extent() == (2, 1, 6, 3)
    assert Instance(0, "a", mask).area() == 8
    assert Instance(0, "a", np.zeros((5, 7), dtype=np.bool_)).extent() is None
    assert Instance(0, "a", box=(1, 2, 4, 6)).area() == 12
    assert Instance(0, "a", score=0.876).caption == "a 88%"
    assert Instance(0, "a", is_crowd=True).caption == "a (crowd)"


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[0, 2]], ("a", "b"), r"labels span 0\.\.2, but the classes are 0\.\.1"),
        ([[-2, 0]], ("a", "b"), r"labels span -2\.\.0"),
        ([0, 1], ("a", "b"), "height x width map of integers"),
        ([[0.0]], ("a", "b"), "not float64"),
        ([[0]], ("a",), "1 names and 2 colors"),
    ],
)
def test_wrong_labels(labels, names, message):
    with pytest.raises(ValueError, match=message):
        LabelMap(np.array(labels), names, (RED, RED))


def test_wrong_pictures():
    with pytest.raises(ValueError, match="not float64 of shape"):
        check_picture(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"\(RGB\), not uint8 of shape \(2, 2\)"):
        check_picture(np.zeros((2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"is 2 x 2 \(height x width\), but .* is 2 x 3"):
        check_picture(np.zeros((2, 2, 3), dtype=np.uint8), (2, 3))
    with pytest.raises(ValueError, match="ids must be"):
        panoptic_map(np.zeros((2, 2)), [])

"""Kinds of error pixels against hand-made maps and the metric; instances matched by mask IoU."""

import numpy as np
import pytest

from freqfusion.drawing import Instance, LabelMap, PanopticMap, PanopticSegment
from freqfusion.drawing.matching import (
    match_instances,
    near_contours,
    overlap,
    panoptic_kinds,
    semantic_kinds,
)
from freqfusion.metrics import PanopticQuality

RED = (255, 0, 0)


def labels_of(values):
    return LabelMap(np.array(values), ("a", "b", "c"), (RED, RED, RED))


def segments(*categories, crowds=()):
    return tuple(
        PanopticSegment(number, category, "x", RED, is_crowd=number in crowds)
        for number, category in enumerate(categories, start=1)
    )


def test_near_contours_is_what_a_slow_search_finds():
    values = np.random.default_rng(0).integers(0, 2, (9, 11)).repeat(3, 0).repeat(3, 1)
    height, width = values.shape
    for distance in (1, 2, 4):
        near = near_contours(values, distance)
        for y in range(height):
            for x in range(width):
                window = values[
                    max(y - distance, 0) : y + distance + 1, max(x - distance, 0) : x + distance + 1
                ]
                assert near[y, x] == (len(np.unique(window)) > 1)


def test_semantic_kinds():
    """The map's diagonal is 50, so that 1 pixel is near: 2 % of it."""
    gt = np.zeros((30, 40), dtype=np.int64)
    gt[:, 20:] = 1
    gt[0] = -1
    guess = gt.copy()
    guess[10, 17:20] = 1  # the nearest pixel is wrong at the boundary, two others inside
    guess[20, 5] = 2
    guess[0] = 2
    kinds = semantic_kinds(labels_of(guess), labels_of(gt))
    assert np.argwhere(kinds["boundary"]).tolist() == [[10, 19]]
    assert np.argwhere(kinds["inside"]).tolist() == [[10, 17], [10, 18], [20, 5]]
    assert kinds["void"].sum() == 40


def test_panoptic_kinds_by_hand():
    """True 1 (a, 4 pixels) is found by 1 with 3 of them, 2 (b) is missed, 3 (c) is taken for a.

    Predicted 2 (b) lies in the matched 1 and is spurious there; predicted 4 (a) covers 3.
    """
    gt = PanopticMap(np.array([[1, 1, 1, 1, 2, 2, 3, 3, 0]]), segments(0, 1, 2))
    guess = PanopticMap(np.array([[1, 1, 1, 2, 0, 1, 3, 3, 0]]), segments(0, 1, 0))
    kinds = panoptic_kinds(guess, gt)
    found = {name: np.flatnonzero(mask).tolist() for name, mask in kinds.items()}
    assert found == {
        "matched": [0, 1, 2],
        "border": [],
        "wrong": [6, 7],
        "missed": [4, 5],
        "spurious": [3],
        "void": [8],
    }


def test_borders_and_crowds():
    """A border is where two segments that are found meet; crowds are void."""
    gt = PanopticMap(np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]]), segments(0, 1))
    guess = PanopticMap(np.array([[1, 1, 1, 2, 2, 2, 2, 2, 0]]), segments(0, 1))
    kinds = panoptic_kinds(guess, gt)
    assert np.flatnonzero(kinds["border"]).tolist() == [3, 8]
    assert kinds["matched"].sum() == 7
    crowd = PanopticMap(gt.ids, segments(0, 1, crowds=(2,)))
    kinds = panoptic_kinds(guess, crowd)
    assert np.flatnonzero(kinds["void"]).tolist() == [4, 5, 6, 7, 8]
    assert not kinds["spurious"].any()


def test_panoptic_kinds_agree_with_the_metric():
    """They part the map, and matched pixels are there exactly where the metric has matches."""
    random = np.random.default_rng(1)
    for _ in range(20):
        gt = random.integers(0, 4, (6, 8)).repeat(4, 0).repeat(4, 1)
        guess = np.where(random.random(gt.shape) < 0.8, gt, random.integers(0, 4))
        shown = segments(*random.integers(0, 2, 3).tolist())
        other = segments(*random.integers(0, 2, 3).tolist())
        maps = [
            PanopticMap(ids, tuple(one for one in infos if (ids == one.id).any()))
            for ids, infos in ((guess, shown), (gt, other))
        ]
        kinds = panoptic_kinds(*maps)
        assert (sum(mask.astype(int) for mask in kinds.values()) == 1).all()
        quality = PanopticQuality([{"id": n, "isthing": True} for n in (0, 1)])
        quality.update(
            *(
                part
                for content in maps
                for part in (
                    content.ids,
                    [{"id": one.id, "category_id": one.category} for one in content.segments],
                )
            )
        )
        pairs = np.stack([guess, gt], axis=-1)[kinds["matched"]]
        matched = {tuple(pair) for pair in pairs.tolist()}
        assert len(matched) == quality.tp.sum()


def square(left, category=0, score=None, width=10, **more):
    mask = np.zeros((20, 60), dtype=np.bool_)
    mask[:10, left : left + width] = True
    return Instance(category, "a", mask, score=score, **more)


def test_instances_match_by_mask_iou():
    """Moved by 3 of 10 the IoU is 7/13, by 4 it is 6/14."""
    gt = [square(0), square(20), square(40, category=1)]
    guess = [square(3, score=0.6), square(24, score=0.9), square(40, score=0.8)]
    found = match_instances(guess, gt)
    assert found.matched == ((0, 0),)
    assert set(found.spurious) == {1, 2}
    assert found.missed == (1, 2)
    assert match_instances([square(24)], [square(20)], threshold=0.4).matched == ((0, 0),)
    # Exactly half: the small square lies in the large one.
    assert match_instances([square(0, width=5)], [square(0)]).matched == ((0, 0),)


def test_the_higher_score_takes_first_and_each_truth_once():
    guess = [square(1, score=0.5), square(2, score=0.9)]
    found = match_instances(guess, [square(0)])
    assert found.matched == ((1, 0),)
    assert found.spurious == (0,)


def test_crowds_excuse_predictions_of_their_class():
    crowd = square(0, width=30, is_crowd=True)
    guess = [square(5, score=0.9), square(5, category=1, score=0.8), square(28, score=0.7)]
    found = match_instances(guess, [crowd])
    assert found.excused == (0,)
    assert set(found.spurious) == {1, 2}
    assert found.missed == ()


def test_boxes_where_there_are_no_masks():
    first, second = Instance(0, "a", box=(0, 0, 4, 4)), Instance(0, "a", box=(2, 0, 6, 4))
    assert overlap(first, second) == (pytest.approx(8 / 24), pytest.approx(0.5))
    assert overlap(first, Instance(0, "a")) == (0, 0)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="differ in size"):
        semantic_kinds(labels_of([[0, 1]]), labels_of([[0]]))
    with pytest.raises(ValueError, match="differ in size"):
        match_instances([square(0)], [Instance(0, "a", np.ones((3, 3), dtype=np.bool_))])

"""Cityscapes' scores against recorded numbers of the original, and against numbers by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from cityscapes_cases import digest, make_case
from cityscapes_comparison import counted, largest_difference

from freqfusion.metrics import CITYSCAPES_LABELS, CityscapesInstances, CityscapesSemantic
from freqfusion.metrics.cityscapes_instances import THRESHOLDS, area_under_curve
from freqfusion.metrics.cityscapes_labels import (
    ALL_LABELS,
    INSTANCE_LABELS,
    TRAIN_ID_OF_ID,
    read_segments_of_map,
)
from freqfusion.metrics.cityscapes_semantic import AVERAGE_SIZES, GROUPS, INSTANCE_GROUPS

RECORDED = json.loads((Path(__file__).parent / "cityscapes_reference.json").read_text())
PERSON, RIDER, CAR, CARAVAN, ROAD = 24, 25, 26, 29, 7


def case_id(case):
    return "-".join(str(case["recipe"][key]) for key in ("truth", "spoil", "seed"))


def images_of(case):
    return make_case(case["recipe"], case.get("maps"))


@pytest.mark.parametrize("case", RECORDED, ids=case_id)
def test_numbers_of_the_original(case):
    """Classes, groups, means, and the average precision of each class and threshold."""
    images = images_of(case)
    assert digest(images) == case["digest"], "the inputs are no longer those that were recorded"
    assert largest_difference(images, case["original"]) < 1e-12


@pytest.mark.parametrize("cases", [(0, 1), (8, -5), (-6, -2)])
def test_merging_equals_streaming(cases):
    """Also when the counts come from another process."""
    images = [image for at in cases for image in images_of(RECORDED[at])]
    whole, parts = counted(images), [counted(images[at::2]) for at in range(2)]
    for one, two, all_of_it in zip(*parts, whole, strict=True):
        one.merge(pickle.loads(pickle.dumps(two)))
        ours, expected = one.result(), all_of_it.result()
        for name, scores in vars(expected).items():
            assert getattr(ours, name) == pytest.approx(scores, nan_ok=True, abs=1e-12)
        assert ours.means() == pytest.approx(expected.means(), abs=1e-12)


def test_merging_leaves_the_other_as_it_was():
    images = images_of(RECORDED[0])
    one, two = counted(images)[1], counted(images)[1]
    expected = two.result()
    one.merge(two)
    one.merge(two)
    assert two.result() == expected


# The label table.


def test_labels():
    assert sorted(label.id for label in ALL_LABELS) == list(range(-1, 34))
    assert [label.train_id for label in CITYSCAPES_LABELS] == list(range(19))
    names = [label.name for label in INSTANCE_LABELS]
    assert names == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert set(AVERAGE_SIZES) == set(names)
    assert TRAIN_ID_OF_ID[[0, ROAD, CARAVAN, 33]].tolist() == [255, 0, 255, 18]
    assert GROUPS == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert INSTANCE_GROUPS == ("human", "vehicle")


# Semantic scores by hand.


def semantic_of(prediction, truth):
    """Scores of maps of one row; the truth is one of instance ids."""
    instances = np.array([truth])
    labels = np.where(instances >= 1000, instances // 1000, instances)
    metric = CityscapesSemantic()
    metric.update(np.array([prediction]), labels, instances)
    return metric.result()


def test_semantic_scores_by_hand():
    """Two persons of 1 and 3 pixels, 4 of road, 2 of void.

    Of the large person 1 pixel is right and 2 are called rider, the small one is right; 1 of road
    is called person, as is void. Person: 2 hits, 2 misses, 1 false positive: 2/5. With the weights
    w (of the small one) and w / 3: hits 4/3 w of 2 w, so 4/3 w / (2 w + 1). Human: 4 hits, 1 false
    positive: 4/5, and 2 w / (2 w + 1). Rider: false positives only, 0; road 3/4.
    """
    result = semantic_of(
        [PERSON, PERSON, RIDER, RIDER, PERSON, ROAD, ROAD, ROAD, PERSON, ROAD],
        [24001, 24002, 24002, 24002, ROAD, ROAD, ROAD, ROAD, 0, 0],
    )
    weight = AVERAGE_SIZES["person"]
    assert result.class_iou["person"] == pytest.approx(2 / 5)
    assert result.class_iou["rider"] == 0
    assert result.class_iou["road"] == pytest.approx(3 / 4)
    assert result.class_iiou["person"] == pytest.approx(weight * 4 / 3 / (2 * weight + 1))
    assert result.class_iiou["rider"] == 0
    assert result.group_iou["human"] == pytest.approx(4 / 5)
    assert result.group_iiou["human"] == pytest.approx(2 * weight / (2 * weight + 1))
    assert np.isnan([result.class_iou["car"], result.group_iou["vehicle"]]).all()
    assert np.isnan([result.class_iiou["car"], result.group_iiou["vehicle"]]).all()
    means = result.means()
    assert means["IoU"] == pytest.approx((2 / 5 + 0 + 3 / 4) / 3)
    assert means["iIoU"] == pytest.approx(result.class_iiou["person"] / 2)
    assert means["IoU_sup"] == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert means["iIoU_sup"] == pytest.approx(result.group_iiou["human"])


def test_groups_of_things_have_no_weight():
    """A bare id is no instance: half of a crowd is found, IoU 1/2, and iIoU does not exist."""
    result = semantic_of([PERSON, ROAD], [PERSON, PERSON])
    assert result.class_iou["person"] == 1 / 2
    assert np.isnan(result.class_iiou["person"])


def test_what_is_not_evaluated_can_be_a_hit_of_its_group():
    """A car called caravan is a miss, also of the group's IoU, but a hit of the group's iIoU.

    Road called caravan is then a false positive of the group's iIoU, and of nothing else.
    """
    result = semantic_of([CARAVAN, CARAVAN, ROAD], [26001, ROAD, ROAD])
    weight = AVERAGE_SIZES["car"]
    assert result.class_iou["car"] == result.group_iou["vehicle"] == 0
    assert result.group_iiou["vehicle"] == pytest.approx(weight / (weight + 1))
    assert result.class_iou["road"] == 1 / 2


def test_nothing_counted_is_nan():
    assert np.isnan([*CityscapesSemantic().result().means().values()]).all()
    assert np.isnan([*CityscapesInstances().result().means().values()]).all()


# Average precision by hand.


def scene(*parts, width=10):
    """An instance map of rows of ``width`` pixels from (id, rows) pairs."""
    ids = [number for number, rows in parts for _ in range(rows)]
    return np.repeat(np.array(ids)[:, None], width, axis=1)


def rows(truth, start, stop):
    mask = np.zeros(truth.shape, dtype=bool)
    mask[start:stop] = True
    return mask


def table_of(truth, *masks):
    """Average precision by class and threshold, for (mask, label, score) of one image."""
    metric = CityscapesInstances()
    metric.update(*([mask[at] for mask in masks] for at in range(3)), truth)
    table = metric.average_precision()
    return {label.id: row for label, row in zip(INSTANCE_LABELS, table, strict=True)}


def test_area_by_hand():
    """Scores 0.9 right, 0.8 wrong, 0.7 right, of 3 segments.

    Points (recall, precision): (2/3, 2/3), (1/3, 1/2), (1/3, 1), (0, 1). Area: 1/3 * 7/12 + 1/3.
    With equal scores there is one point, (2/3, 2/3), and (0, 1): 2/3 * 5/6.
    """
    correct = np.array([True, False, True])
    scores = np.array([0.9, 0.8, 0.7])
    assert area_under_curve(scores, correct, 3) == pytest.approx(19 / 36)
    assert area_under_curve(scores[::-1], correct, 3) == pytest.approx(19 / 36)
    assert area_under_curve(np.full(3, 0.5), correct, 3) == pytest.approx(5 / 9)
    assert area_under_curve(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0


def test_match_needs_more_than_the_threshold():
    """15 of 20 rows are an IoU of 0.75: a match for the thresholds 0.5 to 0.7.

    0.75 itself is computed as 0.7500000000000002, which is not reached either.
    """
    truth = scene((ROAD, 5), (26001, 20))
    table = table_of(truth, (rows(truth, 5, 20), CAR, 0.9))
    assert table[CAR].tolist() == [1] * 5 + [0] * 5
    assert np.isnan(table[PERSON]).all()
    assert THRESHOLDS.shape == (10,)


def test_ten_of_twenty_rows_are_no_match():
    truth = scene((26001, 20))
    assert not table_of(truth, (rows(truth, 0, 10), CAR, 0.9))[CAR].any()
    assert table_of(truth, (rows(truth, 0, 11), CAR, 0.9))[CAR][0] == 1


@pytest.mark.parametrize("pixels", [99, 100])
def test_small_segments_do_not_count(pixels):
    """Of 99 pixels: neither missed nor found, nor is its mask wrong."""
    truth = np.full((20, 20), ROAD)
    truth[:10] = 26002
    small = np.zeros(truth.shape, dtype=bool)
    small[10:].ravel()[:pixels] = True
    truth[small] = 26001
    table = table_of(truth, (truth == 26002, CAR, 0.9))
    # Recall 1 or 1/2, at precision 1.
    assert table[CAR].tolist() == [1 if pixels == 99 else 1 / 2] * 10
    assert table_of(truth, (truth == 26002, CAR, 0.9), (small, CAR, 0.95))[CAR].tolist() == [1] * 10


@pytest.mark.parametrize(("on_group", "excused"), [(5, 0), (6, 2), (10, 10)])
def test_masks_on_groups_are_left_out(on_group, excused):
    """A part of 0.6 on a group of its class is an excuse below it: for 0.5 and 0.55.

    The wrong mask, with the higher score, makes (recall 1, precision 1/2) and (0, 0), then (0, 1):
    area 1/4. The mask of 10 rows on the group matches it (IoU 1/2 is not enough, of 20 rows).
    """
    truth = scene((26001, 20), (CAR, 20), (ROAD, 10))
    wrong = rows(truth, 40 - on_group, 50 - on_group)
    table = table_of(truth, (truth == 26001, CAR, 0.5), (wrong, CAR, 0.9))
    assert table[CAR].tolist() == [1] * excused + [1 / 4] * (10 - excused)
    # Void is an excuse too, another class and an instance of an ignored label are none.
    for number, excuse in ((0, excused), (PERSON, 0), (29001, 0), (CARAVAN, excused)):
        other = np.where(truth == CAR, number, truth)
        table = table_of(other, (other == 26001, CAR, 0.5), (wrong, CAR, 0.9))
        assert table[CAR].tolist() == [1] * excuse + [1 / 4] * (10 - excuse)


def test_small_groups_count_twice():
    """3 of 10 rows on a group of 30 pixels: 0.6, as in the benchmark."""
    truth = scene((26001, 20), (CAR, 3), (ROAD, 10))
    table = table_of(truth, (truth == 26001, CAR, 0.5), (rows(truth, 20, 30), CAR, 0.9))
    assert table[CAR].tolist() == [1, 1] + [1 / 4] * 8


def test_a_second_mask_is_wrong():
    """The one of the lower score, in any order: precision 1/2 at recall 1, then 1 at 1."""
    truth = scene((26001, 20), (26002, 20))
    first, second, other = (truth == 26001, CAR, 0.9), (truth == 26001, CAR, 0.5), truth == 26002
    # Points (1/2, 1/2), (1/2, 1), (0, 1): area 1/2; a third mask, of score 0.4, finds the other:
    # (1, 2/3), (1/2, 1/2), (1/2, 1), (0, 1): 1/2 * 7/12 + 1/2.
    for masks in ((first, second), (second, first)):
        assert table_of(truth, *masks)[CAR].tolist() == [1 / 2] * 10
        found = table_of(truth, *masks, (other, CAR, 0.4))[CAR]
        assert found == pytest.approx([19 / 24] * 10)


def test_everything_left_out_is_0():
    """The original has no answer where no mask of a class counts."""
    truth = scene((26001, 20), (0, 20))
    assert table_of(truth, (truth == 0, CAR, 0.9))[CAR].tolist() == [0] * 10
    empty = np.zeros_like(truth)
    assert table_of(truth, (empty, CAR, 0.9))[CAR].tolist() == [0] * 10


def test_masks_of_other_labels_are_left_out():
    truth = scene((26001, 20), (ROAD, 20))
    whole = truth == 26001
    table = table_of(truth, (whole, CAR, 0.5), (whole, CARAVAN, 0.9), (whole, ROAD, 0.9))
    assert table[CAR].tolist() == [1] * 10
    assert np.isnan(table[PERSON]).all()


def test_masks_of_numbers():
    """What is not 0 belongs to a mask."""
    truth = scene((26001, 20), (ROAD, 20))
    mask = np.where(truth == 26001, np.float32(0.5), 0)
    assert table_of(truth, (mask, CAR, 0.5))[CAR].tolist() == [1] * 10


# What cannot be counted.


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            np.array([[7, 34]]),
            r"unexpected id 34 in the instance map: allowed are label ids 0\.\.33",
        ),
        (np.array([[7, 999]]), "unexpected id 999 "),
        (np.array([[7, 34000]]), "unexpected id 34000 "),
        (np.array([[-1, 33999]]), "unexpected id -1 "),
        (np.array([[7.0]]), r"not float64 of shape \(1, 1\)"),
        (np.array([7]), r"not int64 of shape \(1,\)"),
        (np.zeros((0, 4), dtype=int), r"not int64 of shape \(0, 4\)"),
    ],
)
def test_errors_of_instance_maps(ids, message):
    with pytest.raises(ValueError, match=message):
        read_segments_of_map(ids)


def test_errors_of_label_maps_count_nothing():
    metric = CityscapesSemantic()
    good = np.array([[24, 7]])
    with pytest.raises(ValueError, match="unexpected label 34 in the prediction"):
        metric.update(np.array([[24, 34]]), good, good)
    with pytest.raises(ValueError, match="unexpected label 255 in the target"):
        metric.update(good, np.array([[24, 255]]), good)
    with pytest.raises(ValueError, match=r"instance map \(2, 1\) and the truth \(1, 2\) differ"):
        metric.update(good, good, good.T)
    assert not metric.confusion.matrix.any()
    assert not metric.weighted.any()


def test_errors_of_masks_count_nothing():
    metric = CityscapesInstances()
    truth = scene((26001, 20))
    good = truth > 0
    with pytest.raises(ValueError, match=r"size \(20, 5\) does not fit the truth \(20, 10\)"):
        metric.update([good, good[:, :5]], [CAR, CAR], [0.5, 0.5], truth)
    with pytest.raises(
        ValueError, match=r"label id -1 of a mask: allowed are 0\.\.33, of which 24"
    ):
        metric.update([good, good], [CAR, -1], [0.5, 0.5], truth)
    with pytest.raises(ValueError, match="score of a mask is nan"):
        metric.update([good, good], [CAR, CAR], [0.5, np.nan], truth)
    with pytest.raises(ValueError, match="zip"):
        metric.update([good, good], [CAR], [0.5], truth)
    assert np.isnan(metric.average_precision()).all()

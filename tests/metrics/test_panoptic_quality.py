import json
import logging
import math
import pickle
import re
from dataclasses import asdict

import golden_data
import numpy as np
import pytest
from golden_data import cases, manifest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles.panoptic import count_by_masks

from freqfusion.metrics import PanopticQuality, pair_annotations, panoptic_table

CATEGORIES = (
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 4, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
)


def segment(number, category=1, **more):
    return {"id": number, "category_id": category, **more}


def row(*runs):
    """A map of one row from (id, pixels) pairs."""
    return np.array([[number for number, count in runs for _ in range(count)]], dtype=np.int32)


def counts(metric):
    """{category: (tp, fp, fn, sum of IoU)} of the categories that occur."""
    found = {s.id: (s.tp, s.fp, s.fn, s.iou_sum) for s in metric.result().classes}
    return {number: count for number, count in found.items() if any(count)}


def counted(prediction, guesses, truth, truths, **options):
    metric = PanopticQuality(CATEGORIES, **options)
    metric.update(prediction, guesses, truth, truths)
    return counts(metric)


# Set F of the reference data.


def golden(keep):
    """Cases whose recorded error (or None) is to be kept, as test parameters."""
    kept = []
    files = {e["id"]: e["file"] for e in manifest()["files"] if e["file"].endswith(".json")}
    for case in cases("F", "pq_compute"):
        record = json.loads((golden_data.FOLDER / files[case.id]).read_text(encoding="utf-8"))
        if keep(record["expected_error"]):
            kept.append(pytest.param(case, record, id=case.id))
    return kept


def run_golden(case, record, **options):
    metric = PanopticQuality(record["categories"], **options)
    maps = {name: value.numpy() for name, value in case.group("in").items()}
    for guess, truth in pair_annotations(record["pred_annotations"], record["gt_annotations"]):
        image = truth["image_id"]
        metric.update(
            maps[f"pred_{image}"],
            guess["segments_info"],
            maps[f"gt_{image}"],
            truth["segments_info"],
            image=image,
        )
    return metric


def check_golden_counts(case, record, metric):
    expected = record["expected_counts"]
    found = counts(metric)
    assert {str(number) for number in found} == set(expected)
    for number, (tp, fp, fn, iou_sum) in found.items():
        want = expected[str(number)]
        assert (tp, fp, fn) == (want["tp"], want["fp"], want["fn"])
        assert iou_sum == pytest.approx(want["iou_sum"], abs=case.entry["tolerance"]["pq"], rel=0)


@pytest.mark.golden
@pytest.mark.parametrize(("case", "record"), golden(lambda error: error is None))
def test_golden_scores(case, record):
    """Exact numbers; the reference's 0 for a category that never occurs is nan here."""
    metric = run_golden(case, record, trust_area=True)
    check_golden_counts(case, record, metric)
    result = metric.result()
    tolerance = case.entry["tolerance"]["pq"]
    for score in result.classes:
        occurs = score.tp + score.fp + score.fn > 0
        for name, value in record["expected"]["per_class"][str(score.id)].items():
            ours = getattr(score, name)
            assert math.isnan(ours) != occurs
            assert (ours if occurs else 0) == pytest.approx(value, abs=tolerance, rel=0)
    for group, scores in result.groups.items():
        assert asdict(scores) == pytest.approx(record["expected"][group], abs=tolerance, rel=0)


@pytest.mark.golden
@pytest.mark.parametrize(("case", "record"), golden(lambda error: error is None))
def test_golden_areas_are_counted(case, record, caplog):
    """By default the pixels count; the numbers change in just the cases that are warned of."""
    with caplog.at_level(logging.WARNING):
        metric = run_golden(case, record)
    trusting = run_golden(case, record, trust_area=True)
    assert (counts(metric) != counts(trusting)) == bool(caplog.records)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "record"),
    golden(lambda error: error is not None and not error.startswith("ZeroDivisionError")),
)
def test_golden_errors(case, record):
    """What the reference refuses is refused, and the message names the same numbers."""
    with pytest.raises(ValueError, match=r".") as caught:
        run_golden(case, record)
    for number in re.findall(r"\d+", record["expected_error"]):
        assert re.search(rf"\b{number}\b", str(caught.value))


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "record"), golden(lambda error: (error or "").startswith("ZeroDivisionError"))
)
def test_golden_empty_groups(case, record):
    """The reference divides by zero where a group is empty; that group is nan, the others not."""
    metric = run_golden(case, record, trust_area=True)
    check_golden_counts(case, record, metric)
    groups = metric.result().groups
    assert 0 in [group.n for group in groups.values()]
    for group in groups.values():
        assert math.isnan(group.pq) == math.isnan(group.sq) == math.isnan(group.rq)
        assert math.isnan(group.pq) == (group.n == 0)


# By hand.


def test_scores_by_hand():
    """Two images of one row.

    Truth 1 is 6 pixels of cat, its prediction 5 of these and none else: 5 / 6. Truth 2 is 4 pixels
    of sky, the prediction has them and the sixth pixel of the cat: 4 / 5. In the second image a cat
    is missed (a dog is predicted instead). So cat: tp 1, fn 1, PQ 5/6 / 1.5 = 5/9, RQ 2/3; dog: fp
    1, all 0; sky: 4/5. Things (5/9 + 0) / 2, all (5/9 + 0 + 4/5) / 3.
    """
    metric = PanopticQuality(CATEGORIES)
    metric.update(
        row((7, 5), (8, 5)),
        [segment(7), segment(8, 9)],
        row((1, 6), (2, 4)),
        [segment(1, area=6), segment(2, 9)],
    )
    metric.update(row((3, 4)), [segment(3, 4)], row((3, 4)), [segment(3)])
    assert counts(metric) == {1: (1, 0, 1, 5 / 6), 4: (0, 1, 0, 0), 9: (1, 0, 0, 4 / 5)}
    result = metric.result()
    cat, dog, sky = result.classes
    assert (cat.name, cat.isthing, sky.isthing) == ("cat", True, False)
    assert (cat.pq, cat.sq, cat.rq) == pytest.approx((5 / 9, 5 / 6, 2 / 3))
    assert (dog.pq, dog.sq, dog.rq) == (0, 0, 0)
    assert (sky.pq, sky.sq, sky.rq) == pytest.approx((4 / 5, 4 / 5, 1))
    things, everything = result.groups["Things"], result.groups["All"]
    assert (things.pq, things.sq, things.rq) == pytest.approx((5 / 18, 5 / 12, 1 / 3))
    assert (everything.pq, everything.n) == pytest.approx(((5 / 9 + 4 / 5) / 3, 3))
    assert result.groups["Stuff"].pq == pytest.approx(4 / 5)


@pytest.mark.parametrize(("common", "expected"), [(4, (0, 1, 1, 0)), (5, (1, 0, 0, 5 / 8))])
def test_half_is_not_enough(common, expected):
    """8 pixels of truth; 4 of them predicted are an IoU of 4/8, which is not above 1/2; 5 are."""
    prediction = row((5, common), (0, 8 - common))
    assert counted(prediction, [segment(5)], row((1, 8)), [segment(1)]) == {1: expected}


def test_void_is_not_in_the_union():
    """3 of the truth's 4 pixels, and 6 of void: 3 / 4 and not 3 / 10, which would be no match."""
    prediction = row((0, 1), (5, 9))
    found = counted(prediction, [segment(5)], row((1, 4), (0, 6)), [segment(1)])
    assert found == {1: (1, 0, 0, 3 / 4)}


@pytest.mark.parametrize(("on_void", "wrong"), [(5, 1), (6, 0)])
def test_mostly_void_is_no_false_positive(on_void, wrong):
    """10 predicted pixels in all: with 5 on void it is wrong, with 6 it is left out."""
    truth = row((0, on_void), (1, 30 - on_void))
    prediction = row((5, 10), (0, 20))
    assert counted(prediction, [segment(5)], truth, [segment(1)]) == {1: (0, wrong, 1, 0)}


@pytest.mark.parametrize(("category", "wrong"), [(1, {}), (4, {4: (0, 1, 0, 0)})])
def test_crowd_is_neither_matched_nor_missed(category, wrong):
    """A crowd excuses a prediction of its own category only, even one that would match."""
    crowd = [segment(1, iscrowd=1)]
    assert counted(row((5, 8)), [segment(5, category)], row((1, 8)), crowd) == wrong


@pytest.mark.parametrize(("order", "wrong"), [((1, 2), 1), ((2, 1), 0)])
def test_only_the_last_crowd_of_a_category_counts(order, wrong):
    """6 of 10 predicted pixels lie on crowd 1 and 4 on crowd 2: only 1 is more than half."""
    truths = [segment(number, iscrowd=1) for number in order]
    found = counted(row((5, 10)), [segment(5)], row((1, 6), (2, 4)), truths)
    assert found == ({1: (0, 1, 0, 0)} if wrong else {})


def test_void_and_crowd_excuse_together():
    """3 pixels on void, 3 on the crowd, 4 on a dog: 6 of 10."""
    truths = [segment(1, iscrowd=1), segment(2, 4)]
    truth = row((0, 3), (1, 3), (2, 4))
    assert counted(row((5, 10)), [segment(5)], truth, truths) == {4: (0, 0, 1, 0)}


def test_another_category_does_not_match():
    assert counted(row((5, 4)), [segment(5, 4)], row((5, 4)), [segment(5, 1)]) == {
        1: (0, 0, 1, 0),
        4: (0, 1, 0, 0),
    }


def test_declared_areas(caplog):
    """8 pixels declared as 12, 6 predicted: 6 / 8 is counted, 6 / 12 (no match) is believed."""
    truth, prediction = row((1, 8)), row((5, 6), (0, 2))
    truths, guesses = [segment(1, area=12)], [segment(5, area=6)]
    metric = PanopticQuality(CATEGORIES)
    metric.update(prediction, guesses, truth, truths, image="a.png")
    assert counts(metric) == {1: (1, 0, 0, 6 / 8)}
    assert [record.getMessage() for record in caplog.records] == [
        "image a.png: segment 1 of the truth has 8 pixels, not 12; the counted area is used"
    ]
    believed = counted(prediction, guesses, truth, truths, trust_area=True)
    assert believed == {1: (0, 1, 1, 0)}
    assert caplog.messages[1].endswith("not 12; the declared area is used")


def test_categories_that_do_not_occur():
    """They are nan and left out of the means; a group without any is nan."""
    metric = PanopticQuality(CATEGORIES)
    nothing = metric.result()
    for score in (*nothing.classes, *nothing.groups.values()):
        assert np.isnan([score.pq, score.sq, score.rq]).all()
    metric.update(row((5, 4)), [segment(5)], row((1, 4)), [segment(1)])
    result = metric.result()
    assert [math.isnan(score.pq) for score in result.classes] == [False, True, True]
    assert asdict(result.groups["All"]) == {"pq": 1, "sq": 1, "rq": 1, "n": 1}
    assert math.isnan(result.groups["Stuff"].pq)
    assert result.groups["Stuff"].n == 0


def test_table():
    metric = PanopticQuality(CATEGORIES)
    metric.update(row((5, 5), (0, 3)), [segment(5)], row((1, 8)), [segment(1)])
    assert panoptic_table(metric.result()).splitlines() == [
        "category  kind      PQ     SQ      RQ  TP  FP  FN",
        "cat       thing  62.50  62.50  100.00   1   0   0",
        "dog       thing    nan    nan     nan   0   0   0",
        "sky       stuff    nan    nan     nan   0   0   0",
        "All       n = 1  62.50  62.50  100.00",
        "Things    n = 1  62.50  62.50  100.00",
        "Stuff     n = 0    nan    nan     nan",
    ]


# Against masks, on random maps.


@st.composite
def images(draw):
    """Arguments of ``update``: coarse random maps, where most of the prediction is right."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    truth = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 4)))
    slips = draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([-1, -1, -1, 0, 1, 2, 3])))
    prediction = np.where(slips < 0, truth, slips) * 70_000
    kinds = draw(st.lists(st.sampled_from([1, 1, 4, 9]), min_size=10, max_size=10))
    crowd = draw(st.lists(st.sampled_from([0, 0, 1]), min_size=5, max_size=5))
    order = draw(st.permutations(range(1, 5)))
    truths = [
        segment(n, kinds[n], iscrowd=crowd[n], area=int(np.sum(truth == n)))
        for n in order
        if n in truth
    ]
    odd = draw(st.sampled_from([0, 0, 5]))
    guesses = [segment(n * 70_000, kinds[n + odd]) for n in order if n * 70_000 in prediction]
    return prediction, guesses, truth, truths


@given(st.lists(images(), min_size=1, max_size=3))
def test_against_masks(data):
    metric = PanopticQuality(CATEGORIES)
    for image in data:
        metric.update(*image)
    expected = count_by_masks(data)
    found = counts(metric)
    assert set(found) == set(expected)
    for number, count in found.items():
        assert count[:3] == tuple(expected[number][:3])
        assert count[3] == pytest.approx(expected[number][3], abs=1e-12)


@given(images(), st.integers(1, 4), st.data())
def test_believed_areas_against_masks(image, factor, data):
    for target in image[3]:
        target["area"] = data.draw(st.integers(1, 2 * factor * target["area"]))
    expected = count_by_masks([image], believe=True)
    found = counted(*image, trust_area=True)
    assert {n: c[:3] for n, c in found.items()} == {n: tuple(c[:3]) for n, c in expected.items()}


@given(images())
def test_a_map_predicts_itself(image):
    """Every score is 1, and neither layout nor type of the arrays matters."""
    truth, truths = image[2], [{**target, "iscrowd": 0} for target in image[3]]
    metric = PanopticQuality(CATEGORIES)
    metric.update(np.asfortranarray(truth.astype(np.uint16)), truths, truth[::-1][::-1], truths)
    for score in metric.result().classes:
        wanted = sum(target["category_id"] == score.id for target in truths)
        assert (score.tp, score.fp, score.fn, score.iou_sum) == (wanted, 0, 0, wanted)


@given(st.lists(images(), max_size=3), st.lists(images(), max_size=3))
def test_merging_equals_streaming(first, second):
    """Also when an instance comes from another process."""
    stream, one, two = (PanopticQuality(CATEGORIES) for _ in range(3))
    for image in first:
        stream.update(*image)
        one.update(*image)
    for image in second:
        stream.update(*image)
        two.update(*image)
    one.merge(pickle.loads(pickle.dumps(two)))
    for name in ("tp", "fp", "fn"):
        np.testing.assert_array_equal(getattr(stream, name), getattr(one, name))
    np.testing.assert_allclose(stream.iou_sum, one.iou_sum, rtol=1e-12)


# What cannot be counted.

MAP = row((1, 4), (2, 4))
FINE = (segment(1), segment(2, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: row((1, 4), (3, 4))}, "prediction map has pixels of id 3, but its segments are 1, 2;"),
        ({2: row((1, 4), (-1, 4))}, "truth map has pixels of id -1, but its segments are 1, 2;"),
        ({1: []}, "prediction map has pixels of id 1, 2, but its segments are none"),
        ({1: [*FINE, segment(77)]}, "segment 77 of the prediction has no pixels"),
        ({3: [*FINE, segment(5), segment(6)]}, "segment 5, 6 of the truth has no pixels"),
        ({1: [segment(1, 3), FINE[1]]}, "segment 1 of the prediction has the category 3.*1, 4, 9"),
        ({3: [segment(1, 3), FINE[1]]}, "segment 1 of the truth has the category 3; known are 1"),
        ({1: [*FINE, segment(1)]}, "ids of the prediction's segments must differ.*twice or 0: 1"),
        ({3: [*FINE, segment(0)]}, "ids of the truth's segments must differ.*twice or 0: 0"),
        ({1: [{"id": 1}]}, "a segment of the prediction lacks 'id' or 'category_id': {'id': 1}"),
        ({0: MAP[:, :7]}, r"prediction \(1, 7\) and truth \(1, 8\) differ in size"),
        ({0: MAP[0]}, r"prediction must be a height x width map.*int32 of shape \(8,\)"),
        ({2: MAP * 1.0}, "truth must be a height x width map of integer ids, not float64"),
        ({2: MAP[:, :0]}, r"truth must be a height x width map.*\(1, 0\)"),
    ],
)
def test_errors_say_what_came_and_nothing_is_counted(change, message):
    arguments = [MAP, FINE, MAP, FINE]
    for position, value in change.items():
        arguments[position] = value
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    with pytest.raises(ValueError, match=f"^image 12: .*{message}"):
        metric.update(*arguments, image=12)
    assert not counts(metric)


def test_trusted_areas_must_be_there():
    for more in ({}, {"area": 0}, {"area": None}):
        metric = PanopticQuality(CATEGORIES, trust_area=True)
        with pytest.raises(ValueError, match=r"positive 'area' of every true segment.* 1 lacks"):
            metric.update(row((5, 4)), [segment(5)], row((1, 4)), [segment(1, **more)])


def test_impossible_settings():
    with pytest.raises(ValueError, match="each with an id of its own, not 1, 4, 9, 1"):
        PanopticQuality([*CATEGORIES, CATEGORIES[0]])
    with pytest.raises(ValueError, match="one category or more"):
        PanopticQuality([])
    with pytest.raises(ValueError, match=r"'isthing', which \{'id': 3\} lacks"):
        PanopticQuality([{"id": 3}])
    with pytest.raises(ValueError, match=r"not of 1, 4, 9 \(False\) and of 1, 4 \(False\)"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES[:2]))
    with pytest.raises(ValueError, match=r"\(False\) and of 1, 4, 9 \(True\)"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES, trust_area=True))


def test_annotations_are_paired_by_image():
    truths = [{"image_id": n, "side": "truth"} for n in (3, 1)]
    guesses = [{"image_id": n, "side": "guess"} for n in (1, 2, 3)]
    assert pair_annotations(guesses, truths) == [(guesses[2], truths[0]), (guesses[0], truths[1])]
    with pytest.raises(ValueError, match="no prediction for image 3, 1: 2 of 2 images"):
        pair_annotations([], truths)

"""Post-processing against the reference runs (post_*), and against loops over pixels."""

import pytest
import torch
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from freqfusion.modeling.mask2former import inference
from freqfusion.modeling.mask2former.inference import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

REFERENCE = cases("D", "MaskFormer.semantic_inference")
THRESHOLDS = {"object_mask_threshold": 0.3, "overlap_threshold": 0.6}


@pytest.fixture(params=[None, 1, 50], ids=lambda size: f"chunk{size}")
def chunk(request, monkeypatch):
    """Whole images at once, or rows and masks one by one, or a few."""
    if request.param:
        monkeypatch.setattr(inference, "_CHUNK_ELEMENTS", request.param)


def objects(classes, masks, scores):
    """Comparable descriptions: class and mask, with the scores in order."""
    found = {}
    for label, mask, score in zip(classes.tolist(), masks, scores.tolist(), strict=True):
        found.setdefault((label, mask.bool().numpy().tobytes()), []).append(score)
    return {key: sorted(values) for key, values in found.items()}


@pytest.mark.golden
@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case.id)
def test_reference(case, dtype):
    inputs = [case.group("in")[name].to(dtype) for name in ("mask_cls", "mask_pred")]
    expected, things = case.group("out"), case.ctor["thing_contiguous_ids"]
    case.check("sem_seg", semantic_inference(*inputs).float(), expected["sem_seg"])

    thresholds = {name: case.ctor[name] for name in THRESHOLDS}
    panoptic, segments = panoptic_inference(*inputs, thing_ids=things, **thresholds)
    assert panoptic.dtype == torch.int32
    assert torch.equal(panoptic, expected["panoptic_seg"])
    assert segments == case.entry["panoptic_segments_info"]

    instances = instance_inference(
        *inputs,
        topk=case.ctor["test_topk_per_image"],
        thing_ids=things if case.ctor["panoptic_on"] else None,
    )
    assert len(instances) == len(expected["inst_scores"])
    actual = objects(instances.pred_classes, instances.pred_masks, instances.scores)
    known = objects(expected["inst_classes"], expected["inst_masks"], expected["inst_scores"])
    assert set(actual) == set(known)
    tolerance = case.entry["tolerance"]["inst_scores"]
    for key, scores in known.items():
        assert actual[key] == pytest.approx(scores, abs=tolerance["atol"], rel=tolerance["rtol"])
    assert not instances.pred_boxes.tensor.any()


def random_queries(seed, queries, classes, size, dtype=torch.float32):
    """Logits of which some are sure, so that each threshold is passed and missed."""
    torch.manual_seed(seed)
    mask_cls = 2.5 * torch.randn(queries, classes + 1)
    mask_pred = 4 * torch.randn(queries, *size) + 2 * torch.randn(queries, 1, 1)
    return mask_cls.to(dtype), mask_pred.to(dtype)


def panoptic_by_loops(mask_cls, mask_pred, things, score_threshold, overlap_threshold):
    scores, labels = mask_cls.softmax(-1).max(-1)
    masks = mask_pred.sigmoid()
    kept = [
        q
        for q in range(len(mask_cls))
        if labels[q] < mask_cls.shape[1] - 1 and scores[q] > score_threshold
    ]
    height, width = mask_pred.shape[1:]
    result = torch.zeros(height, width, dtype=torch.int32)
    winner = {
        (y, x): max(kept, key=lambda q: (scores[q] * masks[q, y, x]).item())
        for y in range(height)
        for x in range(width)
        if kept
    }
    segments, stuff = [], {}
    for q in kept:
        won = [pixel for pixel, best in winner.items() if best == q]
        inside = {(y, x) for y, x in winner if masks[q, y, x] >= 0.5}
        owned = [pixel for pixel in won if pixel in inside]
        if not owned or len(won) / len(inside) < overlap_threshold:
            continue
        label = labels[q].item()
        number = stuff.get(label)
        if number is None:
            number = len(segments) + 1
            segments.append({"id": number, "isthing": label in things, "category_id": label})
            if label not in things:
                stuff[label] = number
        for pixel in owned:
            result[pixel] = number
    return result, segments


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**20))
def test_panoptic_is_the_loop(queries, classes, height, seed):
    mask_cls, mask_pred = random_queries(seed, queries, classes, (height, 4))
    things = {0, 2}
    actual = panoptic_inference(mask_cls, mask_pred, thing_ids=things, **THRESHOLDS)
    expected = panoptic_by_loops(mask_cls, mask_pred, things, *THRESHOLDS.values())
    assert torch.equal(actual[0], expected[0])
    assert actual[1] == expected[1]


@settings(max_examples=20)
@given(st.permutations(range(6)), st.integers(0, 2**20))
def test_order_of_queries_changes_only_the_ids(order, seed):
    mask_cls, mask_pred = random_queries(seed, 6, 3, (5, 6))
    order = torch.tensor(order)
    found = []
    for index in (torch.arange(6), order):
        panoptic, segments = panoptic_inference(
            mask_cls[index], mask_pred[index], thing_ids=[0], **THRESHOLDS
        )
        names = [(0, False)] + [(info["category_id"] + 1, info["isthing"]) for info in segments]
        found.append([names[i] for i in panoptic.flatten().tolist()])
        semantic = semantic_inference(mask_cls[index], mask_pred[index])
        torch.testing.assert_close(semantic, semantic_inference(mask_cls, mask_pred))
    assert found[0] == found[1]


def test_merged_stuff_by_hand():
    """Three queries of one class side by side: one segment of stuff, or three things."""
    mask_cls = torch.tensor([[9.0, 0, 0]] * 3)
    mask_pred = torch.full((3, 1, 4), -5.0)
    for q in range(3):
        mask_pred[q, 0, q] = 5.0
    stuff, info = panoptic_inference(mask_cls, mask_pred, thing_ids=[], **THRESHOLDS)
    assert stuff.tolist() == [[1, 1, 1, 0]]
    assert info == [{"id": 1, "isthing": False, "category_id": 0}]
    things, info = panoptic_inference(mask_cls, mask_pred, thing_ids={0}, **THRESHOLDS)
    assert things.tolist() == [[1, 2, 3, 0]]
    assert [segment["id"] for segment in info] == [1, 2, 3]


@pytest.mark.usefixtures("chunk")
def test_semantic_is_the_sum():
    mask_cls, mask_pred = random_queries(0, 5, 4, (6, 7))
    expected = torch.einsum(
        "qc,qhw->chw", mask_cls.softmax(-1)[:, :-1].double(), mask_pred.double().sigmoid()
    )
    actual = semantic_inference(mask_cls, mask_pred)
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("chunk")
def test_instances_by_hand():
    """Query 0 stands for both classes. Its mask has probabilities 1 and sigmoid(1) inside."""
    mask_cls = torch.tensor([[3.0, 3.0, 0.0], [0.0, 1.0, 3.0]])
    mask_pred = torch.tensor([[[50.0, 1.0, -9.0]], [[-9.0, -9.0, -9.0]]])
    instances = instance_inference(mask_cls, mask_pred, topk=3, boxes="masks")
    probability = mask_cls.softmax(-1)
    inside = (1 + torch.tensor(1.0).sigmoid()) / 2
    torch.testing.assert_close(
        instances.scores, torch.stack([probability[0, 0] * inside] * 2 + [torch.tensor(0.0)])
    )
    assert sorted(instances.pred_classes[:2].tolist()) == [0, 1]
    assert instances.pred_masks.tolist() == [[[True, True, False]]] * 2 + [[[False] * 3]]
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 2, 1]] * 2 + [[0, 0, 0, 0]]
    assert instances.image_size == (1, 3)


def test_instances_of_things_only():
    mask_cls, mask_pred = random_queries(0, 6, 4, (5, 6))
    everything = instance_inference(mask_cls, mask_pred, topk=1000)
    assert len(everything) == 24
    assert (everything.scores.diff() <= 0).all()
    things = instance_inference(mask_cls, mask_pred, topk=1000, thing_ids={1, 3})
    kept = (everything.pred_classes == 1) | (everything.pred_classes == 3)
    assert torch.equal(things.scores, everything.scores[kept])
    assert torch.equal(things.pred_masks, everything.pred_masks[kept])
    nothing = instance_inference(mask_cls, mask_pred, topk=5, thing_ids=[], boxes="masks")
    assert len(nothing) == 0
    assert nothing.pred_masks.shape == (0, 5, 6)
    # The most probable pairs are chosen before classes are looked at.
    few = instance_inference(mask_cls, mask_pred, topk=3, thing_ids={1, 3})
    assert len(few) <= 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    mask_cls, mask_pred = random_queries(0, 6, 4, (5, 6), dtype)
    exact = (mask_cls.float(), mask_pred.float())
    with torch.autocast("cpu", torch.bfloat16):
        semantic = semantic_inference(mask_cls, mask_pred)
        panoptic = panoptic_inference(mask_cls, mask_pred, thing_ids=[1], **THRESHOLDS)
        instances = instance_inference(mask_cls, mask_pred, topk=9)
    assert semantic.dtype == instances.scores.dtype == torch.float32
    assert torch.equal(semantic, semantic_inference(*exact))
    expected = panoptic_inference(*exact, thing_ids=[1], **THRESHOLDS)
    assert torch.equal(panoptic[0], expected[0])
    assert panoptic[1] == expected[1]
    torch.testing.assert_close(instances.scores, instance_inference(*exact, topk=9).scores)


def test_errors():
    mask_cls, mask_pred = random_queries(0, 3, 2, (4, 5))
    for function in (
        semantic_inference,
        lambda *args: panoptic_inference(*args, thing_ids=[], **THRESHOLDS),
        lambda *args: instance_inference(*args, topk=1),
    ):
        with pytest.raises(ValueError, match=r"for one image; got \(3, 3\) and \(2, 4, 5\)"):
            function(mask_cls, mask_pred[:2])
        with pytest.raises(ValueError, match=r"got \(1, 3, 3\)"):
            function(mask_cls[None], mask_pred[None])
    with pytest.raises(ValueError, match="topk must be positive, got 0"):
        instance_inference(mask_cls, mask_pred, topk=0)
    with pytest.raises(ValueError, match=r"boxes must be one of \('zeros', 'masks'\), got 'real'"):
        instance_inference(mask_cls, mask_pred, topk=1, boxes="real")


def test_shapes_alone():
    """On the device without memory, which has no mixed precision to switch off."""
    scores = semantic_inference(
        torch.empty(5, 4, device="meta"), torch.empty(5, 6, 7, device="meta")
    )
    assert scores.device.type == "meta"
    assert scores.shape == (3, 6, 7)

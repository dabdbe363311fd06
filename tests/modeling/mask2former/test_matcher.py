"""The matcher against the reference runs (D04), and against trying all assignments."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_targets import (
    named_predictions,
    random_outputs,
    random_targets,
    recorded_outputs,
    recorded_targets,
    seeded,
)
from recorded_points import RecordedPoints

from freqfusion.modeling.mask2former.mask_losses import (
    dice_loss,
    mask_cross_entropy,
    pairwise_dice_loss,
    pairwise_mask_cross_entropy,
    sample_points,
)
from freqfusion.modeling.mask2former.matcher import HungarianMatcher

DTYPES = [torch.float32, torch.float64]


def build(case):
    names = ("cost_class", "cost_mask", "cost_dice", "num_points")
    return HungarianMatcher(**{name: case.ctor[name] for name in names})


def recorded_points(case, name):
    points = case.group("rand")
    return RecordedPoints(points[n] for n in case.entry["rand_order"] if n.startswith(f"{name}_ma"))


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", cases("D", "HungarianMatcher"), ids=lambda case: case.id)
def test_reference(case, dtype):
    matcher, targets = build(case), recorded_targets(case)
    middle, expected = case.group("mid"), case.group("out")
    for name, output in named_predictions(recorded_outputs(case)).items():
        output = {key: output[key].to(dtype) for key in ("pred_logits", "pred_masks")}
        source = recorded_points(case, name)
        for i, target in enumerate(targets):
            cost = matcher.costs(
                output["pred_logits"][i], output["pred_masks"][i], target, draw_points=source
            )
            assert cost.dtype == dtype
            if cost.numel():
                case.check("cost", cost.float(), middle[f"{name}_cost_img{i}"])
        source = recorded_points(case, name)
        matches = matcher(output, targets, draw_points=source)
        assert not source.left
        for i, (queries, objects) in enumerate(matches):
            assert torch.equal(queries, expected[f"{name}_match_src_img{i}"])
            assert torch.equal(objects, expected[f"{name}_match_tgt_img{i}"])


def best_by_trying(cost):
    """The smallest sum of costs over all ways to match."""
    queries, objects = cost.shape
    if queries < objects:
        return best_by_trying(cost.T)
    ways = itertools.permutations(range(queries), objects)
    return min(sum(cost[q, t].item() for t, q in enumerate(way)) for way in ways)


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**20))
def test_is_the_cheapest(queries, objects, classes, seed):
    torch.manual_seed(seed)
    matcher = HungarianMatcher(num_points=20)
    outputs = random_outputs(1, queries, classes, (5, 4))
    (target,) = random_targets([objects], classes, (10, 9))
    logits, masks = outputs["pred_logits"][0], outputs["pred_masks"][0]
    cost = matcher.costs(logits, masks, target, draw_points=seeded(seed))
    ((rows, columns),) = matcher(outputs, [target], draw_points=seeded(seed))
    assert len(rows) == len(columns) == min(queries, objects)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(set(columns.tolist())) == len(columns)
    assert cost[rows, columns].sum().item() == pytest.approx(best_by_trying(cost), abs=1e-4)


def test_costs_are_the_losses_of_each_pair():
    torch.manual_seed(0)
    outputs = random_outputs(1, 4, 3, (5, 6))
    (target,) = random_targets([3], 3, (10, 12))
    matcher = HungarianMatcher(cost_class=0.7, cost_mask=1.3, cost_dice=0.4, num_points=30)
    logits, masks = outputs["pred_logits"][0], outputs["pred_masks"][0]
    cost = matcher.costs(logits, masks, target, draw_points=seeded(1))
    points = seeded(1)(1, 30, masks.device)
    for q in range(4):
        for t in range(3):
            predicted = sample_points(masks[q][None, None], points)[0]
            true = sample_points(target["masks"][t][None, None], points)[0]
            expected = (
                1.3 * F.binary_cross_entropy(predicted.sigmoid(), true)
                - 0.7 * logits[q].softmax(0)[target["labels"][t]]
                + 0.4 * dice_loss(predicted, true)[0]
            )
            torch.testing.assert_close(cost[q, t], expected, atol=1e-5, rtol=1e-5)


def test_pairs_by_hand():
    """Sure and right: no loss. Sure, with logit 20, and wrong at one point of two: 20 / 2."""
    logits = torch.tensor([[20.0, -20.0]])
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    both = torch.cat((right, wrong))
    expected = torch.tensor([[0.0, 10.0]])
    torch.testing.assert_close(pairwise_mask_cross_entropy(logits, both), expected)
    torch.testing.assert_close(mask_cross_entropy(logits, wrong), expected[0, 1:])
    # Prediction {1}, object {}: 1 - (0 + 1) / (1 + 0 + 1).
    torch.testing.assert_close(pairwise_dice_loss(logits, both), torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(dice_loss(logits, wrong), torch.tensor([0.5]))


@settings(max_examples=20)
@given(st.permutations(range(6)), st.permutations(range(3)), st.integers(0, 2**20))
def test_order_does_not_matter(query_order, object_order, seed):
    torch.manual_seed(seed)
    outputs = random_outputs(1, 6, 4, (6, 6))
    (target,) = random_targets([3], 4, (12, 12))
    matcher = HungarianMatcher(num_points=40)
    cost = matcher.costs(
        outputs["pred_logits"][0], outputs["pred_masks"][0], target, draw_points=seeded(seed)
    )
    ((queries, objects),) = matcher(outputs, [target], draw_points=seeded(seed))
    query_order, object_order = torch.tensor(query_order), torch.tensor(object_order)
    outputs = {name: outputs[name][:, query_order] for name in ("pred_logits", "pred_masks")}
    target = {name: value[object_order] for name, value in target.items()}
    ((new_queries, new_objects),) = matcher(outputs, [target], draw_points=seeded(seed))
    # Two objects may be the same, so the matches themselves may differ; their cost may not.
    after = cost[query_order[new_queries], object_order[new_objects]].sum()
    torch.testing.assert_close(after, cost[queries, objects].sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_in_half_precision(dtype):
    """Sums over points of such logits overflow float16; in float32 the match is clear."""
    masks = torch.full((1, 2, 4, 4), -30000.0)
    masks[0, 0, :, 2:], masks[0, 1, :, :2] = 30000.0, 30000.0
    outputs = {"pred_logits": torch.zeros(1, 2, 3), "pred_masks": masks}
    outputs = {name: value.to(dtype) for name, value in outputs.items()}
    target = {"labels": torch.tensor([1]), "masks": masks[:, 1] > 0}
    with torch.autocast("cpu", torch.bfloat16):
        matcher = HungarianMatcher(num_points=100)
        ((queries, _),) = matcher(outputs, [target])
        cost = matcher.costs(outputs["pred_logits"][0], outputs["pred_masks"][0], target)
    assert queries.tolist() == [1]
    assert cost.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["pred_logits", "pred_masks"])
def test_predictions_that_are_not_finite(name, value):
    outputs = random_outputs(2, 3, 2, (4, 4))
    outputs[name][1] = value
    with pytest.raises(RuntimeError, match=r"image 1 of the batch .* has diverged: lower"):
        HungarianMatcher(num_points=8)(outputs, random_targets([1, 2], 2, (4, 4)))


def test_arguments(monkeypatch):
    with pytest.raises(ValueError, match=r"must not be negative.*got .*'cost_mask': -1"):
        HungarianMatcher(cost_mask=-1)
    with pytest.raises(ValueError, match="one must be positive"):
        HungarianMatcher(cost_class=0, cost_mask=0, cost_dice=0)
    with pytest.raises(ValueError, match="num_points must be positive, got 0"):
        HungarianMatcher(num_points=0)
    assert "num_points=7" in repr(HungarianMatcher(num_points=7))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(RuntimeError, match="needs scipy: pip install scipy"):
        HungarianMatcher()(random_outputs(1, 3, 2, (4, 4)), random_targets([1], 2, (4, 4)))

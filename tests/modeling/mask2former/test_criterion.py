"""The losses against the reference runs (D04), against loops, and what surrounds them."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
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

from freqfusion.engine.launch import leave_group
from freqfusion.modeling.mask2former.criterion import SetCriterion, weigh_losses
from freqfusion.modeling.mask2former.mask_losses import (
    choose_uncertain_points,
    classification_loss,
    sample_points,
)
from freqfusion.modeling.mask2former.matcher import HungarianMatcher

CRITERIA = cases("D", "HungarianMatcher")


def build(case, **changes):
    costs = ("cost_class", "cost_mask", "cost_dice", "num_points")
    settings = ("num_classes", "eos_coef", "num_points", "losses")
    sampling = ("oversample_ratio", "importance_sample_ratio")
    matcher = HungarianMatcher(**{name: case.ctor[name] for name in costs})
    arguments = {name: case.ctor[name] for name in (*settings, *sampling)}
    return SetCriterion(matcher=matcher, **(arguments | changes))


def criterion(num_classes=3, num_points=24, **changes):
    arguments = {
        "num_classes": num_classes,
        "matcher": HungarianMatcher(num_points=num_points),
        "num_points": num_points,
        "draw_points": seeded(),
    }
    return SetCriterion(**(arguments | changes))


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CRITERIA, ids=lambda case: case.id)
def test_reference(case, dtype):
    """Losses, their weighted sum and its gradients; all random points are used, in their order."""
    outputs = recorded_outputs(case)
    named = named_predictions(outputs)
    for output in named.values():
        for name in ("pred_logits", "pred_masks"):
            output[name] = output[name].to(dtype).clone().requires_grad_()
    source = RecordedPoints.of(case)
    losses = build(case, draw_points=source)(outputs, recorded_targets(case))
    assert not source.left
    expected = case.group("out")
    assert set(losses) == {name for name in expected if name.startswith("loss_")}
    total = sum(case.ctor["weight_dict"][name] * loss for name, loss in losses.items())
    for name, loss in (losses | {"total": total}).items():
        assert loss.dtype == dtype
        case.check(name, loss.float(), expected[name])
    weights = {name: case.ctor["weight_dict"][name] for name in ("loss_ce", "loss_mask")}
    weights["loss_dice"] = case.ctor["weight_dict"]["loss_dice"]
    assert sum(weigh_losses(losses, weights).values()).item() == pytest.approx(total.item())
    total.backward()
    for name, value in case.group("grad").items():
        part, key = name.split("_", 1)
        case.check(f"grad/{name}", named[part][key].grad.float(), value)


@pytest.mark.golden
@pytest.mark.parametrize("case", CRITERIA, ids=lambda case: case.id)
def test_reference_points(case):
    for name, output in named_predictions(recorded_outputs(case)).items():
        chosen = [
            masks[case.group("out")[f"{name}_match_src_img{i}"]]
            for i, masks in enumerate(output["pred_masks"])
        ]
        recorded = case.group("rand")
        order = [n for n in case.entry["rand_order"] if n.startswith(f"{name}_loss")]
        points = choose_uncertain_points(
            torch.cat(chosen),
            num_points=case.ctor["num_points"],
            oversample_ratio=case.ctor["oversample_ratio"],
            importance_sample_ratio=case.ctor["importance_sample_ratio"],
            draw_points=RecordedPoints(recorded[n] for n in order),
        )
        assert torch.equal(points, case.group("mid")[f"{name}_point_coords"])


def by_loops(module, outputs, targets, matches, points):
    """The losses of one set of predictions, object after object."""
    weights = module.empty_weight.double()
    entropy = total_weight = mask_loss = dice = 0.0
    row = 0
    objects = max(1, sum(len(target["labels"]) for target in targets))
    for b, (target, (queries, chosen)) in enumerate(zip(targets, matches, strict=True)):
        match = dict(zip(queries.tolist(), chosen.tolist(), strict=True))
        for q, logits in enumerate(outputs["pred_logits"][b].double()):
            label = target["labels"][match[q]].item() if q in match else module.num_classes
            entropy -= weights[label] * logits.log_softmax(0)[label]
            total_weight += weights[label]
        for q, t in match.items():
            place = points[row][None]
            x = sample_points(outputs["pred_masks"][b, q][None, None].double(), place)[0, 0]
            y = sample_points(target["masks"][t][None, None].double(), place)[0, 0]
            p = x.sigmoid()
            mask_loss -= (y * p.log() + (1 - y) * (1 - p).log()).mean()
            dice += 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
            row += 1
    return {
        "loss_ce": entropy / total_weight,
        "loss_mask": mask_loss / objects,
        "loss_dice": dice / objects,
    }


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 2**20)
)
def test_is_the_loop(counts, classes, seed):
    torch.manual_seed(seed)
    outputs = random_outputs(len(counts), 4, classes, (5, 6))
    targets = random_targets(counts, classes, (11, 13))
    drawn = []

    def draw(sets, points, device):
        drawn.append(torch.rand(sets, points, 2))
        return drawn[-1]

    module = criterion(classes, draw_points=draw, importance_sample_ratio=0.0)
    losses = module(outputs, targets)
    per_image = RecordedPoints(drawn[: len(counts)])
    matches = module.matcher(outputs, targets, draw_points=per_image)
    expected = by_loops(module, outputs, targets, matches, drawn[-1])
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-4, abs=1e-5)


@settings(max_examples=15)
@given(st.permutations(range(4)), st.integers(0, 2**20))
def test_order_of_objects_does_not_matter(order, seed):
    """At so many points that the matching tells objects apart that are nearly the same."""
    torch.manual_seed(seed)
    outputs = random_outputs(1, 6, 3, (6, 6), auxiliary=1)
    (target,) = random_targets([4], 3, (12, 12))
    before = criterion(num_points=400, draw_points=seeded(seed))(outputs, [target])
    target = {name: value[torch.tensor(order)] for name, value in target.items()}
    after = criterion(num_points=400, draw_points=seeded(seed))(outputs, [target])
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (200, 0), (1, 3)])
@pytest.mark.parametrize("classes", [1, 1000])
def test_numbers_of_objects_and_classes(counts, classes):
    torch.manual_seed(0)
    outputs = random_outputs(2, 10, classes, (5, 6), auxiliary=2)
    for output in (outputs, *outputs["aux_outputs"]):
        output["pred_logits"].requires_grad_()
        output["pred_masks"].requires_grad_()
    losses = criterion(classes)(outputs, random_targets(counts, classes, (10, 12)))
    assert len(losses) == 9
    sum(losses.values()).backward()
    for output in (outputs, *outputs["aux_outputs"]):
        for name in ("pred_logits", "pred_masks"):  # all are reached, also without objects
            assert output[name].grad.isfinite().all()
            assert output[name].grad.any() or (name == "pred_masks" and not sum(counts))
    if not sum(counts):
        assert losses["loss_mask"] == losses["loss_dice_1"] == 0


def test_no_object_weight_by_hand():
    """One query with even logits, of a class; one that is rather sure of having no object."""
    logits = torch.zeros(1, 2, 2)
    logits[0, 1, 1] = 1.0
    rather_sure = math.log(1 + math.exp(-1))
    for weight in (0.0, 0.1, 1.0):
        loss = classification_loss(logits, torch.tensor([[0, 1]]), torch.tensor([1.0, weight]))
        assert loss.item() == pytest.approx((math.log(2) + weight * rather_sure) / (1 + weight))
    nothing = classification_loss(logits, torch.tensor([[1, 1]]), torch.tensor([1.0, 0.0]))
    assert nothing == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(dtype, autocast):
    torch.manual_seed(0)
    targets = random_targets([3, 5], 3, (20, 24))
    outputs = random_outputs(2, 8, 3, (5, 6), dtype=dtype, auxiliary=1)
    exact = {name: value.float() for name, value in outputs.items() if name != "aux_outputs"}
    expected = criterion()(exact, targets)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = criterion()(outputs, targets)
    for value in losses.values():
        assert value.dtype == torch.float32
        assert value.isfinite()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_gradients():
    torch.manual_seed(0)
    outputs = random_outputs(1, 3, 2, (3, 4), dtype=torch.float64, scale=0.5)
    targets = random_targets([2], 2, (6, 8))

    def total(logits, masks):
        module = criterion(2, num_points=6, importance_sample_ratio=0.0)
        losses = module({"pred_logits": logits, "pred_masks": masks}, targets)
        return sum(losses.values())

    inputs = [outputs[name].requires_grad_() for name in ("pred_logits", "pred_masks")]
    assert torch.autograd.gradcheck(total, inputs)


def test_published_buffer_is_accepted_and_the_argument_holds():
    module = criterion(eos_coef=0.3)
    published = {"criterion.empty_weight": torch.tensor([1.0, 1.0, 1.0, 0.1])}
    parent = torch.nn.ModuleDict({"criterion": module})
    assert list(parent.state_dict()) == list(published)
    parent.load_state_dict(published)
    assert module.empty_weight.tolist() == pytest.approx([1, 1, 1, 0.3])


def test_weights_of_auxiliary_losses():
    losses = {"loss_ce": torch.tensor(1.0), "loss_ce_12": torch.tensor(3.0)}
    weighted = weigh_losses(losses, {"loss_ce": 2.0})
    assert {name: value.item() for name, value in weighted.items()} == {
        "loss_ce": 2.0,
        "loss_ce_12": 6.0,
    }
    with pytest.raises(ValueError, match="no weight for loss_ce: there are weights for loss_mask"):
        weigh_losses(losses, {"loss_mask": 1.0})


def _mask_loss_of(rank, folder):
    """A process of its own, with one object more than the rank's square."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.manual_seed(rank)
    outputs = random_outputs(1, 9, 3, (5, 6))
    targets = random_targets([1 + 6 * rank], 3, (10, 12))
    together = criterion()(outputs, targets)
    leave_group()
    alone = criterion()(outputs, targets)
    (Path(folder) / str(rank)).write_text(f"{together['loss_mask'] / alone['loss_mask']}")


def test_objects_are_averaged_over_processes():
    """1 and 7 objects are 4 for each: one process counts its loss a quarter, the other 7 / 4."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _mask_loss_of, (folder,), nprocs=2, start_method="fork"
        )
        ratios = [float((Path(folder) / rank).read_text()) for rank in "01"]
    assert ratios == pytest.approx([1 / 4, 7 / 4], rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (random_targets([1], 3, (8, 8)), "got 1 for a batch of 2 images"),
        (
            random_targets([1], 3, (8, 8)) + random_targets([1], 3, (8, 9)),
            r"must have one size, got \(8, 8\), \(8, 9\): pad them",
        ),
        (
            [{"labels": torch.tensor([3]), "masks": torch.zeros(1, 8, 8)}] * 2,
            "label 3 is not one of the 3 classes 0 to 2",
        ),
        (
            [{"labels": torch.tensor([0, 1]), "masks": torch.zeros(1, 8, 8)}] * 2,
            r"target 0 must have labels .* got \(2,\) and \(1, 8, 8\)",
        ),
    ],
)
def test_target_errors(targets, message):
    with pytest.raises(ValueError, match=message):
        criterion()(random_outputs(2, 4, 3, (4, 4)), targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"importance_sample_ratio": 1.5}, "importance_sample_ratio must be from 0 to 1, got 1.5"),
        ({"losses": ["boxes"]}, r"losses must be some of \('labels', 'masks'\), got \('boxes',\)"),
    ],
)
def test_argument_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        criterion(**changes)


def test_number_of_classes_must_fit():
    with pytest.raises(ValueError, match=r"must have 4 channels, for 3 classes.*got \(1, 4, 3\)"):
        criterion()(random_outputs(1, 4, 2, (4, 4)), random_targets([0], 3, (4, 4)))
    assert "num_points=24" in repr(criterion())

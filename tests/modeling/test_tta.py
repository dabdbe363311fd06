"""Test-time augmentation: what the model is shown, and how its answers are merged.

Pictures are a row of pixels where that is enough; "seen in the image's frame" means that the test
mirrors what it hands over for a mirrored view.
"""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, RotatedBoxes
from hypothesis import given, settings
from hypothesis import strategies as st
from mask2former_models import seeded_model, small_cfg
from PIL import Image
from sfm_models import plain_cfg
from torch import nn
from toy_configs import change, resnet18_cfg

from freqfusion.data.mapper import SegmentationMapper
from freqfusion.modeling.tta import (
    TestTimeAugmentation,
    merge_instances,
    merge_panoptic,
    turn_instances,
)

DATASET = "synthetic_panoptic_val_separated"
NAMES = ("id", "isthing", "category_id")


class Scripted(nn.Module):
    """Gives prepared outputs one after the other, and remembers what it was shown."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs, self.seen = outputs, []
        self.eval()

    def forward(self, inputs):
        (shown,) = inputs
        self.seen.append(shown)
        return [self.outputs[(len(self.seen) - 1) % len(self.outputs)]]


def augmented(model, *, min_sizes=(4,), max_size=100, flip=True, image_format="BGR", topk=100):
    cfg = resnet18_cfg()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = tuple(min_sizes), max_size
    cfg.TEST.AUG.FLIP, cfg.INPUT.FORMAT, cfg.TEST.DETECTIONS_PER_IMAGE = flip, image_format, topk
    return TestTimeAugmentation(cfg, model.eval())


def picture(height=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)


def semantic_model(*, height=4, width=6):
    return Scripted({"sem_seg": torch.zeros(2, height, width)})


# ---- what the model is shown


def test_views_of_an_image():
    """Sizes 4 and 8 of a 4 x 6 image, each mirrored; truth is left out, the rest is handed on."""
    model, image = semantic_model(), picture()
    given = {"image": image, "height": 4, "width": 6, "image_id": 7, "sem_seg": torch.zeros(4, 6)}
    before = dict(given)
    augmented(model, min_sizes=[4, 8])([given])
    assert given == before
    first, mirrored, large, large_mirrored = model.seen
    assert torch.equal(first["image"], image)
    assert torch.equal(mirrored["image"], image.flip(-1))
    resize = T.ResizeTransform(4, 6, 8, 12)
    expected = torch.tensor(resize.apply_image(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    assert torch.equal(large["image"], expected)
    assert torch.equal(large_mirrored["image"], expected.flip(-1))
    for shown in model.seen:
        assert {k: v for k, v in shown.items() if k != "image"} == {
            "height": 4,
            "width": 6,
            "image_id": 7,
        }


@pytest.mark.parametrize(
    ("size", "min_sizes", "max_size", "expected"),
    [
        ((4, 6), [4, 6, 8], 9, [(4, 6), (6, 9)]),  # 8 is cut to 6, and one look is enough
        ((1, 300), [4], 100, [(1, 100)]),  # a third of a pixel is one
    ],
)
def test_sizes(size, min_sizes, max_size, expected):
    model = semantic_model(height=size[0], width=size[1])
    augmented(model, min_sizes=min_sizes, max_size=max_size)([{"image": picture(*size)}])
    assert [tuple(shown["image"].shape[-2:]) for shown in model.seen[::2]] == expected
    assert len(model.seen) == 2 * len(expected)
    # Where no size of the result is given, it is that of the image, as the models have it.
    assert {(shown["height"], shown["width"]) for shown in model.seen} == {size}


@pytest.fixture
def mapped(tmp_path):
    """A file of 37 x 53 pixels and what the mapper makes of it at MIN_SIZE_TEST 24."""

    def make(image_format, name="image.png"):
        path = tmp_path / name
        pixels = picture(37, 53).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path)
        cfg = resnet18_cfg()
        change(cfg, {"INPUT__FORMAT": image_format, "INPUT__MIN_SIZE_TEST": 24})
        given = {"file_name": str(path), "height": 37, "width": 53}
        return SegmentationMapper(cfg, is_train=False)(given)

    return make


def warnings_of(caplog):
    """What was logged as a warning; the mapper tells of itself where a run has set up logging."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_views_come_from_the_file_in_the_order_of_the_mapper(mapped, image_format, caplog):
    given, model = mapped(image_format), semantic_model(height=37, width=53)
    assert given["image"].shape[-2:] == (24, 34)
    augmented(model, min_sizes=[50], image_format=image_format)([given])
    original = read_image(given["file_name"], format=image_format)
    expected = T.ResizeShortestEdge(50, 100).get_transform(original).apply_image(original)
    assert np.array_equal(model.seen[0]["image"].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(model.seen[1]["image"], model.seen[0]["image"].flip(-1))
    assert not warnings_of(caplog)


def spoil(given, how):
    if how == "gone":
        given["file_name"] += ".gone"
    elif how == "another":
        Image.fromarray(np.zeros((37, 53, 3), np.uint8)).save(given["file_name"])
    elif how == "cropped":
        given["image"] = given["image"][..., :20]


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("gone", "cannot be read"),
        ("another", "is not the image"),
        ("cropped", "is not the image"),
        ("channels", "in RGB is not the image"),
    ],
)
def test_a_file_that_is_not_the_image_is_not_shown(mapped, how, word, caplog):
    given, model = mapped("BGR"), semantic_model(height=37, width=53)
    spoil(given, how)
    image_format = "RGB" if how == "channels" else "BGR"
    wrapped = augmented(model, min_sizes=[24], image_format=image_format)
    with caplog.at_level(logging.WARNING):
        wrapped([given, given])
    if how != "cropped":
        assert torch.equal(model.seen[0]["image"], given["image"])
    assert torch.equal(model.seen[1]["image"], model.seen[0]["image"].flip(-1))
    [warning] = warnings_of(caplog)
    assert word in warning.getMessage()


# ---- semantic


def test_mean_of_probabilities_by_hand():
    """Probabilities of class 1 are 3/4, and 1/2 in the mirrored view's place; mean 5/8."""
    logits = torch.tensor([0.0, 3.0]).log().clamp(min=0).view(2, 1, 1).expand(2, 1, 2).clone()
    mirrored = torch.stack([logits[:, :, 0], torch.zeros(2, 1)], dim=-1)
    model = Scripted({"sem_seg": logits}, {"sem_seg": mirrored})
    (result,) = augmented(model)([{"image": picture(1, 2)}])
    expected = torch.tensor([[[3 / 8, 1 / 4]], [[5 / 8, 3 / 4]]])
    torch.testing.assert_close(result["sem_seg"], expected)


def test_mean_of_scores_by_hand():
    """Scores of a Mask2Former do not add up to one, and stay so."""
    views = [torch.tensor([[[0.2, 0.0]], [[0.4, 1.0]]]), torch.tensor([[[0.0, 0.4]], [[0.6, 1.2]]])]
    model = Scripted(*({"sem_seg": view} for view in views))
    wrapped = augmented(model)
    wrapped.semantic = "scores"
    (result,) = wrapped([{"image": picture(1, 2)}])
    expected = torch.tensor([[[0.3, 0.0]], [[0.8, 0.8]]])
    torch.testing.assert_close(result["sem_seg"], expected)


def test_probabilities_outvote_one_loud_view():
    """Mean logits would be (40 - 3) / 4 > 0 for class 0; three of four views say class 1."""
    views = [{"sem_seg": torch.tensor([v, 0.0]).view(2, 1, 1)} for v in (40.0, -1.0, -1.0, -1.0)]
    (result,) = augmented(Scripted(*views), min_sizes=[4, 5])([{"image": picture(1, 1)}])
    sure = 1 / (1 + np.exp(1))
    assert result["sem_seg"][0].item() == pytest.approx((1 + 3 * sure) / 4)
    assert result["sem_seg"].argmax(0).item() == 1


# ---- instances


def instances(*objects, size=(1, 6), masks=True, boxes=True):
    """Objects are (class, score, pixels of the one row); boxes are around the pixels."""
    result = Instances(size)
    shapes = torch.zeros(len(objects), *size, dtype=torch.bool)
    rows = torch.zeros(len(objects), 4)
    for number, (_, _, pixels) in enumerate(objects):
        shapes[number, 0, list(pixels)] = True
        if boxes and pixels:
            rows[number] = torch.tensor([min(pixels), 0, max(pixels) + 1, 1])
    if masks:
        result.pred_masks = shapes
    result.pred_boxes = Boxes(rows)
    result.scores = torch.tensor([score for _, score, _ in objects])
    result.pred_classes = torch.tensor([label for label, _, _ in objects], dtype=torch.long)
    return result


def pooled(*views, flipped=(), topk=-1):
    turned = [turn_instances(view, flipped=n in flipped) for n, view in enumerate(views)]
    return merge_instances(turned, topk=topk)


def listed(result):
    """(class, score, pixels) of each object."""
    pixels = [mask[0].nonzero()[:, 0].tolist() for mask in result.pred_masks]
    scores = [round(score, 5) for score in result.scores.tolist()]
    return list(zip(result.pred_classes.tolist(), scores, pixels, strict=True))


def test_three_views_of_one_object_by_hand():
    """IoU 3/5; weights 5, 4, 3: pixel 0 is in the first only (5 of 12), 4 in the others (7)."""
    other = (1, 2, 3, 4)
    result = pooled(
        instances((1, 0.5, (0, 1, 2, 3))), instances((1, 0.4, other)), instances((1, 0.3, other))
    )
    assert listed(result) == [(1, 0.4, [1, 2, 3, 4])]
    box = torch.tensor([[(0 * 5 + 1 * 7) / 12, 0, (4 * 5 + 5 * 7) / 12, 1]])
    torch.testing.assert_close(result.pred_boxes.tensor, box)


NEAR = ((0, 0.9, (0, 1, 2)), (0, 0.8, (0, 1, 2, 3)))
APART = ((0, 0.8, (0, 1)), (0, 0.8, (0, 1)), (0, 0.5, (0, 1, 2)))


@pytest.mark.parametrize(
    ("views", "flipped", "expected"),
    [
        # An object of one view has half of its score.
        (
            [((0, 0.9, (0, 1)), (0, 0.8, (4, 5))), ((0, 0.7, (4, 5)),)],
            (),
            [(0, 0.75, [4, 5]), (0, 0.45, [0, 1])],
        ),
        # Other classes stay apart.
        ([((0, 0.8, (0, 1)),), ((1, 0.6, (0, 1)),)], (), [(0, 0.4, [0, 1]), (1, 0.3, [0, 1])]),
        # An IoU of one half is not enough.
        ([((0, 0.8, (0, 1)),), ((0, 0.6, (0,)),)], (), [(0, 0.4, [0, 1]), (0, 0.3, [0])]),
        # Objects that each view holds apart stay apart, whatever their scores.
        ([APART] * 3, (), [(0, 0.8, [0, 1]), (0, 0.8, [0, 1]), (0, 0.5, [0, 1, 2])]),
        # An object joins what it overlaps most.
        (
            [NEAR, ((0, 0.4, (0, 1, 2)),)],
            (),
            [(0, 0.65, [0, 1, 2]), (0, 0.4, [0, 1, 2, 3])],
        ),
        # Seen in the mirrored image of width 6, pixels 3 and 4 are 2 and 1.
        ([((0, 0.5, (3, 4)),)], (0,), [(0, 0.5, [1, 2])]),
        # What a Mask2Former gives for a query without a mask comes back as it was.
        ([((0, 0.0, ()), (1, 0.0, (2, 3)))] * 2, (), [(0, 0.0, []), (1, 0.0, [2, 3])]),
    ],
)
def test_merged_instances_by_hand(views, flipped, expected):
    result = pooled(*(instances(*view) for view in views), flipped=flipped)
    assert listed(result) == expected
    for box, (_, _, pixels) in zip(result.pred_boxes.tensor.tolist(), expected, strict=True):
        around = [min(pixels), 0, max(pixels) + 1, 1] if pixels else [0, 0, 0, 0]
        assert box == pytest.approx(around)


@pytest.mark.parametrize("width", [5, 6])
def test_boxes_decide_where_there_are_no_masks(width):
    """IoU 3/4, and boxes weighted 3 to 1: (0, 3) and (0, 4) of the unmirrored image."""
    seen = instances((0, 0.6, (0, 1, 2)), size=(1, width), masks=False)
    mirrored = instances((0, 0.2, range(width - 4, width)), size=(1, width), masks=False)
    result = pooled(seen, mirrored, flipped=[1])
    assert not result.has("pred_masks")
    assert result.scores.tolist() == pytest.approx([0.4])
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[0, 0, 3.25, 1]]))
    apart = pooled(seen, instances((0, 0.2, (2, 3, 4)), size=(1, width), masks=False))
    assert len(apart) == 2


def test_the_best_objects_are_kept():
    view = instances((0, 0.3, (0,)), (1, 0.9, (1,)), (2, 0.6, (2,)))
    assert [label for label, _, _ in listed(pooled(view, view, topk=2))] == [1, 2]


def test_no_object_in_any_view():
    result = pooled(instances(), instances(), flipped=[1])
    assert len(result) == 0
    assert result.image_size == (1, 6)
    assert result.pred_boxes.tensor.shape == (0, 4)
    assert result.pred_classes.dtype == torch.long
    assert result.pred_masks.shape == (0, 1, 6)


def wrong_instances(how):
    view = instances((0, 0.5, (0,)))
    if how == "keypoints":
        view.pred_keypoints = torch.zeros(1, 17, 3)
    else:
        view.pred_boxes = RotatedBoxes(torch.zeros(1, 5))
    return view


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("keypoints", "the model gives .*pred_keypoints.*: set "),
        ("rotated", "upright pred_boxes"),
    ],
)
def test_instances_that_cannot_be_merged(how, message):
    with pytest.raises(ValueError, match=message):
        pooled(wrong_instances(how))


# ---- panoptic

ROAD, SKY, CAR, BUS = 0, 1, 0, 1


def panoptic(ids, *segments):
    """One row of ids; segments are (is thing, category), numbered from 1."""
    infos = [
        {"id": number, "isthing": thing, "category_id": category}
        for number, (thing, category) in enumerate(segments, start=1)
    ]
    return torch.tensor([ids], dtype=torch.int32), infos


def voted(*views, flipped=()):
    turned = [(ids.flip(-1) if n in flipped else ids, s) for n, (ids, s) in enumerate(views)]
    return merge_panoptic(turned)


C, B, R, S = (True, CAR), (True, BUS), (False, ROAD), (False, SKY)


@pytest.mark.parametrize(
    ("views", "flipped", "expected", "kinds"),
    [
        # Pixels 0-2 a car by 2 of 3 (pixel 2 in one only: 1 to 2 for the road), the rest road. The
        # bus of the third view is alone: its votes are not counted, and pixel 5 goes to the road.
        # Pixel 6 is void twice.
        (
            [
                ([1, 1, 1, 2, 2, 2, 0], C, R),
                ([1, 1, 2, 2, 2, 2, 0], C, R),
                ([2] * 5 + [1, 2], B, R),
            ],
            (),
            [1, 1, 2, 2, 2, 2, 0],
            [C, R],
        ),
        # Pixel 0 has one vote each for a bus, the road and the sky; the road has more elsewhere.
        ([([1, 2], B, R), ([1, 1], R), ([1, 2], S, R)], (), [1, 1], [R]),
        # Ties: the thing before stuff, stuff before void, the larger stuff before the smaller. One
        # view of two is enough for a thing. Votes of the road 3 + 3, of the sky 2.
        (
            [([1, 1, 2, 2, 2, 0], C, R), ([1, 1, 1, 2, 0, 2], R, S)],
            (),
            [1, 1, 2, 2, 2, 3],
            [C, R, S],
        ),
        # Things that touch each other stay apart, and stuff is one.
        ([([1, 1, 2, 2, 3, 4], C, C, R, S)] * 3, (), [1, 1, 2, 2, 3, 4], [C, C, R, S]),
        # Two views say car (4 pixels), two say bus (5 pixels): equal votes on 0-2, so all to the
        # bus. The car would be left with pixel 3, one of its 4. It is given up, and of the others
        # that claim the pixel, one view each, stuff comes before void. Pixels 4 and 5 are bus twice
        # and void twice.
        (
            [([1, 1, 1, 1, 0, 0], C)] * 2 + [([1, 1, 1, 2, 1, 1], B, R), ([1, 1, 1, 0, 1, 1], B)],
            (),
            [1, 1, 1, 2, 1, 1],
            [B, R],
        ),
        # Pixel 0: two votes each; the car is seen three times (8 pixels), the bus twice (10).
        (
            [([1, 1, 1, 0, 0, 0, 0], C)] * 2
            + [([1, 2, 2, 1, 1, 1, 1], B, C), ([1, 0, 0, 1, 1, 1, 1], B)],
            (),
            [1, 1, 1, 2, 2, 2, 2],
            [C, B],
        ),
        ([([1, 2], R, S), ([1, 1], S)], (), [1, 1], [S]),
        # Cars of 3 and of 2 views both claim pixel 2: the first has 3 votes there, the second 2.
        ([([1, 1, 1, 2, 2], C, B)] * 2 + [([1, 1, 2, 2, 2], C, B)], (), [1, 1, 1, 2, 2], [C, B]),
        # The second view is mirrored.
        ([([1, 1, 2, 0, 0], C, R), ([0, 0, 1, 2, 2], R, C)], (1,), [1, 1, 2, 0, 0], [C, R]),
        ([([0, 0],)] * 2, (), [0, 0], []),
    ],
)
def test_merged_panoptic_maps_by_hand(views, flipped, expected, kinds):
    ids, segments = voted(*(panoptic(*view) for view in views), flipped=flipped)
    assert ids.tolist() == [expected]
    assert ids.dtype == torch.int32
    assert segments == panoptic([], *kinds)[1]


def test_scores_of_things_are_means_over_the_views():
    views = [panoptic([1, 1], (True, CAR)) for _ in range(3)]
    views[2] = panoptic([1, 1], (False, ROAD))
    for view, score in zip(views, (0.9, 0.6), strict=False):
        view[1][0]["score"] = score
    assert voted(*views)[1][0]["score"] == pytest.approx(0.5)


maps_strategy = st.lists(
    st.lists(st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=5
)
KINDS = ((True, CAR), (True, CAR), (True, BUS), (False, ROAD))


@settings(max_examples=100)
@given(maps_strategy)
def test_the_result_is_a_panoptic_map(rows):
    """Ids from 1 without a gap, each with pixels and described once; stuff is one segment."""
    views = [panoptic(row, *KINDS) for row in rows]
    ids, segments = voted(*views)
    assert [info["id"] for info in segments] == list(range(1, len(segments) + 1))
    assert set(ids.unique().tolist()) - {0} == {info["id"] for info in segments}
    assert sum(not info["isthing"] for info in segments) <= 1
    assert {(info["isthing"], info["category_id"]) for info in segments} <= set(KINDS)
    assert ids.shape == (1, 12)


@settings(max_examples=60)
@given(maps_strategy)
def test_stuff_is_the_most_frequent_label(rows):
    """Against counting, where one label has more votes than each other one."""
    kinds = [(False, category) for category in range(4)]
    ids, segments = voted(*(panoptic(row, *kinds) for row in rows))
    label_of = {0: 0} | {info["id"]: info["category_id"] + 1 for info in segments}
    for pixel, number in enumerate(ids[0].tolist()):
        counts = np.bincount([row[pixel] for row in rows], minlength=5)
        if (counts == counts.max()).sum() == 1:
            assert label_of[number] == counts.argmax()


# ---- whole models


def panoptic_fpn():
    keys = {
        "MODEL__FREQFUSION__ENABLED": True,
        "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0,
        "MODEL__PANOPTIC_FPN__COMBINE__INSTANCES_CONFIDENCE_THRESH": 0.2,
        "MODEL__PANOPTIC_FPN__COMBINE__STUFF_AREA_LIMIT": 10,
    }
    return change(plain_cfg("PanopticFPN"), keys)


def mask2former():
    return small_cfg(
        MODEL__MASK2FORMER__TEST__OBJECT_MASK_THRESHOLD=0.0,
        MODEL__MASK2FORMER__TEST__OVERLAP_THRESHOLD=0.0,
    )


CONFIGS = {"panoptic-fpn": panoptic_fpn, "mask2former": mask2former}


@pytest.fixture(scope="module", params=CONFIGS)
def real(request):
    """Configuration and model with random weights, with things and stuff in its results."""
    torch.manual_seed(3)
    cfg = CONFIGS[request.param]()
    return cfg, build_model(cfg).eval()


def configured(cfg, *, min_sizes, flip):
    cfg = cfg.clone()
    change(cfg, {"TEST__AUG__MIN_SIZES": min_sizes, "TEST__AUG__FLIP": flip})
    return cfg


def predicted(model, given):
    with torch.no_grad():
        return model([given])[0]


def assert_same(actual, expected, *, logits=False, exact=False):
    """Every part of two results; ``logits`` are compared after the softmax."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    assert list(actual) == list(expected)
    semantic = expected["sem_seg"].softmax(dim=0) if logits else expected["sem_seg"]
    torch.testing.assert_close(actual["sem_seg"], semantic, **tolerance)
    found, known = actual["instances"], expected["instances"]
    assert list(found.get_fields()) == list(known.get_fields())
    assert found.image_size == known.image_size
    assert torch.equal(found.pred_masks, known.pred_masks)
    assert torch.equal(found.pred_classes, known.pred_classes)
    torch.testing.assert_close(found.scores, known.scores, **tolerance)
    torch.testing.assert_close(found.pred_boxes.tensor, known.pred_boxes.tensor, **tolerance)
    assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
    names = [[{n: info[n] for n in NAMES} for info in r["panoptic_seg"][1]]
             for r in (actual, expected)]  # fmt: skip
    assert names[0] == names[1]


def test_one_view_is_the_models_own_result(real, mapped):
    cfg, model = real
    given = mapped(cfg.INPUT.FORMAT)
    wrapped = TestTimeAugmentation(configured(cfg, min_sizes=[24], flip=False), model)
    assert_same(wrapped([given])[0], predicted(model, given), exact=True)


def mirrored(name, value):
    """A part of a result as it is in the mirrored image; written down apart from the merging."""
    if name == "sem_seg":
        return value.flip(-1)
    if name == "panoptic_seg":
        return value[0].flip(-1), value[1]
    result = Instances(value.image_size, **value.get_fields())
    x0, y0, x1, y1 = value.pred_boxes.tensor.unbind(dim=1)
    width = value.image_size[1]
    result.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=1))
    result.pred_masks = value.pred_masks.flip(-1)
    return result


@pytest.mark.parametrize(("count", "flip"), [(3, False), (2, True)])
def test_equal_views_give_back_the_result(real, count, flip):
    """Also where every second one is of a mirror in which the model sees the same."""
    cfg, model = real
    output = predicted(model, {"image": picture(43, 65), "height": 43, "width": 65})
    assert len(output["instances"]) > 3
    assert len(output["panoptic_seg"][1]) > 1
    wrapped = TestTimeAugmentation(cfg, model)
    turned = [{n: mirrored(n, value) for n, value in output.items()}, output] if flip else [output]
    wrapped.model = Scripted(*reversed(turned))
    wrapped.min_sizes, wrapped.flip = tuple(range(20, 20 + 2 * count, 2)), flip
    merged = wrapped([{"image": picture(43, 65)}])[0]
    assert len(wrapped.model.seen) == count * (1 + flip)
    assert_same(merged, output, logits=wrapped.semantic == "logits")


def test_the_configuration_is_read(real):
    cfg, model = real
    cfg = configured(cfg, min_sizes=(30, 40), flip=False)
    change(
        cfg,
        {"TEST__AUG__MAX_SIZE": 77, "TEST__DETECTIONS_PER_IMAGE": 9, "INPUT__FORMAT": "RGB"},
    )
    wrapped = TestTimeAugmentation(cfg, model)
    assert wrapped.min_sizes == (30, 40)
    assert (wrapped.max_size, wrapped.flip, wrapped.topk) == (77, False, 9)
    assert wrapped.image_format == "RGB"
    mask2former = cfg.MODEL.META_ARCHITECTURE == "Mask2Former"
    assert wrapped.semantic == ("scores" if mask2former else "logits")
    change(cfg, {"TEST__DETECTIONS_PER_IMAGE": -1})
    assert TestTimeAugmentation(cfg, model).topk == -1


# ---- the module


def test_the_modes_of_the_model_stay_its_own():
    model = seeded_model().eval()
    wrapped = augmented(model)
    assert not wrapped.training
    wrapped.train()
    assert model.training
    with pytest.raises(RuntimeError, match="predictions only: call eval"):
        wrapped([{"image": picture()}])
    assert TestTimeAugmentation(resnet18_cfg(), model).training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_sizes": []}, r"must be positive, got \[\] and 100"),
        ({"max_size": 0}, r"must be positive, got \[4\] and 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        augmented(semantic_model(), **arguments)


def test_proposals_are_refused():
    with pytest.raises(ValueError, match="cannot turn proposals"):
        augmented(semantic_model())([{"image": picture(), "proposals": None}])


def test_outputs_that_are_not_known():
    with pytest.raises(ValueError, match="the model gives proposals: set "):
        augmented(Scripted({"proposals": None}))([{"image": picture()}])

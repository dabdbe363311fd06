import subprocess
import sys

import numpy as np
import pytest

from freqfusion.data.synthetic import (
    CATEGORIES,
    CLASS_NAMES,
    NUM_CLASSES,
    VOID_LABEL,
    make_scene,
    panoptic_metadata,
    scene_batch,
    separated_metadata,
)
from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.categories import LABEL_OF_ID, category_named
from freqfusion.data.synthetic.masks import areas_and_boxes, colored_ids
from freqfusion.data.synthetic.painting import paint_surroundings
from freqfusion.metrics import erode, interior


@pytest.fixture(scope="module")
def forty():
    return [make_scene(0, index, (128, 128)) for index in range(40)]


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (97, 64), (8, 300), (300, 8), (65, 257)])
def test_any_size(size):
    for index in range(12):
        scene = make_scene(5, index, size)
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.panoptic.shape == size
        assert scene.panoptic.dtype == np.int32
        assert scene.semantic().dtype == np.uint8


def test_a_large_scene():
    scene = make_scene(0, 0, (512, 1024))
    assert scene.image.shape == (512, 1024, 3)
    assert len(scene.segments) > 10


def test_same_arguments_same_scene():
    first = make_scene(3, 7, (64, 48))
    np.random.default_rng(0).random()
    make_scene(3, 6, (64, 48))
    again = make_scene(3, 7, (64, 48))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.panoptic, again.panoptic)
    assert first.segments == again.segments


def test_other_seed_or_index_other_scene():
    pictures = [make_scene(*key, (32, 32)).image.tobytes() for key in [(0, 0), (0, 1), (1, 0)]]
    assert len(set(pictures)) == 3


def test_segments_own_pixels(forty):
    categories = {category.id: category for category in CATEGORIES}
    for scene in forty:
        assert [segment.id for segment in scene.segments] == list(range(1, len(scene.segments) + 1))
        assert set(np.unique(scene.panoptic)) - {0} == {s.id for s in scene.segments}
        stuff = [s.category_id for s in scene.segments if not s.is_thing]
        assert len(stuff) == len(set(stuff))
        for segment in scene.segments:
            assert segment.is_thing == categories[segment.category_id].is_thing
            assert segment.is_thing or not segment.iscrowd


def test_semantic_labels_follow_the_segments(forty):
    scene = forty[0]
    expected = np.full(scene.panoptic.shape, VOID_LABEL)
    for segment in scene.segments:
        expected[scene.panoptic == segment.id] = LABEL_OF_ID[segment.category_id]
    np.testing.assert_array_equal(scene.semantic(), expected)


def test_all_classes_void_and_crowds_occur(forty):
    labels = [set(np.unique(scene.semantic()).tolist()) for scene in forty]
    for label in (*range(NUM_CLASSES), VOID_LABEL):
        assert sum(label in found for found in labels) >= 5, label
    assert any(segment.iscrowd for scene in forty for segment in scene.segments)
    void = np.mean([np.mean(scene.panoptic == 0) for scene in forty])
    assert 0 < void < 0.02


def test_thin_structures_abound(forty):
    """Hardly a pixel of wires, poles, wheels and fences has a 5x5 square of its class around."""
    maps = [scene.semantic() for scene in forty]
    for name in ("wire", "pole", "wheel", "fence"):
        label = CLASS_NAMES.index(name)
        area = sum(np.sum(labels == label) for labels in maps)
        thick = sum(np.sum(erode(labels == label, 2)) for labels in maps)
        assert thick < 0.05 * area, name
    near = np.mean([~interior(labels, 1) for labels in maps])
    assert near > 0.2


def test_small_things_are_common(forty):
    areas = [
        area
        for scene in forty
        for segment, area in zip(
            scene.segments, areas_and_boxes(scene.panoptic, len(scene.segments))[0], strict=True
        )
        if segment.is_thing
    ]
    assert np.mean(np.array(areas) < 64) > 0.2
    assert len(areas) > 8 * len(forty)


def test_color_alone_does_not_tell_things_apart(forty):
    """The nearest mean color of a class, learned on the same scenes, is right for few things."""
    colors, labels = [], []
    for scene in forty:
        for segment in scene.segments:
            if segment.is_thing:
                colors.append(scene.image[scene.panoptic == segment.id].mean(axis=0))
                labels.append(LABEL_OF_ID[segment.category_id])
    points, truth = np.array(colors), np.array(labels)
    means = np.stack([points[truth == label].mean(axis=0) for label in np.unique(truth)])
    guess = np.argmin(((points[:, None] - means) ** 2).sum(axis=2), axis=1)
    assert np.mean(np.unique(truth)[guess] == truth) < 0.5


@pytest.mark.parametrize("seed", range(60))
def test_no_gap_between_sky_and_ground(seed):
    """Void is only ever a smudge: the surroundings leave no pixel without an owner."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(8, 140, 2))
    horizon = float(rng.uniform(0.22, 0.62)) * height
    canvas = Canvas(View(height, width, horizon, min(height, width) / 256))
    paint_surroundings(canvas, rng)
    assert canvas.owner.all()


def test_batch_is_the_scenes_in_order():
    images, labels = scene_batch(2, 5, 3, (24, 32))
    assert images.shape == (3, 24, 32, 3)
    assert labels.shape == (3, 24, 32)
    for number in range(3):
        scene = make_scene(2, 5 + number, (24, 32))
        np.testing.assert_array_equal(images[number], scene.image)
        np.testing.assert_array_equal(labels[number], scene.semantic())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, (7, 64)), "size is 7x64.*at least 8"),
        ((0, 0, (64,)), r"size must be \(height, width\)"),
        ((0, 0, (64.5, 64)), "whole pixels"),
        ((0, 0, 64), r"size must be \(height, width\)"),
        ((-1, 0), "seed must be 0 or more, not -1"),
        ((0, -3), "index must be 0 or more, not -3"),
        ((0.5, 0), "seed must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scene(*arguments)


def test_areas_and_boxes_against_masks(forty):
    scene = forty[3]
    areas, boxes = areas_and_boxes(scene.panoptic, len(scene.segments))
    for segment, area, box in zip(scene.segments, areas, boxes, strict=True):
        y, x = np.nonzero(scene.panoptic == segment.id)
        assert area == len(y)
        assert box.xywh() == [
            x.min(),
            y.min(),
            x.max() - x.min() + 1,
            y.max() - y.min() + 1,
        ]


def test_areas_and_boxes_by_hand():
    ids = np.array([[0, 2, 2], [1, 0, 2]], dtype=np.int32)
    areas, boxes = areas_and_boxes(ids, 2)
    assert areas == [1, 3]
    assert [box.xywh() for box in boxes] == [[0, 1, 1, 1], [1, 0, 2, 2]]


def test_colored_ids_are_unique(forty):
    for scene in forty:
        ids = colored_ids(scene)
        assert len(set(ids)) == len(ids)
        assert all(0 < i < 256**3 for i in ids)
    bases = sorted(r + 256 * g + 65536 * b for r, g, b in (c.color for c in CATEGORIES))
    assert np.diff(bases).min() > 5000, "instances of two categories must not meet"


def test_categories_and_metadata():
    assert len({c.id for c in CATEGORIES}) == len({c.name for c in CATEGORIES}) == NUM_CLASSES
    with pytest.raises(ValueError, match=r"unknown category 'cat'; the scenes have disc, star"):
        category_named("cat")
    joint, separated = panoptic_metadata(), separated_metadata()
    for metadata in (joint, separated):
        things = metadata["thing_dataset_id_to_contiguous_id"]
        assert sorted(things.values()) == list(range(len(metadata["thing_classes"])))
        stuff = metadata["stuff_dataset_id_to_contiguous_id"]
        assert sorted(stuff.values()) == list(range(len(metadata["stuff_classes"])))
        assert len(metadata["stuff_colors"]) == len(metadata["stuff_classes"])
    for category in CATEGORIES:
        label = joint["stuff_dataset_id_to_contiguous_id"][category.id]
        assert joint["stuff_classes"][label] == category.name
        if not category.is_thing:
            label = separated["stuff_dataset_id_to_contiguous_id"][category.id]
            assert separated["stuff_classes"][label] == category.name


def test_import_is_light():
    program = (
        "import sys, freqfusion.data, freqfusion.data.synthetic, freqfusion.metrics;"
        "print([m for m in ('torch', 'cv2', 'detectron2', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_simple_scenes_have_a_few_large_things():
    scenes = [make_scene(0, index, (128, 160), detail="simple") for index in range(30)]
    things = [[s for s in scene.segments if s.is_thing] for scene in scenes]
    assert max(map(len, things)) <= 4
    assert sum(map(len, things)) > 60
    names = {CATEGORIES[LABEL_OF_ID[s.category_id]].name for group in things for s in group}
    assert names == {"disc", "star", "box", "tree"}
    assert not any(segment.iscrowd for group in things for segment in group)


def test_unknown_detail():
    with pytest.raises(ValueError, match="detail is 'low'; choose one of full, simple, thin"):
        make_scene(0, 0, (32, 32), detail="low")

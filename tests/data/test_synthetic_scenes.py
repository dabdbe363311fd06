import hashlib

import numpy as np
import pytest

from freqfusion.data.synthetic import (
    CATEGORIES,
    CLASS_NAMES,
    DETAILS,
    NUM_CLASSES,
    VOID_LABEL,
    make_scene,
    panoptic_metadata,
    scene_batch,
    separated_metadata,
)
from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.categories import LABEL_OF_ID
from freqfusion.data.synthetic.masks import areas_and_boxes
from freqfusion.data.synthetic.painting import paint_surroundings
from freqfusion.metrics import erode, interior


@pytest.fixture(scope="module")
def forty():
    return [make_scene(0, index, (128, 128)) for index in range(40)]


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


def test_batch_is_the_scenes_in_order():
    images, labels = scene_batch(2, 5, 3, (24, 32))
    assert images.shape == (3, 24, 32, 3)
    assert labels.shape == (3, 24, 32)
    for number in range(3):
        scene = make_scene(2, 5 + number, (24, 32))
        np.testing.assert_array_equal(images[number], scene.image)
        np.testing.assert_array_equal(labels[number], scene.semantic())


def test_areas_and_boxes_by_hand():
    ids = np.array([[0, 2, 2], [1, 0, 2]], dtype=np.int32)
    areas, boxes = areas_and_boxes(ids, 2)
    assert areas == [1, 3]
    assert [box.xywh() for box in boxes] == [[0, 1, 1, 1], [1, 0, 2, 2]]


def test_categories_and_metadata():
    assert len({c.id for c in CATEGORIES}) == len({c.name for c in CATEGORIES}) == NUM_CLASSES
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


def test_simple_scenes_have_a_few_large_things():
    scenes = [make_scene(0, index, (128, 160), detail="simple") for index in range(30)]
    things = [[s for s in scene.segments if s.is_thing] for scene in scenes]
    assert max(map(len, things)) <= 4
    assert sum(map(len, things)) > 60
    names = {CATEGORIES[LABEL_OF_ID[s.category_id]].name for group in things for s in group}
    assert names == {"disc", "star", "box", "tree"}
    assert not any(segment.iscrowd for group in things for segment in group)


def test_no_gap_between_sky_and_ground():
    """Void is only ever a smudge: the surroundings leave no pixel without an owner."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(8, 140, 2))
        horizon = float(rng.uniform(0.22, 0.62)) * height
        canvas = Canvas(View(height, width, horizon, min(height, width) / 256))
        paint_surroundings(canvas, rng)
        assert canvas.owner.all()


def test_ids_of_two_categories_do_not_meet():
    bases = sorted(r + 256 * g + 65536 * b for r, g, b in (c.color for c in CATEGORIES))
    assert np.diff(bases).min() > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (7, 64)}, "size is 7x64.*at least 8"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"detail": "low"}, "detail is 'low'; choose one of full, simple, thin"),
        ({"line_thickness": 0}, "line_thickness must be 1 or more, not 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scene(**{"seed": 0, "index": 0, "size": (16, 16)} | arguments)


def digest(scene):
    """Return a hash of the image, the panoptic map and the segments."""
    segments = [(s.id, s.category_id, s.is_thing, s.iscrowd) for s in scene.segments]
    parts = scene.image.tobytes(), scene.panoptic.astype("<i4").tobytes(), repr(segments).encode()
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("detail", "key", "size", "line_thickness", "expected"),
    [
        ("full", (0, 0), (128, 160), None, "a562883ac1430fa8"),
        ("full", (3, 7), (97, 64), None, "9fc843385c2d41b9"),
        ("full", (1, 1_000_000_004), (256, 256), None, "dfdffcc0945267e6"),
        ("full", (9, 40), (48, 200), None, "6d4d4e2429d45272"),
        ("simple", (0, 0), (128, 160), None, "9068d4555b27d7eb"),
        ("simple", (9, 40), (48, 200), None, "22f645f6106f0454"),
        ("thin", (0, 0), (128, 160), None, "ba6d20a3843fa323"),
        ("thin", (3, 7), (97, 64), 2, "3c418056c4e4054e"),
        ("full", (3, 7), (97, 64), 4, "f2c5f249bb99ad3c"),
    ],
)
def test_scenes_stay_bit_by_bit(detail, key, size, line_thickness, expected):
    """Data sets and results refer to scenes by their numbers."""
    scene = make_scene(*key, size, detail=detail, line_thickness=line_thickness)
    assert digest(scene) == expected


@pytest.mark.parametrize("size", [(8, 8), (45, 32), (8, 90), (90, 8)])
@pytest.mark.parametrize("line_thickness", [None, 16])
def test_any_size(size, line_thickness):
    for detail in DETAILS:
        for index in range(1 if line_thickness else 6):
            scene = make_scene(5, index, size, detail=detail, line_thickness=line_thickness)
            assert scene.image.shape == (*size, 3)
            assert scene.image.any()
            assert scene.panoptic.shape == size
            types = scene.image.dtype, scene.panoptic.dtype, scene.semantic().dtype
            assert types == (np.uint8, np.int32, np.uint8)

import json

import numpy as np
import pytest
from PIL import Image

from freqfusion.data.synthetic import CATEGORIES, make_scene, write_cityscapes
from freqfusion.data.synthetic.categories import STANDS_FOR, cityscapes_label
from freqfusion.data.synthetic.cityscapes import CITIES, instance_values
from freqfusion.metrics import CITYSCAPES_LABELS, rgb_to_id

SIZE = (48, 96)
COUNTS = {"train": 18, "val": 4}
LABELS = {label.id: label for label in CITYSCAPES_LABELS}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    return write_cityscapes(
        root, num_train=18, num_val=4, size=SIZE, seed=1, workers=1, progress=False
    )


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def stems(split):
    return [f"{CITIES[split]}_{number:06d}_000019" for number in range(COUNTS[split])]


def truth(root, split, stem, kind):
    return pixels(root / "gtFine" / split / CITIES[split] / f"{stem}_gtFine_{kind}.png")


@pytest.mark.parametrize("split", COUNTS)
def test_expected_files_and_no_others(written, split):
    city = CITIES[split]
    images = {path.name for path in (written / "leftImg8bit" / split).rglob("*") if path.is_file()}
    assert images == {f"{stem}_leftImg8bit.png" for stem in stems(split)}
    kinds = ["labelIds.png", "labelTrainIds.png", "instanceIds.png", "polygons.json"]
    expected = {f"{stem}_gtFine_{kind}" for stem in stems(split) for kind in kinds}
    assert {path.name for path in (written / "gtFine" / split / city).iterdir()} == expected
    panoptic = {path.name for path in (written / f"gtFine/cityscapes_panoptic_{split}").iterdir()}
    assert panoptic == {f"{stem}_gtFine_panoptic.png" for stem in stems(split)}


@pytest.mark.parametrize("split", COUNTS)
def test_maps_agree(written, split):
    first = {"train": 0, "val": 1_000_000_000}[split]
    for number, stem in enumerate(stems(split)):
        scene = make_scene(1, first + number, SIZE)
        image = pixels(written / "leftImg8bit" / split / CITIES[split] / f"{stem}_leftImg8bit.png")
        np.testing.assert_array_equal(image, scene.image)
        labels = truth(written, split, stem, "labelIds")
        instances = truth(written, split, stem, "instanceIds")
        train_ids = truth(written, split, stem, "labelTrainIds")
        assert labels.dtype == train_ids.dtype == np.uint8
        assert instances.max() > 255
        np.testing.assert_array_equal(instances == 0, scene.panoptic == 0)
        np.testing.assert_array_equal(
            np.where(instances >= 1000, instances // 1000, instances), labels
        )
        for label in np.unique(labels):
            expected = LABELS[label].train_id if label else 255
            assert (train_ids[labels == label] == expected).all()
        for value in np.unique(instances[instances >= 1000]):
            assert LABELS[value // 1000].has_instances


@pytest.mark.parametrize("split", COUNTS)
def test_panoptic_fields(written, split):
    content = json.loads((written / f"gtFine/cityscapes_panoptic_{split}.json").read_text())
    assert [image["id"] for image in content["images"]] == stems(split)
    assert [(i["height"], i["width"]) for i in content["images"]] == [SIZE] * COUNTS[split]
    assert [c["id"] for c in content["categories"]] == list(LABELS)
    for entry in content["categories"]:
        label = LABELS[entry["id"]]
        assert entry["name"] == label.name
        assert entry["supercategory"] == label.group
        assert entry["isthing"] == int(label.has_instances)
        assert entry["color"] == list(label.color)
    folder = written / f"gtFine/cityscapes_panoptic_{split}"
    for stem, annotation in zip(stems(split), content["annotations"], strict=True):
        assert annotation["image_id"] == stem
        ids = rgb_to_id(pixels(folder / annotation["file_name"]))
        np.testing.assert_array_equal(ids, truth(written, split, stem, "instanceIds"))
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
        for segment in annotation["segments_info"]:
            y, x = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(y)
            assert segment["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            has_instances = LABELS[segment["category_id"]].has_instances
            assert segment["iscrowd"] == int(has_instances and segment["id"] < 1000)


def test_polygons_cover_the_labels(written):
    """Drawn by COCO's code, the polygons of a label are exactly its pixels."""
    coco = pytest.importorskip("pycocotools.mask")
    for stem in stems("val"):
        path = written / "gtFine" / "val" / CITIES["val"] / f"{stem}_gtFine_polygons.json"
        content = json.loads(path.read_text())
        assert (content["imgHeight"], content["imgWidth"]) == SIZE
        labels = truth(written, "val", stem, "labelIds")
        names = {entry["label"].removesuffix("group") for entry in content["objects"]}
        assert names == {LABELS[label].name for label in np.unique(labels) if label}
        for label in np.unique(labels[labels > 0]):
            flat = [
                [float(value) for point in entry["polygon"] for value in point]
                for entry in content["objects"]
                if entry["label"].removesuffix("group") == LABELS[label].name
            ]
            drawn = coco.decode(coco.merge(coco.frPyObjects(flat, *SIZE))).astype(bool)
            np.testing.assert_array_equal(drawn, labels == label)


def test_crowds_have_the_bare_label():
    for index in range(200):
        scene = make_scene(0, index, (64, 64))
        crowds = [n for n, segment in enumerate(scene.segments) if segment.iscrowd]
        if crowds:
            assert [instance_values(scene)[n] for n in crowds] == [24]
            return
    pytest.fail("no crowd in 200 scenes")


def test_label_table():
    """19 evaluated labels with train ids 0..18, eight of them with instances."""
    assert [label.train_id for label in CITYSCAPES_LABELS] == list(range(19))
    assert sum(label.has_instances for label in CITYSCAPES_LABELS) == 8
    assert set(STANDS_FOR) == {category.name for category in CATEGORIES}
    assert cityscapes_label("wheel").id == 33


def test_workers_do_not_change_a_byte(written, tmp_path):
    again = write_cityscapes(
        tmp_path / "again", num_train=18, num_val=4, size=SIZE, seed=1, workers=2, progress=False
    )
    assert files(again) == files(written)


def test_overwriting(tmp_path):
    arguments = {"size": (8, 8), "progress": False, "workers": 1}
    root = write_cityscapes(tmp_path / "a", num_train=2, num_val=2, **arguments)
    with pytest.raises(ValueError, match="a is not empty"):
        write_cityscapes(root, num_train=1, num_val=0, **arguments)
    write_cityscapes(root, num_train=1, num_val=0, overwrite=True, **arguments)
    assert not (root / "leftImg8bit" / "val").exists()


def test_detectron2_reads_it(written):
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
    from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic

    for split, count in COUNTS.items():
        images = str(written / "leftImg8bit" / split)
        records = load_cityscapes_semantic(images, str(written / "gtFine" / split))
        assert len(records) == count
        assert (records[0]["height"], records[0]["width"]) == SIZE
        metadata = {
            f"{kind}_dataset_id_to_contiguous_id": {
                label.id: label.train_id
                for label in CITYSCAPES_LABELS
                if label.has_instances == (kind == "thing")
            }
            for kind in ("thing", "stuff")
        }
        records = load_cityscapes_panoptic(
            images,
            str(written / "gtFine" / f"cityscapes_panoptic_{split}"),
            str(written / "gtFine" / f"cityscapes_panoptic_{split}.json"),
            metadata,
        )
        assert len(records) == count
        assert all(0 <= s["category_id"] < 19 for r in records for s in r["segments_info"])


def test_detectron2_has_the_same_label_table():
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

    ours = {
        (label.id, label.train_id, label.name, int(label.has_instances), label.color)
        for label in CITYSCAPES_LABELS
    }
    theirs = {
        (c["id"], c["trainId"], c["name"], c["isthing"], tuple(c["color"]))
        for c in CITYSCAPES_CATEGORIES
    }
    assert ours == theirs

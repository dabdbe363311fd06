"""Scenes on disk, in COCO's and in Cityscapes' layout: every field against the pixels."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from rehearsed import registered_at

from freqfusion.data.synthetic import (
    CATEGORIES,
    THIN_CATEGORIES,
    TUNE_START,
    VAL_START,
    make_scene,
    write_cityscapes,
    write_coco,
)
from freqfusion.data.synthetic.categories import (
    LABEL_OF_ID,
    SEPARATED_LABEL_OF_ID,
    SPLITS,
    STANDS_FOR,
    cityscapes_label,
)
from freqfusion.data.synthetic.cityscapes import CITIES, instance_values
from freqfusion.metrics import CITYSCAPES_LABELS, rgb_to_id

SIZE = (56, 80)
COUNTS = {"train": 10, "val": 3}
SCENES = {"num_train": 10, "num_val": 3, "num_tune": 3, "size": SIZE, "seed": 4, "progress": False}
THINGS = {category.id for category in CATEGORIES if category.is_thing}
LABELS = {label.id: label for label in CITYSCAPES_LABELS}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data", workers=1, **SCENES)


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes") / "data", workers=1, **SCENES)


def read(root, kind, split):
    return json.loads((root / "annotations" / f"{kind}_{split}.json").read_text())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def mask_of(annotation, size):
    """Return an instance's mask, drawn by COCO's own code."""
    segmentation = annotation["segmentation"]
    coco = pytest.importorskip("pycocotools.mask")
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco.frPyObjects(segmentation, *size)
    return coco.decode(segmentation).astype(bool)


@pytest.mark.parametrize("split", COUNTS)
def test_images_and_header(written, split):
    for kind in ("instances", "panoptic"):
        content = read(written, kind, split)
        assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
        assert content["info"]["description"]
        licenses = {entry["id"] for entry in content["licenses"]}
        assert [image["id"] for image in content["images"]] == list(range(1, COUNTS[split] + 1))
        for image in content["images"]:
            assert (image["height"], image["width"]) == SIZE
            assert image["license"] in licenses
            picture = Image.open(written / split / image["file_name"])
            assert picture.format == "JPEG"
            assert picture.mode == "RGB"
            assert picture.size == SIZE[::-1]
        expected = [c for c in CATEGORIES if kind == "panoptic" or c.is_thing]
        assert [c["id"] for c in content["categories"]] == [c.id for c in expected]
        for entry, category in zip(content["categories"], expected, strict=True):
            assert entry["name"] == category.name
            assert entry["supercategory"] == category.supercategory
            if kind == "panoptic":
                assert entry["isthing"] == int(category.is_thing)
                assert entry["color"] == list(category.color)


@pytest.mark.parametrize("split", COUNTS)
def test_every_panoptic_field_against_the_pictures(written, split):
    content = read(written, "panoptic", split)
    assert len(content["annotations"]) == COUNTS[split]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        name = annotation["file_name"]
        assert name == image["file_name"].replace(".jpg", ".png")
        ids = rgb_to_id(pixels(written / f"panoptic_{split}" / name))
        stuff = pixels(written / f"panoptic_stuff_{split}" / name)
        semantic = pixels(written / f"panoptic_semseg_{split}" / name)
        assert stuff.dtype == semantic.dtype == np.uint8
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        assert (stuff[ids == 0] == 255).all()
        assert (semantic[ids == 0] == 255).all()
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            y, x = np.nonzero(mask)
            assert segment["area"] == mask.sum()
            assert segment["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert segment["iscrowd"] in (0, 1)
            assert (semantic[mask] == LABEL_OF_ID[segment["category_id"]]).all()
            assert (stuff[mask] == SEPARATED_LABEL_OF_ID[segment["category_id"]]).all()


@pytest.mark.parametrize("split", COUNTS)
def test_every_instance_field_against_the_panoptic_picture(written, split):
    content, panoptic = read(written, "instances", split), read(written, "panoptic", split)
    assert [a["id"] for a in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    for record in panoptic["annotations"]:
        ids = rgb_to_id(pixels(written / f"panoptic_{split}" / record["file_name"]))
        things = [s for s in record["segments_info"] if s["category_id"] in THINGS]
        instances = [a for a in content["annotations"] if a["image_id"] == record["image_id"]]
        for segment, instance in zip(things, instances, strict=True):
            mask = ids == segment["id"]
            np.testing.assert_array_equal(mask_of(instance, SIZE), mask)
            assert instance["category_id"] == segment["category_id"]
            assert instance["area"] == segment["area"] == mask.sum()
            assert instance["bbox"] == segment["bbox"]
            assert instance["iscrowd"] == segment["iscrowd"]
            assert all(isinstance(value, float) for value in instance["bbox"])


def test_masks_are_polygons_but_for_crowds(written):
    for annotation in read(written, "instances", "train")["annotations"]:
        segmentation = annotation["segmentation"]
        if annotation["iscrowd"]:
            assert isinstance(segmentation["counts"], list)
        else:
            assert all(len(polygon) % 2 == 0 and len(polygon) >= 8 for polygon in segmentation)
            assert all(isinstance(value, float) for polygon in segmentation for value in polygon)


def test_splits_are_the_documented_scenes(written):
    for split, first in (("train", 0), ("val", VAL_START), ("tune", TUNE_START)):
        scene = make_scene(4, first + 2, SIZE)
        name = "000000000003"
        labels = pixels(written / f"panoptic_semseg_{split}" / f"{name}.png")
        np.testing.assert_array_equal(labels, scene.semantic())
        image = pixels(written / split / f"{name}.jpg").astype(int)
        other = make_scene(4, first + 3, SIZE).image
        assert np.abs(image - scene.image).mean() < 0.2 * np.abs(image - other).mean()


def test_workers_do_not_change_a_byte(written, tmp_path):
    assert files(write_coco(tmp_path / "again", workers=2, **SCENES)) == files(written)


def test_overwriting(tmp_path):
    arguments = {"size": (8, 8), "progress": False, "workers": 1}
    root = write_coco(tmp_path / "a", num_train=2, num_val=2, **arguments)
    with pytest.raises(ValueError, match=r"a is not empty.*overwrite"):
        write_coco(root, num_train=1, num_val=0, **arguments)
    (root / "notes.txt").write_text("mine")
    write_coco(root, num_train=1, num_val=0, overwrite=True, **arguments)
    fresh = write_coco(tmp_path / "b", num_train=1, num_val=0, **arguments)
    assert files(root) == files(fresh) | {"notes.txt": b"mine"}


def test_other_peoples_folders_are_not_overwritten(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no synthetic data set in coco layout"):
        write_coco(tmp_path, num_train=1, num_val=0, size=(8, 8), overwrite=True, progress=False)
    (tmp_path / "synthetic.json").write_text('{"layout": "cityscapes"}')
    with pytest.raises(ValueError, match="holds no synthetic data set in coco layout"):
        write_coco(tmp_path, num_train=1, num_val=0, size=(8, 8), overwrite=True, progress=False)
    with pytest.raises(ValueError, match="is a file"):
        write_coco(tmp_path / "synthetic.json", num_train=1, num_val=0, size=(8, 8), progress=False)
    assert (tmp_path / "train" / "holiday.jpg").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_train": -1}, "num_train must be 0 or more, not -1"),
        ({"num_train": 0, "num_val": 0}, "both 0; ask for at least one"),
        ({"size": (4, 64)}, "size is 4x64"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"workers": 0}, "workers must be 1 or more"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, changed, message):
    arguments = {"num_train": 1, "num_val": 1, "size": (8, 8), "progress": False} | changed
    with pytest.raises(ValueError, match=message):
        write_coco(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_each_split_is_registered_with_its_thin_classes(tmp_path, monkeypatch):
    write_coco(tmp_path / "synthetic", num_train=1, num_val=1, num_tune=2, size=(32, 40))
    with registered_at(tmp_path, monkeypatch):
        for split, count in zip(SPLITS, (1, 1, 2), strict=True):
            for name in ("semantic_{}", "panoptic_{}", "panoptic_{}_separated", "instances_{}"):
                name = f"synthetic_{name.format(split)}"
                entries = DatasetCatalog.get(name)
                assert len(entries) == count
                assert all(f"/{split}/" in entry["file_name"] for entry in entries)
                thin = [category.name for category in THIN_CATEGORIES]
                assert MetadataCatalog.get(name).thin_classes == thin


def stems(split):
    return [f"{CITIES[split]}_{number:06d}_000019" for number in range(COUNTS[split])]


def truth(root, split, stem, kind):
    return pixels(root / "gtFine" / split / CITIES[split] / f"{stem}_gtFine_{kind}.png")


@pytest.mark.parametrize("split", COUNTS)
def test_maps_agree(towns, split):
    first = {"train": 0, "val": 1_000_000_000}[split]
    for number, stem in enumerate(stems(split)):
        scene = make_scene(4, first + number, SIZE)
        image = pixels(towns / "leftImg8bit" / split / CITIES[split] / f"{stem}_leftImg8bit.png")
        np.testing.assert_array_equal(image, scene.image)
        labels = truth(towns, split, stem, "labelIds")
        instances = truth(towns, split, stem, "instanceIds")
        train_ids = truth(towns, split, stem, "labelTrainIds")
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
def test_panoptic_fields(towns, split):
    content = json.loads((towns / f"gtFine/cityscapes_panoptic_{split}.json").read_text())
    assert [image["id"] for image in content["images"]] == stems(split)
    assert [(i["height"], i["width"]) for i in content["images"]] == [SIZE] * COUNTS[split]
    assert [c["id"] for c in content["categories"]] == list(LABELS)
    for entry in content["categories"]:
        label = LABELS[entry["id"]]
        assert entry["name"] == label.name
        assert entry["supercategory"] == label.group
        assert entry["isthing"] == int(label.has_instances)
        assert entry["color"] == list(label.color)
    folder = towns / f"gtFine/cityscapes_panoptic_{split}"
    for stem, annotation in zip(stems(split), content["annotations"], strict=True):
        assert annotation["image_id"] == stem
        ids = rgb_to_id(pixels(folder / annotation["file_name"]))
        np.testing.assert_array_equal(ids, truth(towns, split, stem, "instanceIds"))
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
        for segment in annotation["segments_info"]:
            y, x = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(y)
            assert segment["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            has_instances = LABELS[segment["category_id"]].has_instances
            assert segment["iscrowd"] == int(has_instances and segment["id"] < 1000)


def test_polygons_cover_the_labels(towns):
    """Drawn by COCO's code, the polygons of a label are exactly its pixels."""
    coco = pytest.importorskip("pycocotools.mask")
    for stem in stems("val"):
        path = towns / "gtFine" / "val" / CITIES["val"] / f"{stem}_gtFine_polygons.json"
        content = json.loads(path.read_text())
        assert (content["imgHeight"], content["imgWidth"]) == SIZE
        labels = truth(towns, "val", stem, "labelIds")
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


def test_detectron2_has_the_same_label_table():
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
    assert set(STANDS_FOR) == {category.name for category in CATEGORIES}
    assert cityscapes_label("wheel").id == 33

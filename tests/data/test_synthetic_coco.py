import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from freqfusion.data.synthetic import (
    CATEGORIES,
    VAL_START,
    make_scene,
    panoptic_metadata,
    separated_metadata,
    write_coco,
)
from freqfusion.data.synthetic.categories import LABEL_OF_ID, SEPARATED_LABEL_OF_ID
from freqfusion.data.synthetic.parallel import default_workers
from freqfusion.metrics import rgb_to_id

SIZE = (56, 80)
COUNTS = {"train": 18, "val": 5}
THINGS = {category.id for category in CATEGORIES if category.is_thing}


def write(root, mask_format, workers):
    return write_coco(
        root,
        num_train=COUNTS["train"],
        num_val=COUNTS["val"],
        size=SIZE,
        seed=4,
        workers=workers,
        mask_format=mask_format,
        progress=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    return {name: write(folder / name, name, 1) for name in ("polygon", "rle")}


@pytest.fixture(params=["polygon", "rle"])
def written(request, both):
    return both[request.param]


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


def test_masks_are_in_the_format_asked_for(written):
    for annotation in read(written, "instances", "train")["annotations"]:
        segmentation = annotation["segmentation"]
        if annotation["iscrowd"]:
            assert isinstance(segmentation["counts"], list)
        elif written.name == "rle":
            assert segmentation["size"] == list(SIZE)
            assert isinstance(segmentation["counts"], str)
        else:
            assert all(len(polygon) % 2 == 0 and len(polygon) >= 8 for polygon in segmentation)
            assert all(isinstance(value, float) for polygon in segmentation for value in polygon)


def test_splits_are_the_documented_scenes(written):
    for split, first in (("train", 0), ("val", VAL_START)):
        scene = make_scene(4, first + 2, SIZE)
        name = "000000000003"
        labels = pixels(written / f"panoptic_semseg_{split}" / f"{name}.png")
        np.testing.assert_array_equal(labels, scene.semantic())
        image = pixels(written / split / f"{name}.jpg").astype(int)
        other = make_scene(4, first + 3, SIZE).image
        assert np.abs(image - scene.image).mean() < 0.2 * np.abs(image - other).mean()


def test_workers_do_not_change_a_byte(both, tmp_path):
    assert files(write(tmp_path / "again", "polygon", 3)) == files(both["polygon"])


def test_a_script_without_its_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from freqfusion.data.synthetic import write_coco\n"
        f"write_coco({str(tmp_path / 'out')!r}, num_train=9, num_val=0, size=(8, 8), workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert 'put the call of a script under `if __name__ == "__main__":`' in done.stderr


def test_pycocotools_reads_it(written):
    coco = pytest.importorskip("pycocotools.coco")
    data = coco.COCO(str(written / "annotations" / "instances_val.json"))
    assert len(data.getImgIds()) == COUNTS["val"]
    for annotation in data.loadAnns(data.getAnnIds()):
        assert data.annToMask(annotation).sum() == annotation["area"]


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
    with pytest.raises(ValueError, match="holds no synthetic data set"):
        write_coco(tmp_path, num_train=1, num_val=0, size=(8, 8), overwrite=True, progress=False)
    (tmp_path / "synthetic.json").write_text('{"layout": "cityscapes"}')
    with pytest.raises(ValueError, match="in cityscapes layout"):
        write_coco(tmp_path, num_train=1, num_val=0, size=(8, 8), overwrite=True, progress=False)
    with pytest.raises(ValueError, match="is a file"):
        write_coco(tmp_path / "synthetic.json", num_train=1, num_val=0, size=(8, 8), progress=False)
    assert (tmp_path / "train" / "holiday.jpg").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_train": -1}, "num_train must be 0 or more, not -1"),
        ({"num_val": -2}, "num_val must be 0 or more, not -2"),
        ({"num_train": 0, "num_val": 0}, "both 0; ask for at least one"),
        ({"num_train": VAL_START + 1}, "num_train must be at most"),
        ({"size": (4, 64)}, "size is 4x64"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"workers": -1}, "workers must be 1 or more"),
        ({"mask_format": "bitmap"}, "mask_format is 'bitmap'; choose one of polygon, rle"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, changed, message):
    arguments = {"num_train": 1, "num_val": 1, "size": (8, 8), "progress": False} | changed
    with pytest.raises(ValueError, match=message):
        write_coco(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_default_workers():
    assert default_workers() >= 1


def test_detectron2_reads_it(written):
    pytest.importorskip("detectron2")
    from detectron2.data.datasets import load_coco_json, load_sem_seg
    from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

    annotations, images = written / "annotations", str(written / "train")
    instances = load_coco_json(str(annotations / "instances_train.json"), images)
    assert len(instances) == COUNTS["train"]
    total = len(read(written, "instances", "train")["annotations"])
    assert sum(len(record["annotations"]) for record in instances) == total
    for metadata in (panoptic_metadata(), separated_metadata()):
        records = load_coco_panoptic_json(
            str(annotations / "panoptic_train.json"),
            images,
            str(written / "panoptic_train"),
            metadata,
        )
        assert len(records) == COUNTS["train"]
        assert {s["isthing"] for record in records for s in record["segments_info"]} == {
            True,
            False,
        }
    for folder in ("panoptic_stuff_train", "panoptic_semseg_train"):
        assert len(load_sem_seg(str(written / folder), images)) == COUNTS["train"]


def test_detectron2_mapper_scales_polygons_and_boxes(written):
    """Floats in the JSON survive a resize by 1.25; integers would be cut off in place."""
    pytest.importorskip("detectron2")
    from detectron2.data import detection_utils, transforms
    from detectron2.data.datasets import load_coco_json

    record = load_coco_json(
        str(written / "annotations" / "instances_val.json"), str(written / "val")
    )[0]
    annotation = next(a for a in record["annotations"] if not a["iscrowd"])
    scaled = tuple(side * 5 // 4 for side in SIZE)
    resize = transforms.TransformList([transforms.ResizeTransform(*SIZE, *scaled)])
    box = np.array(annotation["bbox"])
    moved = detection_utils.transform_instance_annotations(annotation, resize, scaled)
    expected = np.concatenate([box[:2], box[:2] + box[2:]]) * 1.25
    np.testing.assert_allclose(moved["bbox"], expected)

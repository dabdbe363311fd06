import json
import shutil

import numpy as np
import pytest
from PIL import Image

from freqfusion.data.categories import separated_labels
from freqfusion.data.preparation import (
    prepare_ade20k,
    prepare_camvid,
    prepare_cityscapes,
    prepare_coco,
    write_instances,
    write_stuff_maps,
)
from freqfusion.data.synthetic import CATEGORIES, write_cityscapes, write_coco
from freqfusion.data.synthetic.cityscapes import panoptic_segments
from freqfusion.data.workers import PreparationOptions
from freqfusion.metrics import id_to_rgb, rgb_to_id
from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS

QUIET = {"workers": 1, "progress": False}
OPTIONS = PreparationOptions(**QUIET)
OVERWRITE = PreparationOptions(**QUIET, overwrite=True)
SCENES = {"num_train": 3, "num_val": 2, "size": (32, 48), **QUIET}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data", **SCENES)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes") / "data", **SCENES)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def stuff_maps(root, output, **more):
    return write_stuff_maps(
        root / "annotations/panoptic_train.json",
        root / "panoptic_train",
        output,
        separated_labels(CATEGORIES),
        PreparationOptions(**QUIET | more),
    )


class TestStuffMaps:
    def test_equal_to_those_of_the_scenes(self, coco, tmp_path):
        done = stuff_maps(coco, tmp_path)
        assert done.sentence() == f"{tmp_path}: 3 written, 0 there already"
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == sorted(path.name for path in (coco / "panoptic_stuff_train").iterdir())
        for name in names:
            made, expected = pixels(tmp_path / name), pixels(coco / "panoptic_stuff_train" / name)
            assert made.dtype == np.uint8
            np.testing.assert_array_equal(made, expected)

    def test_only_what_is_missing_is_written(self, coco, tmp_path):
        stuff_maps(coco, tmp_path)
        kept, removed = sorted(tmp_path.iterdir())[:2]
        kept.write_bytes(b"kept")
        removed.unlink()
        done = stuff_maps(coco, tmp_path)
        assert (done.written, done.present) == (1, 2)
        assert kept.read_bytes() == b"kept"
        done = stuff_maps(coco, tmp_path, overwrite=True)
        assert (done.written, done.present) == (3, 0)
        assert kept.read_bytes() != b"kept"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a["segments_info"].pop(), "which no segment of its annotation has"),
            (
                lambda a: a["segments_info"][0].update(category_id=999),
                "has the category 999, for which there is no label",
            ),
            (lambda a: a.update(file_name="none.png"), "none.png: is not there"),
        ],
    )
    def test_what_does_not_fit_is_named(self, coco, tmp_path, change, message):
        root = shutil.copytree(coco, tmp_path / "copy")
        file = root / "annotations/panoptic_train.json"
        content = json.loads(file.read_text())
        change(content["annotations"][0])
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            stuff_maps(root, tmp_path / "out")
        assert list(tmp_path.glob("out/*.part")) == []

    def test_files_that_are_not_there(self, coco, tmp_path):
        paths = coco / "annotations/panoptic_train.json", coco / "panoptic_train", tmp_path
        with pytest.raises(ValueError, match=r"labels must lie in 0..254"):
            write_stuff_maps(*paths, {1: 255}, OPTIONS)
        with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
            write_stuff_maps(paths[0], tmp_path / "nowhere", tmp_path, {1: 0}, OPTIONS)
        (tmp_path / "broken.json").write_text('{"annotations": [')
        with pytest.raises(ValueError, match=r"broken.json is no panoptic JSON"):
            write_stuff_maps(tmp_path / "broken.json", paths[1], tmp_path, {1: 0}, OPTIONS)


class TestCoco:
    @pytest.fixture
    def folder(self, tmp_path):
        """Two pixels of a person (1), one of snow-like stuff (the last of COCO's ids, 200), void.

        COCO has 53 kinds of stuff; 92 is the first of them (label 1), 200 the last (label 53).
        """
        ids = np.array([[7, 7, 8], [9, 0, 8]], dtype=np.int32)
        save(tmp_path / "coco/panoptic_val2017/000000000001.png", id_to_rgb(ids))
        categories = {7: 1, 8: 200, 9: 92}
        segments = [{"id": i, "category_id": c} for i, c in categories.items()]
        annotation = {"image_id": 1, "file_name": "000000000001.png", "segments_info": segments}
        (tmp_path / "coco/annotations").mkdir()
        (tmp_path / "coco/annotations/panoptic_val2017.json").write_text(
            json.dumps({"annotations": [annotation], "images": [], "categories": []})
        )
        return tmp_path / "coco"

    @pytest.mark.detectron2
    def test_labels_are_those_of_detectron2(self, folder):
        steps = prepare_coco(folder, OPTIONS)
        names = ["panoptic_stuff_val2017", "instances_val2017.json"]
        assert [step.folder.name for step in steps] == names
        made = pixels(folder / "panoptic_stuff_val2017/000000000001.png")
        assert made.tolist() == [[0, 0, 53], [1, 255, 53]]

    @pytest.mark.detectron2
    def test_instances_are_those_of_the_panoptic_maps(self, coco, tmp_path):
        """They are the masks that the scenes' own instances file has; what is there is kept."""
        from freqfusion.evaluation.overlays import decode_mask

        root = shutil.copytree(coco, tmp_path / "coco")
        own = root / "annotations/instances_train.json"
        expected = json.loads(own.read_text())
        pngs, file = root / "panoptic_train", root / "annotations/panoptic_train.json"
        assert write_instances(file, pngs, own, OVERWRITE).written == 0
        own.unlink()
        assert write_instances(file, pngs, own, OPTIONS).written == 1
        found = json.loads(own.read_text())
        names = [{one["id"]: one["name"] for one in c["categories"]} for c in (found, expected)]
        assert names[0] == names[1]
        assert len({one["id"] for one in found["annotations"]}) == len(found["annotations"])

        def masks(content):
            of_image = {}
            for one in content["annotations"]:
                mask = decode_mask(one["segmentation"], (32, 48))
                of_image.setdefault((one["image_id"], one["category_id"]), []).append(mask)
            return {key: np.any(group, axis=0) for key, group in of_image.items()}

        ours, theirs = masks(found), masks(expected)
        assert ours.keys() == theirs.keys()
        panoptic = {one["image_id"]: one for one in json.loads(file.read_text())["annotations"]}
        for (image, category), mask in ours.items():
            segments = panoptic[image]["segments_info"]
            wanted = [one["id"] for one in segments if one["category_id"] == category]
            ids = rgb_to_id(pixels(pngs / panoptic[image]["file_name"]))
            assert (mask == np.isin(ids, wanted)).all()

    @pytest.mark.detectron2
    def test_a_segment_without_a_pixel_is_named(self, folder):
        file = folder / "annotations/panoptic_val2017.json"
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 1, "isthing": 1, "name": "person"}]
        content["annotations"][0]["segments_info"][0]["id"] = 70
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"000000000001\.png has no pixel of the segment 70"):
            write_instances(file, folder / "panoptic_val2017", folder / "instances.json", OPTIONS)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no folder .*annotations; unpack"):
            prepare_coco(tmp_path, OPTIONS)
        (tmp_path / "annotations").mkdir()
        with pytest.raises(ValueError, match=r"none of the files panoptic_train2017.json and"):
            prepare_coco(tmp_path, OPTIONS)


class TestCityscapes:
    @pytest.fixture
    def bare(self, cityscapes, tmp_path):
        """As downloaded: without what is derived."""
        root = shutil.copytree(cityscapes, tmp_path / "bare")
        for path in [*root.rglob("*_labelTrainIds.png"), *root.glob("gtFine/*.json")]:
            path.unlink()
        for split in ("train", "val"):
            shutil.rmtree(root / f"gtFine/cityscapes_panoptic_{split}")
        return root

    def test_equal_to_those_of_the_scenes(self, cityscapes, bare):
        steps = prepare_cityscapes(bare, OPTIONS)
        assert [(step.written, step.present) for step in steps] == [(3, 0)] * 3 + [(2, 0)] * 3
        made = {path.relative_to(bare) for path in bare.rglob("*") if path.is_file()}
        there = {p.relative_to(cityscapes) for p in cityscapes.rglob("*") if p.is_file()}
        assert {path.parent.name for path in made - there} == {
            "cityscapes_stuff_train",
            "cityscapes_stuff_val",
        }
        assert there <= made
        for path in there:
            if path.suffix == ".png":
                ours, theirs = pixels(bare / path), pixels(cityscapes / path)
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
            else:
                assert json.loads((bare / path).read_text()) == json.loads(
                    (cityscapes / path).read_text()
                )

    def test_stuff_labels(self, bare):
        """Pixel by pixel: 0 for the eight classes with instances, 1..11 in train-id order."""
        prepare_cityscapes(bare, OPTIONS)
        expected = {
            label.id: 0 if label.has_instances else label.train_id + 1
            for label in CITYSCAPES_LABELS
        }
        for source in bare.glob("gtFine/*/*/*_labelIds.png"):
            split = source.parts[-3]
            name = source.name.replace("labelIds", "stuff")
            made = pixels(bare / f"gtFine/cityscapes_stuff_{split}" / name)
            for label, value in zip(pixels(source).flat, made.flat, strict=True):
                assert value == expected.get(int(label), 255)

    def test_only_what_is_missing_is_written(self, bare):
        prepare_cityscapes(bare, OPTIONS)
        lost = next(bare.glob("gtFine/cityscapes_panoptic_train/*.png"))
        before = lost.read_bytes()
        lost.unlink()
        steps = prepare_cityscapes(bare, OPTIONS)
        assert [(s.written, s.present) for s in steps[:3]] == [(0, 3), (1, 2), (0, 3)]
        assert lost.read_bytes() == before
        steps = prepare_cityscapes(bare, OVERWRITE)
        assert {step.present for step in steps} == {0}

    def test_a_lost_index_is_written_again(self, bare):
        prepare_cityscapes(bare, OPTIONS)
        index = bare / "gtFine/cityscapes_panoptic_val.json"
        before = index.read_bytes()
        index.unlink()
        prepare_cityscapes(bare, OPTIONS)
        assert index.read_bytes() == before

    def test_labels_that_are_not_evaluated(self):
        """Caravans (29), their instances (29001), bare rectangles (0, 3) are void; 26 is a crowd.

        Car 26001 covers the right column: box (2, 0) of 1 x 2.
        """
        values = np.array([[29, 29001, 26001], [3, 26, 26001]], dtype=np.uint16)
        ids, segments = panoptic_segments(values)
        assert ids.tolist() == [[0, 0, 26001], [0, 26, 26001]]
        crowd = {"id": 26, "category_id": 26, "area": 1, "bbox": [1, 1, 1, 1], "iscrowd": 1}
        car = {"id": 26001, "category_id": 26, "area": 2, "bbox": [2, 0, 1, 2], "iscrowd": 0}
        assert segments == [crowd, car]

    def test_test_split_gets_train_ids(self, bare):
        save(bare / "gtFine/test/x/x_000000_000019_gtFine_labelIds.png", np.zeros((2, 2), np.uint8))
        steps = prepare_cityscapes(bare, OPTIONS)
        assert steps[-1].sentence().endswith("1 written, 0 there already")
        made = pixels(bare / "gtFine/test/x/x_000000_000019_gtFine_labelTrainIds.png")
        assert made.tolist() == [[255, 255]] * 2
        assert not (bare / "gtFine/cityscapes_panoptic_test").exists()

    def test_mistakes(self, bare, tmp_path):
        with pytest.raises(ValueError, match=r"there is no folder .*gtFine; unpack"):
            prepare_cityscapes(tmp_path, OPTIONS)
        file = next(bare.glob("gtFine/train/*/*_labelIds.png"))
        original = file.read_bytes()
        save(file, np.zeros((2, 2, 3), np.uint8))
        with pytest.raises(ValueError, match=r"labelIds.png: has the mode RGB"):
            prepare_cityscapes(bare, OPTIONS)
        file.write_bytes(original[: len(original) // 2])
        with pytest.raises(ValueError, match=r"labelIds.png: cannot be read"):
            prepare_cityscapes(bare, OPTIONS)
        for found in bare.glob("gtFine/train/*/*_labelIds.png"):
            found.unlink()
        with pytest.raises(ValueError, match="has no file <city>/"):
            prepare_cityscapes(bare, OPTIONS)


# What is prepared, its name, labels of a file before, labels after.
RELABELED = {
    "ADE20K": (
        prepare_ade20k,
        ("annotations/training", "annotations_detectron2/training"),
        [[0, 1, 150], [2, 0, 9]],
        [[255, 0, 149], [1, 255, 8]],
        (151, r"a.png has the labels 151, but allowed are 0..150"),
        "none of the folders annotations/training, ann",
    ),
    "CamVid": (
        prepare_camvid,
        ("valannot", "annotations_detectron2/val"),
        [[0, 10, 11]],
        [[0, 10, 255]],
        (12, r"a.png has the labels 12, but allowed are 0..11"),
        "none of the folders trainannot, valannot, testannot",
    ),
}


@pytest.mark.parametrize("name", RELABELED)
def test_relabeled(tmp_path, name):
    prepare, (source, target), before, after, (wrong, said), nothing = RELABELED[name]
    with pytest.raises(ValueError, match=r"there is no folder"):
        prepare(tmp_path / "absent", OPTIONS)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(ValueError, match=nothing):
        prepare(tmp_path, OPTIONS)
    save(tmp_path / source / "a.png", np.array(before, np.uint8))
    (step,) = prepare(tmp_path, OPTIONS)
    assert (step.written, step.present) == (1, 0)
    made = pixels(tmp_path / target / "a.png")
    assert made.tolist() == after
    assert made.dtype == np.uint8
    assert prepare(tmp_path, OPTIONS)[0].present == 1
    save(tmp_path / source / "a.png", np.array([[0, wrong]], np.uint8))
    with pytest.raises(ValueError, match=said):
        prepare(tmp_path, OVERWRITE)

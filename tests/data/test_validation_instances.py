"""COCO instances: each way of breaking them has its own finding."""

import itertools
import json
import random
import re
import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image
from validation_sets import (
    FIRST,
    INSTANCES,
    PANOPTIC,
    SIZE,
    check,
    cut,
    edit_json,
    errors,
    only,
    registered_coco,
    repeat_first,
    save_image,
    write_small_coco,
)

from freqfusion.data.synthetic.rle import encode
from freqfusion.data.validation.shapes import polygon_area, polygon_shape, run_shape, runs_of


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_small_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def root(good, tmp_path):
    with registered_coco(shutil.copytree(good, tmp_path / "coco")) as root:
        yield root


def instance(change, position=0):
    """Break an annotation of the instance JSON."""
    return lambda root: edit_json(root / INSTANCES, lambda c: change(c["annotations"][position]))


def instances(change):
    return lambda root: edit_json(root / INSTANCES, change)


def new_id_of_image(content):
    content["images"].append(content["images"][0] | {"id": 77})


def resize_image(root):
    Image.new("RGB", (40, 32)).save(root / f"train/{FIRST}.jpg")


def full_runs(size):
    """A run-length mask with every pixel."""
    return {"size": list(size), "counts": [0, size[0] * size[1]]}


BROKEN_INSTANCES = {
    "image missing": (
        lambda root: (root / f"train/{FIRST}.jpg").unlink(),
        {("missing file", f"train/{FIRST}.jpg")},
        "is not there; expected: a picture, since .*instances_train.json needs it",
    ),
    "image truncated": (
        lambda root: cut(root / f"train/{FIRST}.jpg"),
        {("unreadable picture", f"train/{FIRST}.jpg")},
        r"cannot be read \(.*\); expected: a whole picture",
    ),
    "no image at all": (
        lambda root: (root / f"train/{FIRST}.jpg").write_text("hello"),
        {("unreadable picture", f"train/{FIRST}.jpg")},
        "cannot be read .*cannot identify image file",
    ),
    "image of 16 bits": (
        save_image("I;16"),
        {("picture of a wrong mode", f"train/{FIRST}.jpg")},
        "has the mode I;16, which is cut off at 255",
    ),
    "image of another size": (
        resize_image,
        {("size mismatch", f"train/{FIRST}.jpg")},
        r"is 32 x 40 \(height x width\); expected: 32 x 48 \(height x width\) as .*json says",
    ),
    "JSON missing": (
        lambda root: (root / INSTANCES).unlink(),
        {("missing file", INSTANCES)},
        "is not there; expected: the instances of broken_instances",
    ),
    "folder missing": (
        lambda root: shutil.rmtree(root / "train"),
        {("missing folder", "train")},
        "is not there; expected: the images of broken_instances; DETECTRON2_DATASETS",
    ),
    "folder empty": (
        lambda root: [path.unlink() for path in (root / "train").iterdir()],
        {("empty folder", "train")} | {("missing file", f"train/{n:012d}.jpg") for n in (1, 2, 3)},
        "holds nothing; expected: the images",
    ),
    "JSON does not parse": (
        lambda root: cut(root / INSTANCES),
        {("unreadable JSON", INSTANCES)},
        r"cannot be read \(.*\); expected: valid JSON",
    ),
    "section missing": (
        instances(lambda c: c.pop("categories")),
        {("JSON without a section", INSTANCES)},
        "has no list 'categories'; expected: the sections images, annotations, categories",
    ),
    "image without file name": (
        instances(lambda c: c["images"][2].pop("file_name") and c["annotations"].clear()),
        {("malformed entry", INSTANCES)},
        "entry 2 of 'images' lacks file_name; expected: an object with id, file_name",
    ),
    "image without size": (
        instances(lambda c: c["images"][0].pop("width")),
        {("malformed entry", INSTANCES)},
        f"the image entry of .*{FIRST}.jpg has no width and height; expected: whole numbers",
    ),
    "image id twice": (
        instances(repeat_first("images")),
        {("repeated image id", INSTANCES), ("repeated file name", INSTANCES)},
        "has the image id 1 2 times; expected: it once",
    ),
    "file name twice": (
        instances(new_id_of_image),
        {("repeated file name", INSTANCES)},
        f"has the file name '{FIRST}.jpg' 2 times",
    ),
    "annotation id twice": (
        instances(repeat_first("annotations")),
        {("repeated annotation id", INSTANCES)},
        "has the annotation id 1 2 times",
    ),
    "category id twice": (
        instances(repeat_first("categories")),
        {("repeated category id", INSTANCES)},
        "has the category id 1 2 times",
    ),
    "annotation of no image": (
        instance(lambda a: a.update(image_id=99)),
        {("annotation of an unknown image", INSTANCES)},
        "annotation 1 has the image_id 99; expected: the id of an entry of 'images'",
    ),
    "unknown category": (
        instance(lambda a: a.update(category_id=99)),
        {("unknown category", INSTANCES)},
        "annotation 1 has the category_id 99; expected: the id of an entry of 'categories'",
    ),
    "category of another name": (
        instances(lambda c: c["categories"][0].update(name="ball")),
        {("categories that differ", INSTANCES)},
        "calls category 1 'ball'; expected: 'disc' as in the metadata",
    ),
    "category too many": (
        instances(lambda c: c["categories"].append({"id": 50, "name": "kite"})),
        {("categories that differ", INSTANCES)},
        r"has the category 50 \('kite'\); expected: one that the metadata knows",
    ),
    "category too few": (
        instances(
            lambda c: c.update(categories=c["categories"][:-1], annotations=c["annotations"][:0])
        ),
        {("categories that differ", INSTANCES)},
        "has no category 7; expected: 'tree' as in the metadata",
    ),
    "wrong area": (
        instance(lambda a: a.update(area=20_000)),
        {("wrong area", INSTANCES)},
        r"annotation 1 has the area 20000; expected: about \d+ as its mask has",
    ),
    "no area": (
        instance(lambda a: a.pop("area")),
        {("malformed entry", INSTANCES)},
        "annotation 1 has the area None; expected: a number of pixels",
    ),
    "wrong bbox": (
        instance(lambda a: a.update(bbox=[1.0, 1.0, 46.0, 30.0])),
        {("wrong bbox", INSTANCES)},
        r"annotation 1 has the bbox \[1.0, 1.0, 46.0, 30.0\]; expected: about \[",
    ),
    "bbox that is no box": (
        instance(lambda a: a.update(bbox=[1.0, 2.0])),
        {("malformed entry", INSTANCES)},
        r"annotation 1 has the bbox \[1.0, 2.0\]; expected: four numbers",
    ),
    "bbox outside of the image": (
        instance(lambda a: a.update(bbox=[40.0, 1.0, 20.0, 5.0], segmentation=None)),
        {("box outside of the image", INSTANCES)},
        r"annotation 1 has the bbox .*, 12 pixels outside of the image; expected: within 32 x 48",
    ),
    "bbox without height": (
        instance(lambda a: a.update(bbox=[4.0, 1.0, 20.0, 0.0], segmentation=None)),
        {("degenerate box", INSTANCES)},
        "annotation 1 has a bbox of width 20 and height 0; expected: both above 0",
    ),
    "polygon of two points": (
        instance(lambda a: a.update(segmentation=[[1.0, 1.0, 5.0, 5.0]])),
        {("degenerate polygon", INSTANCES)},
        "polygon 0 of annotation 1 has 2 points; expected: 3 or more points around an area",
    ),
    "polygon of too many points": (
        instance(lambda a: a.update(segmentation=[[1.0, 1.0, *(9.0, 9.0, 9.0, 1.0) * 50_000]])),
        {("degenerate polygon", INSTANCES)},
        "annotation 1 has 100001 points in its polygons; expected: at most 100000",
    ),
    "polygon without area": (
        instance(lambda a: a["segmentation"].append([1.0, 1.0, 5.0, 5.0, 9.0, 9.0])),
        {("degenerate polygon", INSTANCES)},
        r"polygon \d of annotation 1 has no area",
    ),
    "polygon of odd length": (
        instance(lambda a: a.update(segmentation=[[1.0, 1.0, 5.0, 5.0, 9.0, 1.0, 2.0]])),
        {("degenerate polygon", INSTANCES)},
        "polygon 0 of annotation 1 is no list of x, y",
    ),
    "run-length mask of another size": (
        instance(lambda a: a.update(segmentation=full_runs((48, 32)))),
        {("run-length mask of a wrong size", INSTANCES)},
        r"annotation 1 has a run-length mask of the size \[48, 32\]; expected: 32 x 48",
    ),
    "run-length mask that does not fill": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": [3, 4]})),
        {("broken run-length mask", INSTANCES)},
        "cannot be decoded .the runs cover 7 of 1536 pixels.; expected: runs that fill",
    ),
    "compressed runs cut": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": "o"})),
        {("broken run-length mask", INSTANCES)},
        "cannot be decoded .the compressed runs end within a number",
    ),
    "run-length mask without a pixel": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": [1536]})),
        {("empty mask", INSTANCES)},
        "annotation 1 has a run-length mask without a pixel",
    ),
    "run-length mask of another area": (
        instance(
            lambda a: a.update(segmentation=full_runs(SIZE), bbox=[0.0, 0.0, 48.0, 32.0], area=99)
        ),
        {("wrong area", INSTANCES)},
        "annotation 1 has the area 99; expected: about 1536 as its mask has",
    ),
    "crowd of polygons": (
        instance(lambda a: a.update(iscrowd=1)),
        {("inconsistent iscrowd", INSTANCES)},
        "annotation 1 has iscrowd 1 and polygons; expected: run-length masks of crowds",
    ),
    "crowd of another number": (
        instance(lambda a: a.update(iscrowd=2)),
        {("inconsistent iscrowd", INSTANCES)},
        "annotation 1 has iscrowd 2; expected: 0 or 1",
    ),
}


@pytest.mark.parametrize("case", BROKEN_INSTANCES)
def test_broken_instances(root, case):
    damage, expected, sentence = BROKEN_INSTANCES[case]
    damage(root)
    findings = check("broken_instances")
    assert errors(findings, root) == expected
    assert any(re.search(sentence, f.sentence()) for f in findings)
    assert {finding.dataset for finding in findings} == {"broken_instances"}


class TestMaskFormat:
    @pytest.fixture
    def cfg(self):
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "none"
        cfg.MODEL.MASK_ON = True
        cfg.DATASETS.TRAIN = ("broken_instances",)
        return cfg

    def say(self, root, cfg):
        instance(lambda a: a.update(segmentation=full_runs(SIZE), bbox=[0, 0, 48, 32], area=1536))(
            root
        )
        return errors(check("broken_instances", cfg), root)

    def test_polygons_are_read(self, root, cfg):
        assert self.say(root, cfg) == {("mask format that is not read", INSTANCES)}
        finding = only(check("broken_instances", cfg), "error", "mask format that is not read")
        assert "1 objects have run-length masks (first: annotation 1)" in finding.found
        assert "INPUT.MASK_FORMAT bitmask" in finding.expected

    def test_bitmasks_are_read(self, root, cfg):
        cfg.INPUT.MASK_FORMAT = "bitmask"
        assert self.say(root, cfg) == set()

    def test_evaluation_reads_both(self, root, cfg):
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("broken_instances",)
        assert self.say(root, cfg) == set()


JUNK = (None, -1, 10**30, 1.5, float("nan"), "", "é", [], [[]], {}, True, [None], {"id": []})


def test_any_junk_in_the_json_is_reported_not_raised(root):
    """120 times, one random value of a JSON file becomes something else."""
    generator = random.Random(0)
    for file, name in itertools.product((INSTANCES, PANOPTIC), ("broken_separated",)):
        text = (root / file).read_text()
        for _ in range(60):
            content = json.loads(text)
            parent = content
            key = generator.choice(["images", "annotations", "categories"])
            while isinstance(parent[key], dict | list) and parent[key] and generator.random() < 0.8:
                parent = parent[key]
                keys = list(parent) if isinstance(parent, dict) else range(len(parent))
                key = generator.choice(keys)
            parent[key] = generator.choice(JUNK)
            (root / file).write_text(json.dumps(content))
            check(name)
        (root / file).write_text(text)


class TestShapes:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_runs_against_the_mask_itself(self, compressed):
        generator = np.random.default_rng(0)
        for _ in range(100):
            mask = generator.random(generator.integers(1, 9, 2)) < generator.random()
            shape = run_shape(runs_of(encode(mask, compressed=compressed)), mask.shape[0])
            if not mask.any():
                assert shape is None
                continue
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert shape.box == box
            assert (shape.least_area + shape.most_area) / 2 == mask.sum()

    def test_polygon_by_hand(self):
        """A triangle of area 6 with sides of 4, 3 and 4 steps: 1 + 11 / 2 + 0.06 of slack."""
        triangle = np.array([[1.0, 1.0], [5.0, 1.0], [1.0, 4.0]])
        assert polygon_area(triangle) == 6
        shape = polygon_shape([triangle])
        assert shape.box == (1, 1, 5, 4)
        assert shape.most_area == pytest.approx(12.56)
        assert shape.least_area == pytest.approx(-0.56)

    def test_overlapping_polygons(self):
        """Twice the same square of 10 x 10: 100 or 200 pixels, with 1 + 80 / 2 + 2 of slack."""
        square = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])
        shape = polygon_shape([square, square])
        assert (shape.least_area, shape.most_area) == pytest.approx((57, 243))

"""COCO data sets: good ones have no errors, and each way of breaking them has its own."""

import itertools
import json
import os
import random
import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask
from rehearsed import registered_at
from validation_sets import (
    FIRST,
    INSTANCE_SET,
    INSTANCES,
    NAMES,
    PANOPTIC,
    PANOPTIC_SET,
    SEMANTIC_SET,
    SEPARATED_SET,
    SIZE,
    VAL_SET,
    assert_found,
    check,
    cut,
    edit_json,
    edit_png,
    errors,
    only,
    repeat_first,
    save_image,
    write_small_coco,
)

from freqfusion.data import reading
from freqfusion.data.synthetic import write_coco
from freqfusion.data.synthetic.masks import run_lengths
from freqfusion.data.validation.annotations import (
    decode_runs,
    decompress,
    polygon_area,
    polygon_shape,
    run_shape,
)
from freqfusion.data.validation.datasets import check_datasets, copy_issues

IMAGE = f"train/{FIRST}.jpg"
PNG, LABELS = f"panoptic_train/{FIRST}.png", f"panoptic_semseg_train/{FIRST}.png"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_small_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def root(good, tmp_path, monkeypatch):
    folder = shutil.copytree(good, tmp_path / "synthetic")
    with registered_at(tmp_path, monkeypatch):
        yield folder


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
    "image missing": (lambda root: (root / IMAGE).unlink(), {("missing file", IMAGE)}),
    "image truncated": (lambda root: cut(root / IMAGE), {("unreadable image", IMAGE)}),
    "image of 16 bits": (save_image("I;16"), {("image of a wrong mode", IMAGE)}),
    "image of another size": (resize_image, {("size mismatch", IMAGE)}),
    "JSON missing": (lambda root: (root / INSTANCES).unlink(), "missing file"),
    "folder missing": (lambda root: shutil.rmtree(root / "train"), {("missing folder", "train")}),
    "folder empty": (
        lambda root: [path.unlink() for path in (root / "train").iterdir()],
        {("empty folder", "train")} | {("missing file", f"train/{n:012d}.jpg") for n in (1, 2, 3)},
    ),
    "JSON does not parse": (lambda root: cut(root / INSTANCES), "unreadable JSON"),
    "section missing": (instances(lambda c: c.pop("categories")), "JSON without a section"),
    "image without file name": (
        instances(lambda c: c["images"][2].pop("file_name") and c["annotations"].clear()),
        "malformed entry",
    ),
    "image without size": (instances(lambda c: c["images"][0].pop("width")), "malformed entry"),
    "image id twice": (
        instances(repeat_first("images")),
        {("repeated image id", INSTANCES), ("repeated file name", INSTANCES)},
    ),
    "file name twice": (instances(new_id_of_image), "repeated file name"),
    "annotation id twice": (instances(repeat_first("annotations")), "repeated annotation id"),
    "annotation of no image": (
        instance(lambda a: a.update(image_id=99)),
        "annotation of an unknown image",
    ),
    "unknown category": (instance(lambda a: a.update(category_id=99)), "unknown category"),
    "category of another name": (
        instances(lambda c: c["categories"][0].update(name="ball")),
        "categories that differ",
    ),
    "category too few": (
        instances(
            lambda c: c.update(categories=c["categories"][:-1], annotations=c["annotations"][:0])
        ),
        "categories that differ",
    ),
    "wrong area": (instance(lambda a: a.update(area=20_000)), "wrong area"),
    "no area": (instance(lambda a: a.pop("area")), "malformed entry"),
    "wrong bbox": (instance(lambda a: a.update(bbox=[1.0, 1.0, 46.0, 30.0])), "wrong bbox"),
    "bbox that is no box": (instance(lambda a: a.update(bbox=[1.0, 2.0])), "malformed entry"),
    "bbox outside of the image": (
        instance(lambda a: a.update(bbox=[40.0, 1.0, 20.0, 5.0], segmentation=None)),
        "box outside of the image",
    ),
    "bbox without height": (
        instance(lambda a: a.update(bbox=[4.0, 1.0, 20.0, 0.0], segmentation=None)),
        "degenerate box",
    ),
    "polygon of two points": (
        instance(lambda a: a.update(segmentation=[[1.0, 1.0, 5.0, 5.0]])),
        "degenerate polygon",
    ),
    "polygon of too many points": (
        instance(lambda a: a.update(segmentation=[[1.0, 1.0, *(9.0, 9.0, 9.0, 1.0) * 50_000]])),
        "degenerate polygon",
    ),
    "polygon without area": (
        instance(lambda a: a["segmentation"].append([1.0, 1.0, 5.0, 5.0, 9.0, 9.0])),
        "degenerate polygon",
    ),
    "run-length mask of another size": (
        instance(lambda a: a.update(segmentation=full_runs((48, 32)))),
        "run-length mask of a wrong size",
    ),
    "run-length mask that does not fill": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": [3, 4]})),
        "broken run-length mask",
    ),
    "compressed runs cut": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": "o"})),
        "broken run-length mask",
    ),
    "run-length mask without a pixel": (
        instance(lambda a: a.update(segmentation={"size": [32, 48], "counts": [1536]})),
        "empty mask",
    ),
    "crowd of polygons": (instance(lambda a: a.update(iscrowd=1)), "inconsistent iscrowd"),
}


@pytest.mark.parametrize("case", BROKEN_INSTANCES)
def test_broken_instances(root, case):
    assert_found(INSTANCE_SET, root, *BROKEN_INSTANCES[case], INSTANCES)


def panoptic(change):
    return lambda root: edit_json(root / PANOPTIC, change)


def segment(change):
    return panoptic(lambda c: change(c["annotations"][0]["segments_info"][0]))


def png(folder, change):
    return lambda root: edit_png(root / folder / f"{FIRST}.png", change)


def set_pixel(value):
    def change(pixels):
        pixels[0, 0] = value

    return change


def shift_box(annotation):
    annotation["bbox"][0] += 5


def stuff_segments(annotation):
    return [s for s in annotation["segments_info"] if s["category_id"] > 100]


def flip_byte(path):
    """Damage the header's checksum: bytes 29..32 after signature, length, IHDR and 13 bytes."""
    content = bytearray(path.read_bytes())
    content[30] ^= 255
    path.write_bytes(content)


BROKEN_PANOPTIC = {
    "PNG missing": (lambda root: (root / PNG).unlink(), {("missing file", PNG)}),
    "PNG in grey": (
        png("panoptic_train", lambda pixels: pixels[..., 0].copy()),
        {("image of a wrong mode", PNG)},
    ),
    "PNG of another size": (
        png("panoptic_train", lambda pixels: np.concatenate([pixels, pixels[:1]])),
        {("size mismatch", PNG)},
    ),
    "id that is not in the JSON": (
        png("panoptic_train", set_pixel([1, 2, 0])),
        {("id that is not in the JSON", PNG), ("wrong area", PANOPTIC)},
    ),
    "id that is not in the PNG": (
        panoptic(
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0] | {"id": 5}
            )
        ),
        {("id that is not in the PNG", PNG)},
    ),
    "wrong area": (segment(lambda s: s.update(area=s["area"] + 1)), "wrong area"),
    "wrong bbox": (segment(shift_box), "wrong bbox"),
    "unknown category": (segment(lambda s: s.update(category_id=55)), "unknown category"),
    "segment twice": (
        panoptic(
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            )
        ),
        "repeated segment id",
    ),
    "annotation twice": (panoptic(repeat_first("annotations")), "repeated annotation of image"),
    "annotation without segments": (
        panoptic(lambda c: c["annotations"][0].pop("segments_info")),
        "malformed entry",
    ),
    "annotation of no image": (
        panoptic(lambda c: c["annotations"][0].update(image_id=99)),
        "annotation of an unknown image",
    ),
    "crowd of stuff": (
        panoptic(lambda c: [s.update(iscrowd=1) for s in stuff_segments(c["annotations"][0])][:0]),
        "inconsistent iscrowd",
    ),
    "stuff that is called a thing": (
        panoptic(lambda c: c["categories"][-1].update(isthing=1)),
        "categories that differ",
    ),
}


@pytest.mark.parametrize("case", BROKEN_PANOPTIC)
def test_broken_panoptic(root, case):
    assert_found(PANOPTIC_SET, root, *BROKEN_PANOPTIC[case], PANOPTIC)


BROKEN_SEMANTIC = {
    "folder missing": (
        lambda root: shutil.rmtree(root / "panoptic_semseg_train"),
        {("missing folder", "panoptic_semseg_train")},
    ),
    "PNG missing": (lambda root: (root / LABELS).unlink(), "missing file"),
    "label outside of the range": (
        png("panoptic_semseg_train", set_pixel(13)),
        "label outside of the range",
    ),
    "PNG in color": (
        png("panoptic_semseg_train", lambda pixels: np.stack([pixels] * 3, axis=-1)),
        "image of a wrong mode",
    ),
    "PNG of another size": (
        png("panoptic_semseg_train", lambda pixels: pixels[:, :40].copy()),
        "size mismatch",
    ),
    "PNG whose checksum is wrong": (lambda root: flip_byte(root / LABELS), "unreadable image"),
}


@pytest.mark.parametrize("case", BROKEN_SEMANTIC)
def test_broken_semantic(root, case):
    assert_found(SEMANTIC_SET, root, *BROKEN_SEMANTIC[case], LABELS)


def test_missing_labels_of_a_named_image(root):
    path = f"panoptic_stuff_train/{FIRST}.png"
    assert_found(SEPARATED_SET, root, lambda root: (root / path).unlink(), "missing file", path)


def other_category(content):
    """Another thing in the place of the first one, in the instances only."""
    first = content["annotations"][0]
    first["category_id"] = 1 + first["category_id"] % 7


def mirror_labels(root):
    path = root / "panoptic_stuff_train" / f"{FIRST}.png"
    pixels = np.asarray(Image.open(path))
    assert (pixels != pixels[:, ::-1]).mean() > 0.05
    Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(path)


@pytest.mark.parametrize(
    ("damage", "kind", "file"),
    [
        (instances(other_category), "object that the instances lack", INSTANCES),
        (instances(lambda c: c["annotations"].pop(0)), "object that the instances lack", INSTANCES),
        (mirror_labels, "labels of another image", f"panoptic_stuff_train/{FIRST}.png"),
    ],
    ids=["category", "object", "labels"],
)
def test_kinds_of_ground_truth_agree(root, damage, kind, file):
    """Each of them is sound by itself."""
    assert errors(check(SEPARATED_SET), root) == set()
    damage(root)
    assert errors(check(SEPARATED_SET), root) == {(kind, file)}


def test_each_file_of_pixels_is_read_once(root, monkeypatch):
    read = []

    def counted(path, to_rgb=(), original=reading.read_file):
        read.append(path)
        return original(path, to_rgb)

    monkeypatch.setattr(reading, "read_file", counted)
    assert errors(check(SEPARATED_SET), root) == set()
    assert {os.path.relpath(path, root).split(os.sep)[0] for path in read} == {
        "train",
        "panoptic_train",
        "panoptic_stuff_train",
    }
    assert len(read) == len(set(read))


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        (
            INSTANCE_SET,
            instance(lambda a: a.update(bbox=[40.0, 1.0, 20.0, 5.0], segmentation=None)),
            f"{{root}}/{INSTANCES}: annotation 1 has the bbox [40.0, 1.0, 20.0, 5.0], 12 pixels"
            " outside of the image; expected: within 32 x 48 (height x width)",
        ),
        (
            PANOPTIC_SET,
            png("panoptic_train", set_pixel([1, 2, 0])),
            f"{{root}}/{PNG}: has the ids 513, which {{root}}/{PANOPTIC} does not tell of;"
            " expected: an entry of segments_info for each",
        ),
        (
            SEMANTIC_SET,
            png("panoptic_semseg_train", set_pixel(13)),
            f"{{root}}/{LABELS}: has the label 13 (1 pixels); expected: 0..12, or 255 (ignored)",
        ),
    ],
)
def test_sentences(root, name, damage, sentence):
    damage(root)
    assert sentence.format(root=root) in {issue.sentence() for issue in check(name)}


JUNK = (None, -1, 10**30, 1.5, float("nan"), "", "é", [], [[]], {}, True, [None], {"id": []})


def test_any_junk_in_the_json_is_reported_not_raised(root):
    """120 times, one random value of a JSON file becomes something else."""
    generator = random.Random(0)
    for file, name in itertools.product((INSTANCES, PANOPTIC), (SEPARATED_SET,)):
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
            counts = run_lengths(mask)
            if compressed:
                counts = coco_mask.encode(mask.astype(np.uint8, order="F"))["counts"].decode()
            encoded = {"size": mask.shape, "counts": counts}
            shape = run_shape(encoded, decode_runs(encoded))
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

    def test_compressed_runs_by_hand(self):
        """Runs 1 40 1 38: from the fourth on the difference to two before, here 38 - 40 = -2.

        1 -> chr(48 + 1) = "1". 40 = 0b01_01000: low bits 8 and more follow, chr(48 + 8 + 32) = "X",
        then 1 = "1". -2 in five bits is 30, and the sign bit is set: chr(48 + 30) = "N".
        """
        assert decompress("1X11N").tolist() == [1, 40, 1, 38]
        with pytest.raises(ValueError, match="end within a number"):
            decompress("1X")


@pytest.mark.parametrize("name", NAMES)
def test_good_data_has_no_errors(root, name):
    assert errors(check(name), root) == set()


def test_good_run_length_masks(tmp_path, root):
    """Compressed and plain runs, of crowds and others."""
    shutil.rmtree(root)
    write_coco(root, num_train=8, num_val=1, size=SIZE, workers=1, progress=False)

    def encode(content):
        for entry in content["annotations"]:
            if not entry["iscrowd"]:
                runs = coco_mask.merge(coco_mask.frPyObjects(entry["segmentation"], *SIZE))
                counts = runs["counts"].decode()
                entry["segmentation"] = {"size": list(SIZE), "counts": counts}

    edit_json(root / INSTANCES, encode)
    assert errors(check(INSTANCE_SET), root) == set()


class TestNotes:
    def test_image_without_annotation(self, root):
        edit_json(root / INSTANCES, lambda c: c.update(annotations=c["annotations"][:1]))
        findings = check(INSTANCE_SET)
        assert errors(findings, root) == set()
        said = [f.sentence() for f in findings if f.kind == "image without annotation"]
        assert len(said) == 2
        assert "image 2 (000000000002.jpg) has no annotation" in said[0]

    def test_class_that_never_occurs(self, root):
        edit_json(root / INSTANCES, lambda c: c.update(annotations=[]))
        said = [f.found for f in check(INSTANCE_SET) if "never" in f.kind]
        assert len(said) == 7
        assert said[0] == "class 'disc' (1) has no pixel and no object"

    def test_semantic_class_that_never_occurs(self, root):
        for path in (root / "panoptic_semseg_train").iterdir():
            edit_png(path, lambda pixels: np.where(pixels == 7, 255, pixels).astype(np.uint8))
        assert "class 'sky' (7)" in " ".join(f.found for f in check(SEMANTIC_SET))

    def test_file_that_nothing_names(self, root):
        shutil.copy(root / f"train/{FIRST}.jpg", root / "train/more.jpg")
        finding = only(check(INSTANCE_SET), "note", "file that nothing names")
        assert finding.file == str(root / "train/more.jpg")
        assert finding.sentence().endswith("is not used; expected: an annotation that names it")

    def test_labels_without_image(self, root):
        more = root / "panoptic_semseg_train/more.png"
        shutil.copy(root / f"panoptic_semseg_train/{FIRST}.png", more)
        finding = only(check(SEMANTIC_SET), "note", "file that nothing names")
        assert finding.file == str(more)

    def test_grey_image_with_alpha(self, root):
        save_image("LA")(root)
        finding = only(check(INSTANCE_SET), "note", "image of a wrong mode")
        assert "has the mode LA and will be converted" in finding.found

    def test_grey_image(self, root):
        save_image("L")(root)
        assert "image of a wrong mode" not in {f.kind for f in check(INSTANCE_SET)}

    def test_turned_image(self, root):
        """EXIF orientation 6: the file is 48 x 32, the picture that Detectron2 sees 32 x 48."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (32, 48)).save(root / f"train/{FIRST}.jpg", exif=exif)
        assert errors(check(INSTANCE_SET), root) == set()


class TestSamePicture:
    def copy(self, root, source, target):
        """Also as PNG: what counts is the pixels."""
        with Image.open(root / source) as picture:
            picture.save(root / target, "PNG")

    def test_in_one_data_set(self, root):
        self.copy(root, f"train/{FIRST}.jpg", "train/000000000002.jpg")
        finding = only(check(INSTANCE_SET), "note", "the same image twice")
        assert finding.file.endswith("train/000000000002.jpg")
        assert f"has the same pixels as {root}/train/{FIRST}.jpg" in finding.found

    def test_in_two_data_sets(self, root):
        self.copy(root, f"train/{FIRST}.jpg", f"val/{FIRST}.jpg")
        report = check_datasets([INSTANCE_SET, VAL_SET], workers=1, progress=False)
        finding = only(report.issues, "error", "the same image twice")
        assert finding.file == str(root / f"val/{FIRST}.jpg")
        assert finding.found == (
            f"({VAL_SET}) has the same pixels as {root}/train/{FIRST}.jpg ({INSTANCE_SET})"
        )
        assert finding.expected == "no image both in training and in evaluation"

    def test_many_equal_pictures_are_each_told_once(self):
        """a, b, c of one data set: b and c are like a. In two data sets of the same files too."""
        copies = [(name, path) for name in ("one", "two") for path in ("a", "b", "c")]
        found = [(f.severity, f.dataset, f.file) for f in copy_issues([copies], {})]
        assert found == [("note", name, path) for name in ("one", "two") for path in ("b", "c")]

    def test_two_descriptions_of_one_folder(self, root):
        names = [INSTANCE_SET, PANOPTIC_SET]
        assert errors(check_datasets(names, workers=1, progress=False).issues, root) == set()

    @pytest.mark.parametrize(("test", "count"), [(PANOPTIC_SET, 3), (VAL_SET, 0)])
    def test_roles_of_a_configuration(self, root, test, count):
        """The same folder for training and evaluation is an error: all three images."""
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "none"
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (INSTANCE_SET,), (test,)
        report = check_datasets([INSTANCE_SET, test], cfg, workers=1, progress=False)
        said = [f.found for f in report.issues if f.kind == "the same image twice"]
        assert said == [f"belongs to {INSTANCE_SET} and to {test}"] * count

    def test_two_training_sets(self, root):
        self.copy(root, f"train/{FIRST}.jpg", f"val/{FIRST}.jpg")
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "none"
        cfg.DATASETS.TRAIN = (INSTANCE_SET, VAL_SET)
        report = check_datasets(cfg.DATASETS.TRAIN, cfg, workers=1, progress=False)
        assert errors(report.issues, root) == set()


def test_nothing_to_check():
    MetadataCatalog.get("nothing").set(evaluator_type="other")
    DatasetCatalog.register("nothing", list)
    try:
        with pytest.raises(ValueError, match="nothing names no ground truth that can be checked"):
            check("nothing")
    finally:
        DatasetCatalog.remove("nothing")
        MetadataCatalog.remove("nothing")


def test_unknown_name():
    with pytest.raises(ValueError, match=r"as 'coco_2017_vall'; did you mean coco_2017_val"):
        check("coco_2017_vall")


def test_files_of_an_unfinished_download_are_no_strays(root):
    (root / "train/.part").write_text("")
    assert "file that nothing names" not in {f.kind for f in check(INSTANCE_SET)}

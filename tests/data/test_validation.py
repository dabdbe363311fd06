"""Whole data sets: good ones, notes, and the same picture in several places."""

import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from validation_sets import (
    FIRST,
    INSTANCES,
    NAMES,
    SIZE,
    check,
    edit_json,
    edit_png,
    errors,
    notes,
    only,
    registered_coco,
    save_image,
    write_small_coco,
)

from freqfusion.data.synthetic import write_coco
from freqfusion.data.validation import check_datasets
from freqfusion.data.validation.datasets import ImageCopy, copy_issues


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_small_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def root(good, tmp_path):
    with registered_coco(shutil.copytree(good, tmp_path / "coco")) as root:
        yield root


@pytest.mark.parametrize("name", NAMES)
def test_good_data_has_no_errors(root, name):
    assert errors(check(name), root) == set()


def test_good_run_length_masks(tmp_path, root):
    """Compressed and plain runs, of crowds and others."""
    shutil.rmtree(root)
    write_coco(
        root, num_train=8, num_val=1, size=SIZE, mask_format="rle", workers=1, progress=False
    )
    assert errors(check("broken_instances"), root) == set()


class TestNotes:
    def test_image_without_annotation(self, root):
        edit_json(root / INSTANCES, lambda c: c.update(annotations=c["annotations"][:1]))
        findings = check("broken_instances")
        assert errors(findings, root) == set()
        said = [f.sentence() for f in findings if f.kind == "image without annotation"]
        assert len(said) == 2
        assert "image 2 (000000000002.jpg) has no annotation" in said[0]

    def test_class_that_never_occurs(self, root):
        edit_json(root / INSTANCES, lambda c: c.update(annotations=[]))
        said = [f.found for f in check("broken_instances") if "never" in f.kind]
        assert len(said) == 7
        assert said[0] == "class 'disc' (1) has no pixel and no object"

    def test_semantic_class_that_never_occurs(self, root):
        for path in (root / "panoptic_stuff_train").iterdir():
            edit_png(path, lambda pixels: np.where(pixels == 1, 255, pixels).astype(np.uint8))
        assert "class 'sky' (1)" in " ".join(f.found for f in check("broken_stuffonly"))

    def test_file_that_nothing_names(self, root):
        shutil.copy(root / f"train/{FIRST}.jpg", root / "train/more.jpg")
        finding = only(check("broken_instances"), "note", "file that nothing names")
        assert finding.file == str(root / "train/more.jpg")
        assert finding.sentence().endswith("is not used; expected: an annotation that names it")

    def test_labels_without_image(self, root):
        shutil.copy(
            root / f"panoptic_stuff_train/{FIRST}.png", root / "panoptic_stuff_train/more.png"
        )
        findings = check("broken_stuffonly")
        assert notes(findings, root) >= {
            ("label file without image", "panoptic_stuff_train/more.png")
        }

    def test_grey_image_with_alpha(self, root):
        save_image("LA")(root)
        finding = only(check("broken_instances"), "note", "image of a wrong mode")
        assert "has the mode LA and will be converted" in finding.found

    def test_grey_image(self, root):
        save_image("L")(root)
        assert "image of a wrong mode" not in {f.kind for f in check("broken_instances")}

    def test_turned_image(self, root):
        """EXIF orientation 6: the file is 48 x 32, the picture that Detectron2 sees 32 x 48."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (32, 48)).save(root / f"train/{FIRST}.jpg", exif=exif)
        assert errors(check("broken_instances"), root) == set()


class TestSamePicture:
    def copy(self, root, source, target):
        """Also as PNG: what counts is the pixels."""
        with Image.open(root / source) as picture:
            picture.save(root / target, "PNG")

    def test_in_one_data_set(self, root):
        self.copy(root, f"train/{FIRST}.jpg", "train/000000000002.jpg")
        finding = only(check("broken_instances"), "note", "the same image twice")
        assert finding.file.endswith("train/000000000002.jpg")
        assert f"has the same pixels as {root}/train/{FIRST}.jpg" in finding.found

    def test_in_two_data_sets(self, root):
        self.copy(root, f"train/{FIRST}.jpg", f"val/{FIRST}.jpg")
        report = check_datasets(["broken_instances", "broken_val"], workers=1, progress=False)
        finding = only(report.issues, "error", "the same image twice")
        assert finding.file == str(root / f"val/{FIRST}.jpg")
        assert finding.found == (
            f"(broken_val) has the same pixels as {root}/train/{FIRST}.jpg (broken_instances)"
        )
        assert finding.expected == "no image both in training and in evaluation"

    def test_many_equal_pictures_are_each_told_once(self):
        """a, b, c of one data set: b and c are like a. In two data sets of the same files too."""
        copies = [ImageCopy(name, path) for name in ("one", "two") for path in ("a", "b", "c")]
        found = [(f.severity, f.dataset, f.file) for f in copy_issues([copies], {})]
        assert found == [("note", name, path) for name in ("one", "two") for path in ("b", "c")]

    def test_two_descriptions_of_one_folder(self, root):
        names = ["broken_instances", "broken_standard"]
        assert errors(check_datasets(names, workers=1, progress=False).issues, root) == set()

    @pytest.mark.parametrize(("test", "count"), [("broken_standard", 3), ("broken_val", 0)])
    def test_roles_of_a_configuration(self, root, test, count):
        """The same folder for training and evaluation is an error: all three images."""
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "none"
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("broken_instances",), (test,)
        report = check_datasets(["broken_instances", test], cfg, workers=1, progress=False)
        said = [f.found for f in report.issues if f.kind == "the same image twice"]
        assert said == [f"belongs to broken_instances and to {test}"] * count

    def test_two_training_sets(self, root):
        self.copy(root, f"train/{FIRST}.jpg", f"val/{FIRST}.jpg")
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "none"
        cfg.DATASETS.TRAIN = ("broken_instances", "broken_val")
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
    assert "file that nothing names" not in {f.kind for f in check("broken_instances")}

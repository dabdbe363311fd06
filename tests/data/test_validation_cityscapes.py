"""A good data set in Cityscapes layout has no errors, and each way of breaking it has its own."""

import shutil

import numpy as np
import pytest
from rehearsed import registered_at
from validation_sets import assert_found, check, cut, edit_json, edit_png, errors, notes, only

from freqfusion.data.preparation import prepare_cityscapes
from freqfusion.data.synthetic import write_cityscapes
from freqfusion.data.workers import PreparationOptions

SIZE = (32, 48)
CITY = "gtFine/train/northtown"
STEM = "northtown_000000_000019"
IMAGE = f"leftImg8bit/train/northtown/{STEM}_leftImg8bit.png"
LABELS, TRAIN_IDS, INSTANCES = (
    f"{CITY}/{STEM}_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds", "instanceIds")
)
POLYGONS = f"{CITY}/{STEM}_gtFine_polygons.json"
PANOPTIC = "gtFine/cityscapes_panoptic_train"
STUFF = f"gtFine/cityscapes_stuff_train/{STEM}_gtFine_stuff.png"
INSTANCE, SEMANTIC, PANOPTIC_SET, BOTH = (
    f"cityscapes_fine_{name}_train"
    for name in ("instance_seg", "sem_seg", "panoptic", "panoptic_separated")
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    write_cityscapes(root, num_train=2, num_val=0, size=SIZE, workers=1, progress=False)
    prepare_cityscapes(root, PreparationOptions(1, progress=False))
    return root


@pytest.fixture
def root(good, tmp_path, monkeypatch):
    """A copy to break, registered under the names of the real data sets."""
    folder = shutil.copytree(good, tmp_path / "cityscapes")
    with registered_at(tmp_path, monkeypatch):
        yield folder


def pixel(file, value):
    def change(pixels):
        pixels[0, 0] = value

    return lambda root: edit_png(root / file, change)


def lose(file):
    return lambda root: (root / file).unlink()


def json_file(file, change):
    return lambda root: edit_json(root / file, change)


@pytest.mark.parametrize("name", [INSTANCE, SEMANTIC, PANOPTIC_SET, BOTH])
def test_good_data_has_no_errors(root, name):
    findings = check(name)
    assert errors(findings, root) == set()
    assert {kind for kind, _ in notes(findings, root)} <= {"class that never occurs"}


@pytest.mark.parametrize("name", [INSTANCE, BOTH])
def test_instances_need_the_instance_ids_only(root, name):
    for kind in ("labelIds.png", "labelTrainIds.png", "polygons.json"):
        for path in (root / CITY).glob(f"*_{kind}"):
            path.unlink()
    assert errors(check(name), root) == set()


BROKEN = {
    "image truncated": (INSTANCE, lambda root: cut(root / IMAGE), {("unreadable image", IMAGE)}),
    "image of another name": (
        SEMANTIC,
        lambda root: (root / "leftImg8bit/train/northtown/a.png").write_text(""),
        {("file of a wrong name", "leftImg8bit/train/northtown/a.png")},
    ),
    "folder missing": (
        INSTANCE,
        lambda root: shutil.rmtree(root / "gtFine"),
        {("missing folder", "gtFine/train")},
    ),
    "instance ids missing": (INSTANCE, lose(INSTANCES), {("missing file", INSTANCES)}),
    "instance ids of 8 bits": (
        INSTANCE,
        lambda root: edit_png(root / INSTANCES, lambda pixels: pixels.astype(np.uint8)),
        {("image of a wrong mode", INSTANCES)},
    ),
    "instance of stuff": (
        INSTANCE,
        pixel(INSTANCES, 7001),
        {
            ("label outside of the range", INSTANCES),
            ("maps that contradict one another", INSTANCES),
        },
    ),
    "instance ids of another class": (
        INSTANCE,
        pixel(INSTANCES, 26001),
        {("maps that contradict one another", INSTANCES)},
    ),
    "label that does not exist": (
        INSTANCE,
        pixel(LABELS, 34),
        {("label outside of the range", LABELS), ("maps that contradict one another", INSTANCES)},
    ),
    "labels of another size": (
        INSTANCE,
        lambda root: edit_png(root / LABELS, lambda pixels: pixels[:30].copy()),
        {("size mismatch", LABELS)},
    ),
    "polygons missing": (SEMANTIC, lose(POLYGONS), {("missing file", POLYGONS)}),
    "polygons do not parse": (
        SEMANTIC,
        lambda root: cut(root / POLYGONS),
        {("unreadable JSON", POLYGONS)},
    ),
    "polygons without size": (
        SEMANTIC,
        json_file(POLYGONS, lambda c: c.pop("imgHeight")),
        {("JSON without a section", POLYGONS)},
    ),
    "polygons of another size": (
        SEMANTIC,
        json_file(POLYGONS, lambda c: c.update(imgHeight=64)),
        {("size mismatch", POLYGONS)},
    ),
    "polygon of one point": (
        SEMANTIC,
        json_file(POLYGONS, lambda c: c["objects"].append({"label": "car", "polygon": [[0, 0]]})),
        {("degenerate polygon", POLYGONS)},
    ),
    "train ids missing": (SEMANTIC, lose(TRAIN_IDS), {("missing file", TRAIN_IDS)}),
    "no train ids at all": (
        PANOPTIC_SET,
        lambda root: [path.unlink() for path in (root / CITY).glob("*TrainIds.png")],
        {("missing file", "gtFine/train/*/*_labelTrainIds.png")}
        | {("missing file", TRAIN_IDS.replace("000000_", f"{n:06d}_", 1)) for n in (0, 1)},
    ),
    "label ids instead of train ids": (
        SEMANTIC,
        lambda root: shutil.copy(root / LABELS, root / TRAIN_IDS),
        {
            ("label outside of the range", TRAIN_IDS),
            ("maps that contradict one another", TRAIN_IDS),
        },
    ),
    "label ids missing": (SEMANTIC, lose(LABELS), {("missing file", LABELS)}),
    "panoptic folder missing": (
        PANOPTIC_SET,
        lambda root: shutil.rmtree(root / PANOPTIC),
        {("missing folder", PANOPTIC)},
    ),
    "panoptic JSON missing": (
        PANOPTIC_SET,
        lose(f"{PANOPTIC}.json"),
        {("missing file", f"{PANOPTIC}.json")},
    ),
    "panoptic PNG with an unknown id": (
        PANOPTIC_SET,
        pixel(f"{PANOPTIC}/{STEM}_gtFine_panoptic.png", (1, 0, 0)),
        {
            ("id that is not in the JSON", f"{PANOPTIC}/{STEM}_gtFine_panoptic.png"),
            ("wrong area", f"{PANOPTIC}.json"),
        },
    ),
    "panoptic image missing": (PANOPTIC_SET, lose(IMAGE), {("missing file", IMAGE)}),
    "panoptic category of another name": (
        PANOPTIC_SET,
        json_file(f"{PANOPTIC}.json", lambda c: c["categories"][0].update(name="street")),
        {("categories that differ", f"{PANOPTIC}.json")},
    ),
    "stuff labels missing": (BOTH, lose(STUFF), {("missing file", STUFF)}),
    "stuff label outside of the range": (
        BOTH,
        pixel(STUFF, 12),
        {("label outside of the range", STUFF)},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(root, case):
    name, damage, expected = BROKEN[case]
    assert_found(name, root, damage, expected, None)


def test_class_that_never_occurs(root):
    """The scenes have no truck; the names of the instance data set are the things only."""
    said = {f.found for f in check(INSTANCE) if f.kind == "class that never occurs"}
    assert "class 'truck' (14) has no pixel and no object" in said
    assert not any("'road'" in sentence or "'sky'" in sentence for sentence in said)


def test_stray_panoptic_picture(root):
    shutil.copy(root / IMAGE, root / PANOPTIC / "more.png")
    finding = only(check(PANOPTIC_SET), "note", "file that nothing names")
    assert finding.file == str(root / PANOPTIC / "more.png")

"""Data sets declared in a YAML file: what is registered, and what a wrong file says."""

import shutil

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqfusion.data.dataset_dicts import load_panoptic, load_semantic
from freqfusion.data.declared import read_declaration
from freqfusion.data.registration import register_datasets, register_declared
from freqfusion.data.synthetic import CATEGORIES, write_coco
from freqfusion.evaluation import build_evaluator

SPLIT = {
    "images": "val",
    "instances": "annotations/instances_val.json",
    "semantic": "panoptic_semseg_val",
    "panoptic_json": "annotations/panoptic_val.json",
    "panoptic": "panoptic_val",
    "stuff": "panoptic_stuff_val",
}
CLASSES = [
    {"id": c.id, "name": c.name, "thing": c.is_thing, "color": list(c.color)} for c in CATEGORIES
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("declared") / "scenes"
    return write_coco(root, num_train=0, num_val=2, size=(48, 64), workers=1, progress=False)


@pytest.fixture
def declare(folder, tmp_path):
    """Write a declaration, changed as asked, and read it; registered names go afterwards."""
    before = set(DatasetCatalog.list())

    def write(**changes):
        content = {"name": "own", "root": str(folder), "classes": CLASSES, "splits": {"val": SPLIT}}
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    yield write
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_registers_what_there_is(declare):
    names = register_declared(read_declaration(declare()))
    assert names == [
        "own_val_instances",
        "own_val_semantic",
        "own_val_panoptic",
        "own_val_panoptic_separated",
    ]
    for name in names:
        entries = DatasetCatalog.get(name)
        assert len(entries) == 2
        assert ("annotations" in entries[0]) == name.endswith(("instances", "separated"))
        assert ("sem_seg_file_name" in entries[0]) == (not name.endswith("instances"))
        assert ("pan_seg_file_name" in entries[0]) == name.endswith("panoptic")
        build_evaluator(None, name)
    joint = MetadataCatalog.get("own_val_panoptic")
    assert len(joint.stuff_classes) == len(joint.thing_classes) == len(CATEGORIES)
    separated = MetadataCatalog.get("own_val_panoptic_separated")
    assert separated.stuff_classes[:2] == ["things", "sky"]
    assert len(separated.thing_classes) == len(separated.thing_colors) == 7


def test_configuration_key_registers(declare):
    path = str(declare(splits={"val": {key: SPLIT[key] for key in ("images", "instances")}}))
    register_datasets([path])
    register_datasets([path])
    assert "own_val_instances" in DatasetCatalog.list()
    assert "own_val_panoptic" not in DatasetCatalog.list()


def test_colors_are_optional(declare):
    classes = [{"id": 1, "name": "disc", "thing": True}, {"id": 101, "name": "sky"}]
    split = {"val": {"images": "val", "semantic": "panoptic_semseg_val"}}
    register_declared(read_declaration(declare(classes=classes, splits=split)))
    metadata = MetadataCatalog.get("own_val_semantic")
    assert metadata.stuff_classes == ["disc", "sky"]
    assert metadata.get("stuff_colors") is None


WRONG = {
    "splits must name at least one": {"splits": {}},
    "classes must be a list": {"classes": []},
    "class 0 lacks name": {"classes": [{"id": 1}]},
    "class 0 must be keys with values, not 'car'": {"classes": ["car"]},
    "two classes have the id 1": {"classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
    "two classes have the name a": {"classes": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
    "must come before the others": {
        "classes": [{"id": 1, "name": "road"}, {"id": 2, "name": "car", "thing": True}]
    },
    "color of a must be three": {"classes": [{"id": 1, "name": "a", "color": [1, 2]}]},
    "unknown key clases; did you mean classes": {"clases": []},
    "split val lacks images": {"splits": {"val": {"semantic": "x"}}},
    "split val has images but no ground truth": {"splits": {"val": {"images": "val"}}},
    "needs panoptic and panoptic_json": {"splits": {"val": {"images": "v", "panoptic": "p"}}},
    "unknown key semantics; did you mean semantic": {
        "splits": {"val": {"images": "v", "semantics": "p"}}
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_declaration(declare, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_declaration(declare(**WRONG[message]))
    assert "own.yaml" in str(caught.value)


def test_unreadable_declaration(tmp_path):
    with pytest.raises(ValueError, match="cannot read the data set declaration"):
        read_declaration(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"broken\.yaml, line 1: this is not valid YAML"):
        read_declaration(tmp_path / "broken.yaml")


def test_images_may_be_png(folder, tmp_path):
    """The JSON says jpg; the folder holds png."""
    root = tmp_path / "png"
    shutil.copytree(folder, root)
    for image in (root / "val").glob("*.jpg"):
        Image.open(image).save(image.with_suffix(".png"))
        image.unlink()
    metadata = {
        "thing_dataset_id_to_contiguous_id": {c.id: n for n, c in enumerate(CATEGORIES)},
        "stuff_dataset_id_to_contiguous_id": {},
    }
    arguments = str(root / "annotations/panoptic_val.json"), str(root / "val")
    entries = load_panoptic(*arguments, str(root / "panoptic_val"), metadata)
    assert entries[0]["file_name"].endswith("000000000001.png")
    assert entries[0]["height"] == 48
    labels = str(root / "panoptic_semseg_val")
    assert load_semantic(str(root / "val"), labels)[1]["file_name"].endswith("2.png")
    (root / "val" / "000000000002.png").unlink()
    with pytest.raises(ValueError, match=r"no image 000000000002\.jpg in"):
        load_panoptic(*arguments, str(root / "panoptic_val"), metadata)


def test_category_outside_the_classes(folder):
    metadata = {"thing_dataset_id_to_contiguous_id": {}, "stuff_dataset_id_to_contiguous_id": {}}
    with pytest.raises(ValueError, match="which is not among the classes"):
        load_panoptic(
            str(folder / "annotations/panoptic_val.json"),
            str(folder / "val"),
            str(folder / "panoptic_val"),
            metadata,
        )


def test_semantic_without_a_match(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no image in .* has a PNG of the same name"):
        load_semantic(str(folder / "val"), str(tmp_path))

"""Cityscapes' instances as dicts: the same masks as in the PNG files."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image
from pycocotools import mask as coco_mask
from rehearsed import registered_at

from freqfusion.data.dataset_dicts import load_cityscapes
from freqfusion.data.preparation import prepare_cityscapes
from freqfusion.data.synthetic import write_cityscapes
from freqfusion.data.workers import PreparationOptions

# Label ids of the classes that have instances, in the order of the contiguous classes.
THING_IDS = (24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_cityscapes(
        folder / "cityscapes", num_train=3, num_val=1, size=(64, 96), workers=1, progress=False
    )
    prepare_cityscapes(folder / "cityscapes", PreparationOptions(1, progress=False))
    with pytest.MonkeyPatch.context() as patch, registered_at(folder, patch):
        yield folder / "cityscapes"


def test_every_instance_and_nothing_else(root):
    entries = DatasetCatalog.get("cityscapes_fine_instance_seg_train")
    assert len(entries) == 3
    for entry in entries:
        stem = entry["image_id"]
        truth = root / "gtFine" / "train" / "northtown" / f"{stem}_gtFine_instanceIds.png"
        values = np.asarray(Image.open(truth))
        assert (entry["height"], entry["width"]) == values.shape
        expected = [
            value
            for value in np.unique(values).tolist()
            if (value if value < 1000 else value // 1000) in THING_IDS
        ]
        assert len(entry["annotations"]) == len(expected)
        for annotation, value in zip(entry["annotations"], expected, strict=True):
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            assert np.array_equal(mask, values == value)
            x, y, width, height = map(int, annotation["bbox"])
            inside = np.zeros_like(mask)
            inside[y : y + height, x : x + width] = True
            assert not (mask & ~inside).any()
            assert mask[y].any()
            assert mask[:, x + width - 1].any()
            assert annotation["area"] == mask.sum()
            label = value if value < 1000 else value // 1000
            assert THING_IDS[annotation["category_id"]] == label
            assert annotation["iscrowd"] == (value < 1000)


def test_groups_are_crowds(root, tmp_path):
    """A hand-made map: a person (24000), a group of cars (26), a road (7), a caravan (29)."""
    values = np.array([[24000, 24000, 26], [7, 26, 29]], dtype=np.uint16)
    for folder, suffix, content in (
        ("images", "leftImg8bit", np.zeros((2, 3), dtype=np.uint8)),
        ("truth", "gtFine_instanceIds", values),
    ):
        (tmp_path / folder / "town").mkdir(parents=True)
        Image.fromarray(content).save(tmp_path / folder / "town" / f"a_{suffix}.png")
    entry = load_cityscapes(str(tmp_path / "images"), str(tmp_path / "truth"))[0]
    found = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in entry["annotations"]]
    assert found == [(2, [1.0, 0.0, 2.0, 2.0], 1), (0, [0.0, 0.0, 2.0, 1.0], 0)]


def test_separated_has_all_truth(root):
    name = "cityscapes_fine_panoptic_separated_val"
    entry = DatasetCatalog.get(name)[0]
    labels = np.asarray(Image.open(entry["sem_seg_file_name"]))
    metadata = MetadataCatalog.get(name)
    assert len(metadata.stuff_classes) == 12
    label_of_id = metadata.stuff_dataset_id_to_contiguous_id
    for category in CITYSCAPES_CATEGORIES:
        if not category["isthing"]:
            assert metadata.stuff_classes[label_of_id[category["id"]]] == category["name"]
    assert set(np.unique(labels).tolist()) <= {*range(12), 255}
    assert Image.open(entry["pan_seg_file_name"]).mode == "RGB"
    assert entry["annotations"]


def test_missing_files(root, tmp_path):
    with pytest.raises(ValueError, match="is this Cityscapes' folder"):
        load_cityscapes(str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="cannot read the instances"):
        load_cityscapes(str(root / "leftImg8bit" / "train"), str(tmp_path))

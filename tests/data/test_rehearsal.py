"""Stand-ins for the real data sets: what is registered under the real names can be read."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from rehearsed import registered_at

from freqfusion.data.rehearsal import write_rehearsal

NAMES = [
    "coco_2017_{}",
    "coco_2017_{}_panoptic",
    "coco_2017_{}_panoptic_separated",
    "coco_2017_{}_panoptic_stuffonly",
    "cityscapes_fine_instance_seg_{}",
    "cityscapes_fine_sem_seg_{}",
    "cityscapes_fine_panoptic_{}",
    "cityscapes_fine_panoptic_separated_{}",
    "ade20k_sem_seg_{}",
    "camvid_{}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_rehearsal(folder, num_train=2, num_val=1, size=(48, 64))
    with pytest.MonkeyPatch.context() as patch, registered_at(folder, patch):
        yield folder


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 1)])
@pytest.mark.parametrize("name", NAMES)
def test_reads(root, name, split, count):
    entries = DatasetCatalog.get(name.format(split))
    assert len(entries) == count
    for entry in entries:
        assert np.asarray(Image.open(entry["file_name"])).shape == (48, 64, 3)
        if "sem_seg_file_name" in entry:
            labels = np.asarray(Image.open(entry["sem_seg_file_name"]))
            classes = len(MetadataCatalog.get(name.format(split)).stuff_classes)
            assert set(np.unique(labels).tolist()) <= {*range(classes), 255}
    if "instance" in name or name.endswith(("2017_{}", "separated")):
        assert sum(len(entry["annotations"]) for entry in entries) > 3


def test_trainval_of_camvid_is_both(root):
    files = [entry["file_name"] for entry in DatasetCatalog.get("camvid_trainval")]
    parts = [DatasetCatalog.get(f"camvid_{split}") for split in ("train", "val")]
    assert files == [entry["file_name"] for part in parts for entry in part]

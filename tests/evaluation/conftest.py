"""Two registered synthetic data sets in COCO layout, one separated and one with one label space."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic, register_coco_panoptic_separated

from freqfusion.data.synthetic.categories import panoptic_metadata, separated_metadata
from freqfusion.data.synthetic.coco import write_coco


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return write_coco(root, num_train=0, num_val=4, size=(48, 64), workers=1, progress=False)


@pytest.fixture
def dataset(coco_root):
    """(name of the separated data set, name of the one with one label space)."""
    root, notes = str(coco_root), f"{coco_root}/annotations"
    pictures, truth = f"{root}/val", f"{root}/panoptic_val"
    panoptic, instances = f"{notes}/panoptic_val.json", f"{notes}/instances_val.json"
    before = set(DatasetCatalog.list())
    register_coco_panoptic_separated(
        "scenes", separated_metadata(), pictures, truth, panoptic,
        f"{root}/panoptic_stuff_val", instances,
    )  # fmt: skip
    metadata = panoptic_metadata()
    del metadata["ignore_label"]  # Detectron2 sets it itself
    register_coco_panoptic("scenes_joint", metadata, pictures, truth, panoptic)
    yield "scenes_separated", "scenes_joint"
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)

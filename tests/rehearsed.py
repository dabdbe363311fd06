"""Generated stand-ins for the real data sets, registered under the real names."""

from contextlib import contextmanager

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin
from detectron2.data.datasets.cityscapes_panoptic import register_all_cityscapes_panoptic

from freqfusion.data.registration import register_datasets

PREFIXES = ("camvid_", "coco_", "keypoints_coco", "cityscapes_", "ade20k_", "synthetic_")


@contextmanager
def registered_at(root, monkeypatch):
    """Everything that lies under a DETECTRON2_DATASETS folder; then as it was before."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    before = dict(DatasetCatalog), {n: MetadataCatalog.get(n) for n in MetadataCatalog.list()}
    _forget()
    builtin.register_all_coco(str(root))
    builtin.register_all_cityscapes(str(root))
    register_all_cityscapes_panoptic(str(root))
    builtin.register_all_ade20k(str(root))
    register_datasets()
    try:
        yield root
    finally:
        _forget()
        DatasetCatalog.update(before[0])
        MetadataCatalog.update(before[1])


def _forget():
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in catalog.list():
            if name.startswith(PREFIXES):
                catalog.pop(name)

"""Data sets of this project in Detectron2's catalogues."""

import os
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_panoptic_separated

from freqfusion.data.synthetic import separated_metadata

SYNTHETIC_SPLITS = ("train", "val")


def register_datasets() -> None:
    """Register this project's data sets; files are looked for when a data set is first used.

    They lie under ``DETECTRON2_DATASETS`` (default ``datasets``). Calling it again does nothing.
    """
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    register_synthetic(root / "synthetic")


def register_synthetic(folder: Path) -> None:
    """Register what ``freqfusion.tools.synthesize`` wrote to ``folder`` in COCO layout.

    As ``synthetic_panoptic_train_separated`` and ``..._val_separated``: instances, labels for a
    Panoptic FPN (things are one class) and panoptic truth.
    """
    for split in SYNTHETIC_SPLITS:
        name = f"synthetic_panoptic_{split}"
        if f"{name}_separated" in DatasetCatalog.list():
            continue
        register_coco_panoptic_separated(
            name,
            separated_metadata(),
            image_root=str(folder / split),
            panoptic_root=str(folder / f"panoptic_{split}"),
            panoptic_json=str(folder / "annotations" / f"panoptic_{split}.json"),
            sem_seg_root=str(folder / f"panoptic_stuff_{split}"),
            instances_json=str(folder / "annotations" / f"instances_{split}.json"),
        )

"""COCO's panoptic truth as the label maps of Panoptic FPN."""

from __future__ import annotations

from pathlib import Path

from freqfusion.data.preparation.output import Derived, require_folder
from freqfusion.data.preparation.stuff_maps import separated_labels, write_stuff_maps

SPLITS = ("train2017", "val2017")


def prepare_coco(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``panoptic_stuff_<split>/`` from ``panoptic_<split>/`` and its JSON.

    Labels are those of Detectron2's separated metadata: 0 any thing, 1..53 stuff, 255 void.

    Args:
        folder: ``coco``.
        workers: processes; None means one a processor.
        overwrite: write again what is there.
        progress: show a bar.

    Raises:
        ValueError: if no split is there, or a file is not as it should be.
    """
    annotations = require_folder(
        Path(folder) / "annotations", "unpack panoptic_annotations_trainval2017.zip in this folder"
    )
    splits = [split for split in SPLITS if (annotations / f"panoptic_{split}.json").is_file()]
    if not splits:
        raise ValueError(
            f"{annotations} has none of the files"
            f" {' and '.join(f'panoptic_{split}.json' for split in SPLITS)}; unpack"
            " panoptic_annotations_trainval2017.zip there"
        )
    labels = coco_labels()
    return [
        write_stuff_maps(
            annotations / f"panoptic_{split}.json",
            Path(folder) / f"panoptic_{split}",
            Path(folder) / f"panoptic_stuff_{split}",
            labels,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
        for split in splits
    ]


def coco_labels() -> dict[int, int]:
    """Label of each of COCO's category ids; needs Detectron2."""
    try:
        from detectron2.data import MetadataCatalog
    except ImportError as error:
        raise RuntimeError(
            "COCO's categories come from detectron2, which is not installed; "
            "python -m freqfusion.tools.doctor says how to install it"
        ) from error
    return separated_labels(MetadataCatalog.get("coco_2017_train_panoptic_separated").as_dict())

"""Cityscapes: train ids, panoptic truth, and label maps of Panoptic FPN.

The panoptic format is that of Cityscapes' own preparation; see ``data.synthetic.cityscapes``.
"""

from __future__ import annotations

from pathlib import Path

from freqfusion.data.preparation.cityscapes_panoptic import write_panoptic
from freqfusion.data.preparation.lookup import lookup_table, relabel_files
from freqfusion.data.preparation.output import Derived, Options, require_folder
from freqfusion.data.synthetic.cityscapes_labels import CITYSCAPES_LABELS

SPLITS = ("train", "val")
VOID_LABEL = 255

TRAIN_IDS = {label.id: label.train_id for label in CITYSCAPES_LABELS}
"""Label id -> train id, of the 19 classes that are evaluated."""

STUFF_LABELS = {label.id: 0 for label in CITYSCAPES_LABELS if label.has_instances} | {
    label.id: number
    for number, label in enumerate(
        (label for label in CITYSCAPES_LABELS if not label.has_instances), start=1
    )
}
"""Label id -> label of a semantic head that sees all things as class 0; stuff is 1..11."""


def prepare_cityscapes(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive, for each split under ``gtFine``, what Detectron2's registrations need.

    ``*_gtFine_labelTrainIds.png`` (0..18, 255 void), ``cityscapes_panoptic_<split>/`` with its
    JSON, and ``cityscapes_stuff_<split>/*_gtFine_stuff.png`` (0 things, 1..11 stuff, 255 void).
    The test split has no truth; it gets train ids only, since the loader asks for them.

    Args:
        folder: ``cityscapes``.
        workers: processes; None means one a processor.
        overwrite: write again what is there.
        progress: show a bar.

    Raises:
        ValueError: if no split is there, or a file is not as it should be.
    """
    options = Options(workers, overwrite, progress)
    truth = require_folder(
        Path(folder) / "gtFine", "unpack gtFine_trainvaltest.zip so that it is there"
    )
    splits = [split for split in SPLITS if (truth / split).is_dir()]
    if not splits:
        raise ValueError(
            f"{truth} has none of the folders {' and '.join(SPLITS)}; unpack"
            " gtFine_trainvaltest.zip there"
        )
    steps = []
    for split in splits:
        steps += [
            _train_ids(truth / split, options),
            write_panoptic(truth, split, options),
            _stuff_maps(truth, split, options),
        ]
    if (truth / "test").is_dir():
        steps.append(_train_ids(truth / "test", options))
    return steps


def _train_ids(folder: Path, options: Options) -> Derived:
    sources = _label_files(folder)
    targets = [
        source.with_name(source.name.replace("_labelIds.png", "_labelTrainIds.png"))
        for source in sources
    ]
    table = lookup_table(TRAIN_IDS, default=VOID_LABEL)
    return relabel_files(
        sources, targets, table, place=folder / "*" / "*_labelTrainIds.png", options=options
    )


def _stuff_maps(truth: Path, split: str, options: Options) -> Derived:
    sources = _label_files(truth / split)
    output = truth / f"cityscapes_stuff_{split}"
    targets = [output / source.name.replace("_labelIds.png", "_stuff.png") for source in sources]
    table = lookup_table(STUFF_LABELS, default=VOID_LABEL)
    return relabel_files(sources, targets, table, place=output, options=options)


def _label_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*/*_gtFine_labelIds.png"))
    if not files:
        raise ValueError(
            f"{folder} has no file <city>/*_gtFine_labelIds.png; unpack gtFine_trainvaltest.zip"
        )
    return files

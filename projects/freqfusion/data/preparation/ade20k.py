"""ADE20K's 150 classes as labels 0..149, void as 255."""

from __future__ import annotations

from pathlib import Path

from freqfusion.data.preparation.lookup import lookup_table, relabel_files
from freqfusion.data.preparation.output import Derived, Options, require_folder

SPLITS = ("training", "validation")
NUM_CLASSES = 150
VOID_LABEL = 255


def prepare_ade20k(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``annotations/<split>/`` (0 void, 1..150).

    Args:
        folder: ``ADEChallengeData2016``.
        workers: processes; None means one a processor.
        overwrite: write again what is there.
        progress: show a bar.

    Raises:
        ValueError: if no split is there, or a file holds other labels.
    """
    options = Options(workers, overwrite, progress)
    truth = require_folder(
        Path(folder) / "annotations", "unpack ADEChallengeData2016.zip so that it is there"
    )
    splits = [split for split in SPLITS if (truth / split).is_dir()]
    if not splits:
        raise ValueError(f"{truth} has none of the folders {' and '.join(SPLITS)}")
    table = lookup_table({0: VOID_LABEL} | {n + 1: n for n in range(NUM_CLASSES)})
    steps = []
    for split in splits:
        sources = sorted((truth / split).glob("*.png"))
        output = Path(folder) / "annotations_detectron2" / split
        targets = [output / source.name for source in sources]
        steps.append(relabel_files(sources, targets, table, place=output, options=options))
    return steps

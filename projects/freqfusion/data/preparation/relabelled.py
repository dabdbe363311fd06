"""ADE20K and CamVid: label maps with other numbers than Detectron2's, whose void is 255."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from freqfusion.data.preparation.lookup import lookup_table, relabel_files
from freqfusion.data.preparation.output import Derived, Options, require_folder

VOID_LABEL = 255
# Folder of the labels of each split, relative to the data set.
ADE20K_LABELS = {split: f"annotations/{split}" for split in ("training", "validation")}
CAMVID_LABELS = {split: f"{split}annot" for split in ("train", "val", "test")}


def prepare_ade20k(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``annotations/<split>/`` (0 void, 1..150).

    Args:
        folder: ``ADEChallengeData2016``.
        workers: Number of processes; None means one a processor.
        overwrite: Write again what is there.
        progress: Show a bar.

    Raises:
        ValueError: if no split is there, or a file holds other labels.
    """
    require_folder(
        Path(folder) / "annotations", "unpack ADEChallengeData2016.zip so that it is there"
    )
    labels = {0: VOID_LABEL} | {n + 1: n for n in range(150)}
    return _relabel(Path(folder), ADE20K_LABELS, labels, Options(workers, overwrite, progress))


def prepare_camvid(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``<split>annot/`` (0..10, and 11 void).

    This is CamVid as the SegNet tutorial distributes it: images of 480x360 pixels in ``train``,
    ``val`` and ``test``. Arguments and errors are those of :func:`prepare_ade20k`.
    """
    require_folder(Path(folder), "copy the folder CamVid of the SegNet tutorial to this place")
    labels = {n: n for n in range(11)} | {11: VOID_LABEL}
    return _relabel(Path(folder), CAMVID_LABELS, labels, Options(workers, overwrite, progress))


def _relabel(
    folder: Path, places: Mapping[str, str], labels: Mapping[int, int], options: Options
) -> list[Derived]:
    """Write the new labels of every split that is there."""
    splits = [split for split in places if (folder / places[split]).is_dir()]
    if not splits:
        raise ValueError(f"{folder} has none of the folders {', '.join(places.values())}")
    table = lookup_table(labels)
    steps = []
    for split in splits:
        sources = sorted((folder / places[split]).glob("*.png"))
        output = folder / "annotations_detectron2" / split
        targets = [output / source.name for source in sources]
        steps.append(relabel_files(sources, targets, table, place=output, options=options))
    return steps

"""Label maps of Panoptic FPN for data sets that a YAML file declares."""

from __future__ import annotations

from pathlib import Path

from freqfusion.data.preparation.output import Derived
from freqfusion.data.preparation.stuff_maps import write_stuff_maps

_NEEDED = ("panoptic_json", "panoptic", "stuff")


def prepare_declared(
    file: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive the folder ``stuff`` of each split from its panoptic truth.

    Args:
        file: a declaration, see ``freqfusion.data.declared``.
        workers: processes; None means one a processor.
        overwrite: write again what is there.
        progress: show a bar.

    Raises:
        ValueError: if no split names all of them, or a file is not as it should be.
    """
    # Here, so that the other preparations do not need PyYAML.
    from freqfusion.data.declared import read_declaration

    declaration = read_declaration(file)
    splits = [paths for paths in declaration.splits.values() if set(_NEEDED) <= set(paths)]
    if not splits:
        raise ValueError(
            f"{file} has no split with {', '.join(_NEEDED)}; add the folder to write to as stuff"
        )
    return [
        write_stuff_maps(
            Path(paths["panoptic_json"]),
            Path(paths["panoptic"]),
            Path(paths["stuff"]),
            declaration.separated_labels(),
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
        for paths in splits
    ]

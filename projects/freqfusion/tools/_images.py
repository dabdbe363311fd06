"""Which images to look at: those of a registered data set, or files."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion.drawing import Picture
from freqfusion.messages import did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class ImageSource:
    """An image file; ``gt`` is its data set dict, None for an image of no data set."""

    path: Path
    gt: Mapping[str, Any] | None = None


def from_dataset(name: str, limit: int | None) -> tuple[list[ImageSource], Any]:
    """Return the first images of a registered data set with their ground truth, and the metadata.

    Raises:
        ValueError: if there is no such data set, or its files are not there.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    known = list(DatasetCatalog.list())
    if name not in known:
        hint = did_you_mean(name, known) or f"; known are {', '.join(sorted(known))}"
        raise ValueError(f"no data set {name!r} is registered{hint}")
    try:
        dicts = DatasetCatalog.get(name)
    # Detectron2's loaders end with an assertion where files are missing.
    except (OSError, AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"the data set {name} cannot be loaded: {error or type(error).__name__}. Do its files"
            " lie under DETECTRON2_DATASETS?"
        ) from error
    if not dicts:
        raise ValueError(f"the data set {name} has no images")
    sources = [ImageSource(Path(entry["file_name"]), entry) for entry in dicts[:limit]]
    return sources, MetadataCatalog.get(name)


def from_files(inputs: Sequence[str], limit: int | None) -> list[ImageSource]:
    """Return files, the images of folders (not of folders in them), and what a pattern fits.

    A file is taken whatever it is called; of a folder or a pattern, files with an image's suffix.

    Raises:
        ValueError: if one of them is not there, or no image is found.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_file():
            found[path] = None
            continue
        if path.is_dir():
            candidates = sorted(path.iterdir())
        elif glob.has_magic(text):
            candidates = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        else:
            raise ValueError(f"there is no file or folder {text}")
        found |= {one: None for one in candidates if is_image(one)}
    if not found:
        raise ValueError(
            f"no images found in {', '.join(inputs)}; looked for files ending in"
            f" {', '.join(SUFFIXES)}"
        )
    return [ImageSource(path) for path in [*found][:limit]]


def is_image(path: Path) -> bool:
    """Return whether a file is called like an image."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_image(path: Path) -> Picture:
    """Return an image in RGB as training reads it.

    Raises:
        ValueError: if it cannot be read.
    """
    from freqfusion.data import reading

    return reading.read_image(path, "RGB")[0].copy()

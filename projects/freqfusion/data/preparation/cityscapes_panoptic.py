"""Cityscapes' panoptic truth, from the instance ids: colours and one JSON a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.preparation.output import Derived, Options, save_json, save_png
from freqfusion.data.synthetic.cityscapes_labels import CITYSCAPES_LABELS
from freqfusion.data.synthetic.parallel import check_workers, run_in_order
from freqfusion.data.synthetic.records import areas_and_boxes
from freqfusion.data.validation.pictures import UNREADABLE
from freqfusion.metrics.id_codec import id_to_rgb

_LABELS = {label.id: label for label in CITYSCAPES_LABELS}
_SUFFIX = "_gtFine_instanceIds.png"
# An instance has the value label * 1000 + number; anything below is a bare label.
INSTANCE_BASE = 1000


def write_panoptic(truth: Path, split: str, options: Options) -> Derived:
    """Write ``cityscapes_panoptic_<split>/`` and ``.json`` below ``truth`` (``gtFine``).

    All PNGs and the JSON there: nothing is done. Otherwise the JSON is written anew, and those
    PNGs that are missing.
    """
    sources = sorted((truth / split).glob(f"*/*{_SUFFIX}"))
    if not sources:
        raise ValueError(
            f"{truth / split} has no file <city>/*{_SUFFIX}; unpack gtFine_trainvaltest.zip"
        )
    folder = truth / f"cityscapes_panoptic_{split}"
    index = truth / f"cityscapes_panoptic_{split}.json"
    jobs = [_Job(source, folder, options.overwrite) for source in sources]
    present = sum(job.target.is_file() for job in jobs)
    if not options.overwrite and present == len(jobs) and index.is_file():
        return Derived(folder, 0, present)
    records = run_in_order(
        _write_image,
        jobs,
        workers=check_workers(options.workers),
        title=folder.name,
        progress=options.progress,
        unit="image",
    )
    save_json(
        index,
        {
            "images": [record.image for record in records],
            "annotations": [record.annotation for record in records],
            "categories": _categories(),
        },
    )
    written = sum(record.written for record in records)
    return Derived(folder, written, len(records) - written)


def panoptic_segments(
    values: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Ids and segments of a map of instance values; labels that are not evaluated become void 0.

    Ids are the values themselves. The bare label of a thing is a crowd of it.
    """
    counts = np.bincount(values.ravel())
    kept = [value for value in np.flatnonzero(counts).tolist() if _label_id(value) in _LABELS]
    number = np.zeros(len(counts), dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    numbers = number[values]
    areas, boxes = areas_and_boxes(numbers, len(kept))
    segments = []
    for value, area, box in zip(kept, areas, boxes, strict=True):
        label = _LABELS[_label_id(value)]
        segments.append(
            {
                "id": value,
                "category_id": label.id,
                "area": area,
                "bbox": box.xywh(),
                "iscrowd": int(label.has_instances and value < INSTANCE_BASE),
            }
        )
    return np.array([0, *kept], dtype=np.int32)[numbers], segments


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    folder: Path
    overwrite: bool

    @property
    def name(self) -> str:
        return self.source.name.removesuffix(_SUFFIX)

    @property
    def target(self) -> Path:
        return self.folder / f"{self.name}_gtFine_panoptic.png"


@dataclass(frozen=True, slots=True)
class _Record:
    image: dict[str, Any]
    annotation: dict[str, Any]
    written: bool


def _write_image(job: _Job) -> _Record:
    values = _read_values(job.source)
    ids, segments = panoptic_segments(values)
    wanted = job.overwrite or not job.target.is_file()
    if wanted:
        save_png(job.target, id_to_rgb(ids))
    height, width = values.shape
    return _Record(
        {
            "id": job.name,
            "width": width,
            "height": height,
            "file_name": f"{job.name}_gtFine_leftImg8bit.png",
        },
        {"image_id": job.name, "file_name": job.target.name, "segments_info": segments},
        wanted,
    )


def _read_values(path: Path) -> NDArray[np.integer[Any]]:
    try:
        with Image.open(path) as picture:
            values, mode = np.asarray(picture), picture.mode
    except UNREADABLE as error:
        raise ValueError(f"cannot read {path}: {error}; replace it by a fresh copy") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        raise ValueError(
            f"{path} is a picture of mode {mode}, but instance ids are 16 bit grey; is it the file"
            " of the download?"
        )
    return values


def _label_id(value: int) -> int:
    return value // INSTANCE_BASE if value >= INSTANCE_BASE else value


def _categories() -> list[dict[str, Any]]:
    return [
        {
            "id": label.id,
            "name": label.name,
            "color": list(label.color),
            "supercategory": label.group,
            "isthing": int(label.has_instances),
        }
        for label in CITYSCAPES_LABELS
    ]

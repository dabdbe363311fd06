"""Label maps of Panoptic FPN from panoptic truth: all things are one class.

Works for any panoptic JSON in COCO's format with its PNGs (ids as R + 256 G + 65536 B, 0 void).
Which label a category gets is a table; ``separated_labels`` makes it from Detectron2's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.preparation.output import (
    Derived,
    Options,
    missing,
    require_folder,
    save_png,
)
from freqfusion.data.synthetic.parallel import check_workers, run_in_order
from freqfusion.data.validation.pictures import UNREADABLE
from freqfusion.metrics.id_codec import rgb_to_id

VOID_LABEL = 255


def separated_labels(metadata: Mapping[str, Any]) -> dict[int, int]:
    """Label of each category: 0 for things, Detectron2's contiguous ids (1..) for stuff."""
    things: Mapping[int, int] = metadata["thing_dataset_id_to_contiguous_id"]
    stuff: Mapping[int, int] = metadata["stuff_dataset_id_to_contiguous_id"]
    return dict.fromkeys(things, 0) | dict(stuff)


def write_stuff_maps(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    label_of_category: Mapping[int, int],
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Derived:
    """Write an 8 bit PNG under the same name to ``output`` for each panoptic PNG.

    Args:
        panoptic_json: COCO's panoptic JSON.
        panoptic_root: folder of its PNGs.
        output: folder to write to.
        label_of_category: label 0..254 of each category id; void becomes 255.
        workers: processes; None means one a processor.
        overwrite: write again what is there.
        progress: show a bar.

    Raises:
        ValueError: if a file cannot be read, or the JSON, the PNGs and the table disagree.
    """
    labels = dict(label_of_category)
    wrong = sorted(label for label in labels.values() if not 0 <= label < VOID_LABEL)
    if wrong:
        raise ValueError(f"labels must lie in 0..{VOID_LABEL - 1}, but there is {wrong[0]}")
    require_folder(Path(panoptic_root), f"unpack the PNGs of {panoptic_json} there")
    annotations = _read_annotations(Path(panoptic_json))
    targets = [Path(output) / annotation["file_name"] for annotation in annotations]
    jobs = [
        _Job(
            Path(panoptic_root) / annotations[n]["file_name"],
            targets[n],
            _labels_of_segments(annotations[n], labels, panoptic_json),
        )
        for n in missing(targets, overwrite)
    ]
    options = Options(workers, overwrite, progress)
    run_in_order(
        _write_map,
        jobs,
        workers=check_workers(options.workers),
        title=Path(output).name,
        progress=options.progress and bool(jobs),
        unit="image",
    )
    return Derived(Path(output), len(jobs), len(targets) - len(jobs))


def stuff_map(ids: NDArray[np.integer[Any]], labels: Mapping[int, int]) -> NDArray[np.uint8]:
    """Label of each pixel by the id of its segment; 0 becomes void, an unknown id ValueError."""
    known = {0: VOID_LABEL} | dict(labels)
    order = sorted(known)
    position = np.minimum(np.searchsorted(order, ids), len(order) - 1)
    strange = ids[np.array(order)[position] != ids]
    if strange.size:
        raise ValueError(
            f"has the id {strange[0]}, which is not among the segments of its annotation"
        )
    return np.array([known[key] for key in order], dtype=np.uint8)[position]


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    target: Path
    labels: dict[int, int]


def _write_map(job: _Job) -> None:
    try:
        with Image.open(job.source) as picture:
            ids = rgb_to_id(np.asarray(picture.convert("RGB")))
    except UNREADABLE as error:
        raise ValueError(f"cannot read {job.source}: {error}; replace it") from error
    try:
        save_png(job.target, stuff_map(ids, job.labels))
    except ValueError as error:
        raise ValueError(
            f"{job.source} {error}; freqfusion.tools.check_dataset lists all such places"
        ) from error


def _read_annotations(path: Path) -> Sequence[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        annotations: Sequence[dict[str, Any]] = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no panoptic JSON in COCO's format ({type(error).__name__}: {error});"
            " replace it by a fresh copy"
        ) from error
    return annotations


def _labels_of_segments(
    annotation: Mapping[str, Any], labels: Mapping[int, int], file: Path
) -> dict[int, int]:
    result = {}
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        if category not in labels:
            raise ValueError(
                f"{file}: segment {segment['id']} of {annotation['file_name']} has the category"
                f" {category}, for which there is no label; known are {min(labels)}..{max(labels)}"
            )
        result[segment["id"]] = labels[category]
    return result

"""Check Cityscapes: label ids, train ids, instance ids and polygons of each image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.reading import ImageFile, check_file, check_mode
from freqfusion.data.validation.classes import KINDS
from freqfusion.data.validation.ground_truth import (
    CheckedMap,
    LabelRange,
    check_labels,
    check_size,
    labels_in,
)
from freqfusion.data.validation.issues import (
    DatasetIssue,
    collect,
    error,
    remedy,
    unusable,
)
from freqfusion.data.validation.sources import (
    Entry,
    GroundTruthSource,
    join,
    label_source,
    panoptic_source,
)
from freqfusion.messages import shorten
from freqfusion.metrics.cityscapes_labels import (
    CITYSCAPES_LABELS,
    FIRST_INSTANCE,
    IGNORED_TRAIN_ID,
    NUM_IDS,
    TRAIN_ID_OF_ID,
    label_ids,
)

IMAGE_SUFFIX = "_leftImg8bit.png"
_MODES = {
    "labelIds": (("L", "P"), "one label a pixel"),
    "labelTrainIds": (("L", "P"), "one label a pixel"),
    "instanceIds": (("I;16", "I"), "16 bit instance ids"),
}
_LABELS = {
    # All labels of the data set, also those that are not evaluated; 24.. have instances.
    "labelIds": LabelRange(NUM_IDS, None),
    "labelTrainIds": LabelRange(len(CITYSCAPES_LABELS), IGNORED_TRAIN_ID),
}
_FIRST_THING = 24


def cityscapes_source(metadata: Mapping[str, Any]) -> GroundTruthSource:
    """Collect the files below ``gt_dir`` of each image of ``image_dir``."""
    kinds = KINDS[metadata["evaluator_type"]]
    source = GroundTruthSource(metadata["gt_dir"])
    for path, stem in _images(metadata, source.issues):
        city = os.path.basename(os.path.dirname(path))
        prefix = join(source.index, os.path.join(city, f"{stem}_gtFine"))
        source.by_image[path] = CityscapesGroundTruth(prefix, kinds)
    things_only = "labelTrainIds" not in kinds
    source.classes = {
        label.train_id: label.name
        for label in CITYSCAPES_LABELS
        if label.has_instances or not things_only
    }
    return source


def cityscapes_panoptic_source(metadata: Mapping[str, Any]) -> GroundTruthSource:
    """Collect the panoptic JSON and PNGs; images lie in folders of cities."""

    def image_path(entry: Entry) -> str:
        stem = str(entry["id"])
        city = stem.partition("_")[0]
        return join(metadata["image_root"], os.path.join(city, f"{stem}{IMAGE_SUFFIX}"))

    return panoptic_source(metadata, image_path)


def cityscapes_stuff_source(metadata: Mapping[str, Any]) -> GroundTruthSource:
    """Collect the label maps of Panoptic FPN, ``<sem_seg_root>/<name>_gtFine_stuff.png``."""
    root = metadata["sem_seg_root"]
    pairs = ((path, join(root, f"{stem}_gtFine_stuff.png")) for path, stem in _images(metadata, []))
    return label_source(metadata, pairs)


@dataclass(frozen=True, slots=True)
class CityscapesGroundTruth:
    """The files ``<prefix>_<kind>.png`` (or .json) of one image."""

    prefix: str
    kinds: tuple[str, ...]

    def check(self, image: ImageFile | None, issues: list[DatasetIssue]) -> CheckedMap:
        """Compare the files with one another, with the image and with the label table."""
        maps: dict[str, ImageFile] = {}
        for kind in self._maps_to_read():
            with collect(issues):
                path = f"{self.prefix}_{kind}.png"
                png = check_file(path, "its image")
                check_mode(png, *_MODES[kind])
                if image is not None:
                    check_size(path, png.size, image.size, f"its image {image.path}")
                maps[kind] = png
        if "polygons" in self.kinds:
            with collect(issues):
                issues += polygon_issues(f"{self.prefix}_polygons.json", image)
        for kind, png in maps.items():
            with collect(issues):
                if kind == "instanceIds":
                    _check_instances(png)
                else:
                    check_labels(png.path, png.pixels, _LABELS[kind])
        issues += _contradictions(maps)
        if "labelTrainIds" in maps:
            return CheckedMap(labels_in(maps["labelTrainIds"].pixels).tolist())
        if "instanceIds" in maps:
            labels = np.unique(label_ids(maps["instanceIds"].pixels))
            return CheckedMap(TRAIN_ID_OF_ID[labels[labels < NUM_IDS]].tolist())
        return CheckedMap()

    def _maps_to_read(self) -> list[str]:
        kinds = [kind for kind in self.kinds if kind != "polygons"]
        if "labelIds" not in kinds and os.path.isfile(f"{self.prefix}_labelIds.png"):
            kinds.append("labelIds")
        return kinds


def polygon_issues(path: str, image: ImageFile | None) -> list[DatasetIssue]:
    """Return what is wrong with the polygons of a file; DatasetIssueError if it has none."""
    if not os.path.isfile(path):
        expected = "the polygons, since its image is there"
        raise unusable("missing file", path, "is not there", expected)
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        size = content["imgHeight"], content["imgWidth"]
        objects = [(entry["label"], len(entry["polygon"])) for entry in content["objects"]]
    except (OSError, ValueError) as reason:
        raise unusable(
            "unreadable JSON", path, f"cannot be read ({reason})", "valid JSON"
        ) from reason
    except (KeyError, TypeError) as reason:
        expected = "imgHeight, imgWidth, and objects with label and polygon"
        raise unusable("JSON without a section", path, "is no polygon file", expected) from reason
    issues = [
        error("degenerate polygon", path, f"object {n} ({label}) has {points} points", "3 or more")
        for n, (label, points) in enumerate(objects)
        if points < 3
    ]
    with collect(issues):
        check_size(path, size, image.size if image else None, "its image")
    return issues


def _check_instances(instances: ImageFile) -> None:
    values = np.unique(instances.pixels).astype(np.int64)
    labels = label_ids(values)
    lowest = np.where(values >= FIRST_INSTANCE, _FIRST_THING, 0)
    wrong = values[(labels < lowest) | (labels >= NUM_IDS)].tolist()
    if wrong:
        found = f"has the value {shorten(wrong)}"
        expected = "a label 0..33, or label * 1000 + number for the labels 24..33"
        raise unusable("label outside of the range", instances.path, found, expected)


def _contradictions(maps: Mapping[str, ImageFile]) -> Iterator[DatasetIssue]:
    """Yield an error for each map whose classes are not those of the label ids."""
    labels = maps.get("labelIds")
    if labels is None:
        return
    table = np.full(256, IGNORED_TRAIN_ID, dtype=np.uint8)
    table[:NUM_IDS] = TRAIN_ID_OF_ID
    for kind in ("labelTrainIds", "instanceIds"):
        png = maps.get(kind)
        if png is None or png.size != labels.size:
            continue
        differs: NDArray[np.bool_] = (
            label_ids(png.pixels) != labels.pixels
            if kind == "instanceIds"
            else png.pixels != table[labels.pixels]
        )
        if differs.any():
            found = f"contradicts {labels.path} in {int(differs.sum())} pixels"
            expected = f"the same classes{remedy(png.path)}"
            yield error("maps that contradict one another", png.path, found, expected)


def _images(metadata: Mapping[str, Any], issues: list[DatasetIssue]) -> Iterator[tuple[str, str]]:
    """Yield path and name of the images of all cities; a file of another name is an error."""
    folder = metadata.get("image_dir") or metadata["image_root"]
    for city in sorted(os.listdir(folder)):
        city_folder = os.path.join(folder, city)
        for name in sorted(os.listdir(city_folder)) if os.path.isdir(city_folder) else ():
            path = join(city_folder, name)
            if name.endswith(IMAGE_SUFFIX):
                yield path, name.removesuffix(IMAGE_SUFFIX)
            else:
                expected = f"only files <name>{IMAGE_SUFFIX}, since all of them are loaded"
                found = "is no image of Cityscapes"
                issues.append(error("file of a wrong name", path, found, expected))

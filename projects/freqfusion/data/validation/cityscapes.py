"""Cityscapes: label ids, train ids, instance ids and polygons of each image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.validation.finding import Finding, error, shorten
from freqfusion.data.validation.index import Entry, join
from freqfusion.data.validation.panoptic import panoptic_source
from freqfusion.data.validation.pictures import Picture, read_picture, size_findings, truth_mode
from freqfusion.data.validation.remedies import remedy
from freqfusion.data.validation.semantic import Labels, LabelTruth, label_findings, labels_in
from freqfusion.data.validation.source import Outcome, Source, outcome
from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS

IMAGE_SUFFIX = "_leftImg8bit.png"
# The files of each image that loader and evaluators of each evaluator_type read.
KINDS = {
    "cityscapes_instance": ("instanceIds",),
    "cityscapes_sem_seg": ("labelTrainIds", "labelIds", "instanceIds", "polygons"),
    "cityscapes_panoptic_seg": ("labelTrainIds", "labelIds", "instanceIds"),
    "cityscapes_panoptic_separated": ("instanceIds",),
}
_MODES = {
    "labelIds": (("L", "P"), "one label a pixel"),
    "labelTrainIds": (("L", "P"), "one label a pixel"),
    "instanceIds": (("I;16", "I"), "16 bit instance ids"),
}
VOID_TRAIN_ID = 255
_TRAIN_IDS = Labels(19, VOID_TRAIN_ID)
# All labels of the data set, also those that are not evaluated; 24.. have instances.
_LABEL_IDS = Labels(34, None)
_FIRST_THING = 24
_INSTANCE_BASE = 1000


def cityscapes_source(metadata: Mapping[str, Any]) -> Source:
    """Collect the files below ``gt_dir`` of each image of ``image_dir``."""
    kinds = KINDS[metadata["evaluator_type"]]
    source = Source(metadata["gt_dir"])
    folder = metadata.get("image_dir") or metadata["image_root"]
    for path in _images(folder, source):
        city = os.path.basename(os.path.dirname(path))
        stem = os.path.basename(path).removesuffix(IMAGE_SUFFIX)
        prefix = join(source.place, os.path.join(city, f"{stem}_gtFine"))
        source.truths[path] = CityscapesTruth(prefix, kinds)
    things_only = "labelTrainIds" not in kinds
    source.classes = {
        label.train_id: label.name
        for label in CITYSCAPES_LABELS
        if label.has_instances or not things_only
    }
    return source


def cityscapes_panoptic(metadata: Mapping[str, Any]) -> Source:
    """The panoptic JSON and PNGs; images lie in folders of cities."""

    def image_path(entry: Entry) -> str:
        stem = str(entry["id"])
        city = stem.partition("_")[0]
        return join(metadata["image_root"], os.path.join(city, f"{stem}{IMAGE_SUFFIX}"))

    return panoptic_source(metadata, image_path)


def cityscapes_stuff(metadata: Mapping[str, Any]) -> Source:
    """The derived label maps of Panoptic FPN, ``<sem_seg_root>/<name>_gtFine_stuff.png``."""
    source = Source(metadata["sem_seg_root"])
    names = metadata.get("stuff_classes", ())
    labels = Labels(len(names), metadata.get("ignore_label")) if names else None
    folder = metadata.get("image_dir") or metadata["image_root"]
    for path in _images(folder, Source(folder)):
        stem = os.path.basename(path).removesuffix(IMAGE_SUFFIX)
        file = join(source.place, f"{stem}_gtFine_stuff.png")
        source.truth_files.append(file)
        if os.path.isfile(file):
            source.truths[path] = LabelTruth(file, labels)
        else:
            expected = f"the labels of {path}{remedy(file)}"
            source.findings.append(error("missing file", file, "is not there", expected))
    source.classes = dict(enumerate(names))
    return source


@dataclass(frozen=True, slots=True)
class CityscapesTruth:
    """The files ``<prefix>_<kind>.png`` (or .json) of one image."""

    prefix: str
    kinds: tuple[str, ...]

    def check(self, image: Picture | None) -> Outcome:
        """Compare the files with one another, with the image and with the label table."""
        findings: list[Finding] = []
        maps: dict[str, Picture] = {}
        for kind in self._maps_to_read():
            picture = read_picture(f"{self.prefix}_{kind}.png", "its image")
            if isinstance(picture, Finding):
                findings.append(_with_remedy(picture))
                continue
            wrong = truth_mode(picture, *_MODES[kind])
            if image is not None:
                owner = f"its image {image.path}"
                wrong += size_findings(picture.path, picture.size, image.size, owner)
            if not wrong:
                maps[kind] = picture
            findings += wrong
        if "polygons" in self.kinds:
            findings += polygon_findings(f"{self.prefix}_polygons.json", image)
        findings += _map_findings(maps)
        return outcome(findings, _train_ids(maps))

    def _maps_to_read(self) -> list[str]:
        kinds = [kind for kind in self.kinds if kind != "polygons"]
        if "labelIds" not in kinds and os.path.isfile(f"{self.prefix}_labelIds.png"):
            kinds.append("labelIds")
        return kinds


def polygon_findings(path: str, image: Picture | None) -> Iterator[Finding]:
    """What is wrong with a polygon file."""
    if not os.path.isfile(path):
        yield error("missing file", path, "is not there", "the polygons, since its image is there")
        return
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        size = content["imgHeight"], content["imgWidth"]
        objects = [(entry["label"], len(entry["polygon"])) for entry in content["objects"]]
    except (OSError, ValueError) as reason:
        yield error("unreadable JSON", path, f"cannot be read ({reason})", "valid JSON")
        return
    except (KeyError, TypeError):
        wanted = "imgHeight, imgWidth, and objects with label and polygon"
        yield error("JSON without a section", path, "is no polygon file", wanted)
        return
    yield from size_findings(path, size, image.size if image else None, "its image")
    for number, (label, points) in enumerate(objects):
        if points < 3:
            found = f"object {number} ({label}) has {points} points"
            yield error("degenerate polygon", path, found, "3 or more")


def _map_findings(maps: Mapping[str, Picture]) -> Iterator[Finding]:
    """Labels that do not exist, and maps that contradict the label ids."""
    labels = maps.get("labelIds")
    if labels is not None:
        yield from label_findings(labels, labels_in(labels.pixels), _LABEL_IDS)
    train_ids = maps.get("labelTrainIds")
    if train_ids is not None:
        yield from label_findings(train_ids, labels_in(train_ids.pixels), _TRAIN_IDS)
    instances = maps.get("instanceIds")
    if instances is not None:
        yield from _instance_findings(instances)
    if labels is None:
        return
    if train_ids is not None and train_ids.size == labels.size:
        expected = _train_id_table()[labels.pixels]
        yield from _contradiction(train_ids, labels, train_ids.pixels != expected)
    if instances is not None and instances.size == labels.size:
        expected = _label_ids(instances.pixels)
        yield from _contradiction(instances, labels, expected != labels.pixels)


def _instance_findings(instances: Picture) -> Iterator[Finding]:
    values = np.unique(instances.pixels).astype(np.int64)
    labels = _label_ids(values)
    lowest = np.where(values >= _INSTANCE_BASE, _FIRST_THING, 0)
    strange = values[(labels < lowest) | (labels >= _LABEL_IDS.count)].tolist()
    if strange:
        found = f"has the value {shorten(strange)}"
        wanted = "a label 0..33, or label * 1000 + number for the labels 24..33"
        yield error("label outside of the range", instances.path, found, wanted)


def _contradiction(
    picture: Picture, labels: Picture, differs: NDArray[np.bool_]
) -> Iterator[Finding]:
    count = int(differs.sum())
    if count:
        found = f"contradicts {labels.path} in {count} pixels"
        wanted = f"the same classes{remedy(picture.path)}"
        yield error("maps that contradict one another", picture.path, found, wanted)


def _train_ids(maps: Mapping[str, Picture]) -> set[int]:
    """Train ids that occur."""
    if "labelTrainIds" in maps:
        return set(labels_in(maps["labelTrainIds"].pixels).tolist())
    if "instanceIds" in maps:
        labels = np.unique(_label_ids(maps["instanceIds"].pixels))
        return set(_train_id_table()[labels[labels < 256]].tolist())
    return set()


def _label_ids(values: NDArray[Any]) -> NDArray[np.int64]:
    wide = values.astype(np.int64)
    return np.where(wide >= _INSTANCE_BASE, wide // _INSTANCE_BASE, wide)


def _train_id_table() -> NDArray[np.uint8]:
    table = np.full(256, VOID_TRAIN_ID, dtype=np.uint8)
    for label in CITYSCAPES_LABELS:
        table[label.id] = label.train_id
    return table


def _with_remedy(finding: Finding) -> Finding:
    return error(finding.kind, finding.file, finding.found, finding.expected + remedy(finding.file))


def _images(folder: str, source: Source) -> Iterator[str]:
    """Images of all cities; a file of another name is an error, since every file is read."""
    for city in sorted(os.listdir(folder)):
        place = os.path.join(folder, city)
        if not os.path.isdir(place):
            continue
        for name in sorted(os.listdir(place)):
            path = join(place, name)
            if name.endswith(IMAGE_SUFFIX):
                yield path
            else:
                wanted = f"only files <name>{IMAGE_SUFFIX}, since all of them are loaded"
                finding = error("file of a wrong name", path, "is no image of Cityscapes", wanted)
                source.findings.append(finding)

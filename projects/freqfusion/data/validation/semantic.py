"""Semantic truth: a folder of label PNGs beside a folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.validation.finding import Finding, error, note
from freqfusion.data.validation.pictures import Picture, read_picture, size_findings, truth_mode
from freqfusion.data.validation.remedies import remedy
from freqfusion.data.validation.source import Outcome, Source, outcome

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIX = ".png"
MODES = ("L", "P", "I", "I;16")


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that are allowed: 0..``count`` - 1 and ``ignored``."""

    count: int
    ignored: int | None

    def __str__(self) -> str:
        also = "" if self.ignored is None else f", or {self.ignored} (ignored)"
        return f"0..{self.count - 1}{also}"

    def strange(self, found: NDArray[np.integer[Any]]) -> list[int]:
        """Those of some labels that are not allowed."""
        return [n for n in found.tolist() if not 0 <= n < self.count and n != self.ignored]


def semantic_labels(metadata: Mapping[str, Any]) -> Labels | None:
    """What the metadata allows; None if it names no classes."""
    classes = metadata.get("stuff_classes")
    return None if classes is None else Labels(len(classes), metadata.get("ignore_label"))


def semantic_source(metadata: Mapping[str, Any], named_images: set[str] | None = None) -> Source:
    """Pair ``image_root`` with ``sem_seg_root`` by the names without suffix.

    ``named_images`` are those of the data set's JSON, if it has one: only they need a label PNG.
    """
    source = Source(metadata["sem_seg_root"])
    labels = semantic_labels(metadata)
    images = dict(_files_by_stem(metadata["image_root"], IMAGE_SUFFIXES))
    pictures = dict(_files_by_stem(source.place, (LABEL_SUFFIX,)))
    if named_images is not None:
        images = {stem: path for stem, path in images.items() if path in named_images}
    for stem, path in images.items():
        label_file = os.path.join(source.place, f"{stem}{LABEL_SUFFIX}")
        if stem in pictures:
            source.truths[path] = LabelTruth(pictures[stem], labels)
            source.truth_files.append(pictures[stem])
        else:
            expected = f"the labels of {path}{remedy(source.place)}"
            source.findings.append(error("missing file", label_file, "is not there", expected))
    if named_images is None:
        source.findings += [
            note("label file without image", path, "has no image of its name", "one in image_root")
            for stem, path in pictures.items()
            if stem not in images
        ]
        source.truth_files += pictures.values()
    source.classes = dict(enumerate(metadata.get("stuff_classes", ())))
    return source


@dataclass(frozen=True, slots=True)
class LabelTruth:
    """One label PNG; ``labels`` None allows any."""

    path: str
    labels: Labels | None

    def check(self, image: Picture | None) -> Outcome:
        """Look for labels that are not allowed, and another size than the image's."""
        picture = read_picture(self.path, f"the image {image.path}" if image else "its image")
        if isinstance(picture, Finding):
            return outcome([picture])
        findings = truth_mode(picture, MODES, "one number a pixel")
        if findings:
            return outcome(findings)
        if image is not None:
            findings = size_findings(self.path, picture.size, image.size, f"its image {image.path}")
        present = labels_in(picture.pixels)
        findings += label_findings(picture, present, self.labels)
        return outcome(findings, present.tolist())


def labels_in(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """The labels that occur, in order."""
    if pixels.dtype == np.uint8:
        return np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    return np.unique(pixels).astype(np.int64)


def label_findings(
    picture: Picture, present: NDArray[np.int64], labels: Labels | None
) -> list[Finding]:
    """An error for all labels of a picture that are not allowed."""
    strange = [] if labels is None else labels.strange(present)
    if not strange:
        return []
    counts = ", ".join(f"{n} ({int((picture.pixels == n).sum())} pixels)" for n in strange[:5])
    more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    found = f"has the label {counts}{more}"
    return [error("label outside of the range", picture.path, found, str(labels))]


def _files_by_stem(folder: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Relative path without suffix, and path, of the pictures in a folder and those below."""
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                path = os.path.normpath(os.path.join(parent, name))
                yield os.path.relpath(os.path.join(parent, stem), folder), path

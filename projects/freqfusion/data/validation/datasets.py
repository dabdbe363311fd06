"""Check data sets as a whole: every index, every image once, and what they share."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freqfusion.data.reading import ImageFile, check_file
from freqfusion.data.validation.cityscapes_files import (
    cityscapes_panoptic_source,
    cityscapes_source,
    cityscapes_stuff_source,
)
from freqfusion.data.validation.classes import (
    KINDS,
    check_classes,
    metadata_of,
    missing_files,
)
from freqfusion.data.validation.ground_truth import (
    GroundTruth,
    agreement_issues,
    image_mode_issues,
)
from freqfusion.data.validation.issues import DatasetIssue, collect, error, note
from freqfusion.data.validation.sources import (
    GroundTruthSource,
    instance_source,
    panoptic_source,
    semantic_source,
)
from freqfusion.data.workers import check_workers, run_in_order

_DUPLICATE, _ONCE = "the same image twice", "each image once in a data set"
Roles = Mapping[str, frozenset[str]]
ImageCopy = tuple[str, str]
"""A data set, and the path of one of its images."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """All issues, and how much work it was to find them."""

    datasets: tuple[str, ...]
    issues: tuple[DatasetIssue, ...]
    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _CheckedImage:
    """Issues, the classes that occur in each ground truth, a fingerprint (None: unreadable)."""

    path: str
    digest: bytes | None
    issues: list[DatasetIssue]
    seen: list[frozenset[int]]


def check_dataset(
    name: str, cfg: Any = None, workers: int | None = None, *, progress: bool = False
) -> list[DatasetIssue]:
    """Check all files of one registered data set; see ``check_datasets``."""
    return list(check_datasets([name], cfg, workers=workers, progress=progress).issues)


def check_datasets(
    names: Sequence[str], cfg: Any = None, *, workers: int | None = None, progress: bool = True
) -> DatasetReport:
    """Check all files of registered data sets, and what they share.

    Args:
        names: Registered data sets: COCO instances, COCO panoptic, semantic PNGs, Cityscapes.
        cfg: Configuration whose class counts and mask format they must fit, or None.
        workers: Processes; None means one a processor.
        progress: Show a bar.

    Raises:
        ValueError: For a name that is not registered, or has nothing that can be checked.
    """
    started = time.perf_counter()
    processes = check_workers(workers)
    names = tuple(dict.fromkeys(names))
    issues: list[DatasetIssue] = [] if cfg is None else check_classes(cfg, names)
    copies: dict[bytes, list[ImageCopy]] = defaultdict(list)
    count = 0
    for name in names:
        own, images = _check_one(name, cfg, processes, progress)
        issues += (replace(issue, dataset=name) for issue in dict.fromkeys(own))
        count += len(images)
        for image in images:
            if image.digest is not None:
                copies[image.digest].append((name, image.path))
    issues += copy_issues(copies.values(), {} if cfg is None else _roles(cfg))
    return DatasetReport(names, tuple(issues), count, time.perf_counter() - started)


def copy_issues(groups: Iterable[Iterable[ImageCopy]], roles: Roles) -> list[DatasetIssue]:
    """Return issues on images of equal pixels, which are a group.

    ``roles`` says which data sets are for training and which for evaluation. An image of both is
    an error. Without roles, an image of two data sets is an error, unless it is the same file:
    two descriptions of the same images may be checked at once. Two files of one data set are
    a note.
    """
    issues = []
    for group in groups:
        # The files of each data set so far, in order.
        earlier: dict[str, dict[str, None]] = {}
        for dataset, path in group:
            for other, files in earlier.items():
                first, expected = next(iter(files)), "no image both in training and in evaluation"
                if dataset == other:
                    found, expected = f"has the same pixels as {first}", _ONCE
                elif dataset in roles and other in roles and roles[dataset] & roles[other]:
                    continue
                elif path not in files:
                    found = f"({dataset}) has the same pixels as {first} ({other})"
                elif dataset in roles and other in roles:
                    found = f"belongs to {other} and to {dataset}"
                else:
                    continue
                make = note if dataset == other else error
                issues.append(replace(make(_DUPLICATE, path, found, expected), dataset=dataset))
            earlier.setdefault(dataset, {})[path] = None
    return issues


def _check_one(
    name: str, cfg: Any, processes: int, progress: bool
) -> tuple[list[DatasetIssue], list[_CheckedImage]]:
    metadata = metadata_of(name)
    issues = missing_files(metadata)
    sources = _sources(metadata)
    if not sources and not issues:
        raise ValueError(
            f"{name} names no ground truth that can be checked; its metadata needs json_file or"
            " sem_seg_root with image_root, panoptic_json with panoptic_root, or gt_dir"
        )
    owners: dict[str, list[GroundTruthSource]] = defaultdict(list)
    for source in sources:
        for path in source.by_image:
            owners[path].append(source)
    labels = _labels_beside_things(metadata)
    jobs = [
        (path, own[0].index, [source.by_image[path] for source in own], labels)
        for path, own in owners.items()
    ]
    images = run_in_order(
        _check_image,
        jobs,
        workers=processes,
        title=name,
        shown=progress and bool(jobs),
        unit="image",
    )
    for image, own in zip(images, owners.values(), strict=True):
        issues += image.issues
        for source, seen in zip(own, image.seen, strict=True):
            source.seen |= seen
    for source in sources:
        issues += source.issues
    issues += _stray_files(sources)
    for source in sources:
        issues += source.absent_classes()
    return issues, images


def _labels_beside_things(metadata: Mapping[str, Any]) -> dict[int, int]:
    """Return the label of each category where things are the class 0; nothing elsewhere."""
    if next(iter(metadata.get("stuff_classes") or ()), None) != "things":
        return {}
    things = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return dict.fromkeys(things, 0) | (metadata.get("stuff_dataset_id_to_contiguous_id") or {})


def _check_image(job: tuple[str, str, list[GroundTruth], dict[int, int]]) -> _CheckedImage:
    """Read an image that an index names and check its ground truth, so that it is read once."""
    path, named_by, ground_truths, labels = job
    issues: list[DatasetIssue] = []
    image: ImageFile | None = None
    with collect(issues):
        image = check_file(path, named_by)
        issues += image_mode_issues(image)
    checked = [gt.check(image, issues) for gt in ground_truths]
    issues += agreement_issues(zip(ground_truths, checked, strict=True), labels)
    seen = [frozenset(one.seen) for one in checked]
    digest = None
    if image is not None:
        # Of size, mode and pixels, whatever the file format.
        content = hashlib.blake2b(f"{image.mode} {image.pixels.shape}".encode(), digest_size=16)
        content.update(np.ascontiguousarray(image.pixels).data)
        digest = content.digest()
    return _CheckedImage(path, digest, issues, seen)


def _sources(metadata: Mapping[str, Any]) -> list[GroundTruthSource]:
    """Return all kinds of ground truth that the metadata names and whose files are there."""
    sources = []
    if metadata.get("evaluator_type") in KINDS:
        images = "image_dir" if metadata.get("image_dir") else "image_root"
        if _is_there(metadata, "gt_dir", images):
            sources.append(cityscapes_source(metadata))
        if _is_there(metadata, "panoptic_json", "panoptic_root", images):
            sources.append(cityscapes_panoptic_source(metadata))
        if _is_there(metadata, "sem_seg_root", images):
            sources.append(cityscapes_stuff_source(metadata))
        return sources
    if _is_there(metadata, "json_file", "image_root"):
        sources.append(instance_source(metadata))
    if _is_there(metadata, "panoptic_json", "panoptic_root", "image_root"):
        sources.append(panoptic_source(metadata))
    if _is_there(metadata, "sem_seg_root", "image_root"):
        named = {path for source in sources for path in source.by_image}
        sources.append(semantic_source(metadata, named if sources else None))
    return sources


def _is_there(metadata: Mapping[str, Any], *keys: str) -> bool:
    """Return whether the metadata has these entries and what they name is there."""
    return all(metadata.get(key) and os.path.exists(metadata[key]) for key in keys)


def _stray_files(sources: Sequence[GroundTruthSource]) -> list[DatasetIssue]:
    """Return notes on files beside the named ones that nothing names."""
    named = {path for source in sources for path in (*source.by_image, *source.files)}
    known = named | {issue.file for source in sources for issue in source.issues}
    issues = []
    for folder in sorted({os.path.dirname(path) for path in named}):
        if not os.path.isdir(folder):
            continue
        with os.scandir(folder) as entries:
            files = sorted(entry.path for entry in entries if entry.is_file())
        issues += [
            note("file that nothing names", path, "is not used", "an annotation that names it")
            for path in files
            if path not in known and not os.path.basename(path).startswith(".")
        ]
    return issues


def _roles(cfg: Any) -> dict[str, frozenset[str]]:
    uses: dict[str, set[str]] = defaultdict(set)
    for role, names in (("training", cfg.DATASETS.TRAIN), ("evaluation", cfg.DATASETS.TEST)):
        for name in names:
            uses[name].add(role)
    return {name: frozenset(roles) for name, roles in uses.items()}

"""Data sets as a whole: every index, every image once, and what they share with one another."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from freqfusion.data.synthetic.parallel import check_workers, run_in_order
from freqfusion.data.validation.catalog import metadata_of
from freqfusion.data.validation.cityscapes import (
    KINDS,
    cityscapes_panoptic,
    cityscapes_source,
    cityscapes_stuff,
)
from freqfusion.data.validation.classes import check_classes, reads_polygons
from freqfusion.data.validation.existence import missing_places, usable
from freqfusion.data.validation.finding import Finding, note
from freqfusion.data.validation.image_check import ImageJob, ImageReport, check_image
from freqfusion.data.validation.instances import instance_source
from freqfusion.data.validation.leaks import Copy, copy_findings
from freqfusion.data.validation.panoptic import panoptic_source
from freqfusion.data.validation.semantic import semantic_source
from freqfusion.data.validation.source import Source


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and how much work it was."""

    datasets: tuple[str, ...]
    findings: tuple[Finding, ...]
    images: int
    seconds: float


def check_dataset(
    name: str, cfg: Any = None, workers: int | None = None, *, progress: bool = False
) -> list[Finding]:
    """Check all files of one registered data set; see ``check_datasets``."""
    return list(check_datasets([name], cfg, workers=workers, progress=progress).findings)


def check_datasets(
    names: Sequence[str], cfg: Any = None, *, workers: int | None = None, progress: bool = True
) -> Report:
    """Check all files of registered data sets, and what they share.

    Args:
        names: registered data sets: COCO instances, COCO panoptic, semantic PNGs, Cityscapes.
        cfg: configuration whose class counts and mask format they must fit, or None.
        workers: processes; None means one a processor.
        progress: show a bar.

    Raises:
        ValueError: for a name that is not registered, or has nothing that can be checked.
    """
    started = time.perf_counter()
    processes = check_workers(workers)
    names = tuple(dict.fromkeys(names))
    findings: list[Finding] = [] if cfg is None else check_classes(cfg, names)
    copies: dict[bytes, list[Copy]] = defaultdict(list)
    images = 0
    for name in names:
        own, reports = _check_one(name, cfg, processes, progress)
        findings += (replace(finding, dataset=name) for finding in dict.fromkeys(own))
        images += len(reports)
        for report in reports:
            if report.digest is not None:
                copies[report.digest].append(Copy(name, report.path))
    roles = {} if cfg is None else _roles(cfg)
    findings += copy_findings(copies.values(), roles)
    return Report(names, tuple(findings), images, time.perf_counter() - started)


def _check_one(
    name: str, cfg: Any, processes: int, progress: bool
) -> tuple[list[Finding], list[ImageReport]]:
    metadata = metadata_of(name)
    findings = missing_places(metadata)
    sources = _sources(metadata, polygons_only=cfg is not None and reads_polygons(cfg, name))
    if not sources and not findings:
        raise ValueError(
            f"{name} names no truth that can be checked; its metadata needs json_file or"
            " sem_seg_root with image_root, panoptic_json with panoptic_root, or gt_dir"
        )
    jobs, owners = _jobs(sources)
    reports = run_in_order(
        check_image,
        jobs,
        workers=processes,
        title=name,
        progress=progress and bool(jobs),
        unit="image",
    )
    for report, own in zip(reports, owners, strict=True):
        findings += report.findings
        for source, seen in zip(own, report.seen, strict=True):
            source.seen |= seen
    for source in sources:
        findings += source.findings
    findings += _stray_files(sources)
    for source in sources:
        findings += source.absent_classes()
    return findings, reports


def _sources(metadata: Mapping[str, Any], *, polygons_only: bool) -> list[Source]:
    """All kinds of truth that the metadata names and whose files are there."""
    if metadata.get("evaluator_type") in KINDS:
        return _cityscapes_sources(metadata)
    sources = []
    if usable(metadata, "json_file", "image_root"):
        sources.append(instance_source(metadata, polygons_only=polygons_only))
    if usable(metadata, "panoptic_json", "panoptic_root", "image_root"):
        sources.append(panoptic_source(metadata))
    if usable(metadata, "sem_seg_root", "image_root"):
        named = {path for source in sources for path in source.truths}
        sources.append(semantic_source(metadata, named if sources else None))
    return sources


def _cityscapes_sources(metadata: Mapping[str, Any]) -> list[Source]:
    sources = []
    images = "image_dir" if metadata.get("image_dir") else "image_root"
    if usable(metadata, "gt_dir", images):
        sources.append(cityscapes_source(metadata))
    if usable(metadata, "panoptic_json", "panoptic_root", images):
        sources.append(cityscapes_panoptic(metadata))
    if usable(metadata, "sem_seg_root", images):
        sources.append(cityscapes_stuff(metadata))
    return sources


def _jobs(sources: Iterable[Source]) -> tuple[list[ImageJob], list[list[Source]]]:
    """One job for each image, and the sources of its truths."""
    owners: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        for path in source.truths:
            owners[path].append(source)
    jobs = [
        ImageJob(path, own[0].place, tuple(source.truths[path] for source in own))
        for path, own in owners.items()
    ]
    return jobs, list(owners.values())


def _stray_files(sources: Sequence[Source]) -> list[Finding]:
    """Notes on files beside the named ones that nothing names."""
    named = {path for s in sources for path in (*s.truths, *s.truth_files)}
    told = named | {finding.file for source in sources for finding in source.findings}
    findings = []
    for folder in sorted({os.path.dirname(path) for path in named}):
        if not os.path.isdir(folder):
            continue
        with os.scandir(folder) as entries:
            files = sorted(entry.path for entry in entries if entry.is_file())
        findings += [
            note("file that nothing names", path, "is not used", "an annotation that names it")
            for path in files
            if path not in told and not os.path.basename(path).startswith(".")
        ]
    return findings


def _roles(cfg: Any) -> dict[str, frozenset[str]]:
    uses: dict[str, set[str]] = defaultdict(set)
    for role, names in (("training", cfg.DATASETS.TRAIN), ("evaluation", cfg.DATASETS.TEST)):
        for name in names:
            uses[name].add(role)
    return {name: frozenset(roles) for name, roles in uses.items()}

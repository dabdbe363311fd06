"""Everything about one image in one go, so that it is read once: the work of a process."""

from __future__ import annotations

from dataclasses import dataclass

from freqfusion.data.validation.finding import Finding
from freqfusion.data.validation.pictures import digest, mode_findings, read_picture
from freqfusion.data.validation.source import Truth


@dataclass(frozen=True, slots=True)
class ImageJob:
    """An image with its truths."""

    path: str
    named_by: str
    truths: tuple[Truth, ...]


@dataclass(frozen=True, slots=True)
class ImageReport:
    """Findings, the classes that occur in each truth, and a fingerprint (None: unreadable)."""

    path: str
    digest: bytes | None
    findings: tuple[Finding, ...]
    seen: tuple[frozenset[int], ...]


def check_image(job: ImageJob) -> ImageReport:
    """Read the image and check its truths."""
    image = read_picture(job.path, job.named_by)
    if isinstance(image, Finding):
        picture, mark, findings = None, None, [image]
    else:
        picture, mark, findings = image, digest(image), mode_findings(image)
    outcomes = [truth.check(picture) for truth in job.truths]
    for result in outcomes:
        findings += result.findings
    return ImageReport(job.path, mark, tuple(findings), tuple(r.seen for r in outcomes))

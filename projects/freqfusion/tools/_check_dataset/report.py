"""Findings as text, grouped by kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from freqfusion.data.validation import ERROR, NOTE, Finding, Report


def severity_counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many errors and notes there are."""
    counts = {ERROR: 0, NOTE: 0}
    for finding in findings:
        counts[finding.severity] += 1
    return counts


def render(report: Report, limit: int) -> str:
    """Errors before notes, ``limit`` messages of each kind, and a summary as the last line."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for severity in (ERROR, NOTE):
        for finding in report.findings:
            if finding.severity == severity:
                groups[severity, finding.kind].append(finding)
    lines = []
    for (severity, kind), findings in groups.items():
        lines.append(f"{severity}: {kind} ({len(findings)})")
        lines += [f"  {finding.sentence()}" for finding in findings[:limit]]
        if len(findings) > limit:
            lines.append(f"  ... and {len(findings) - limit} more")
    return "\n".join([*lines, summary(report)])


def summary(report: Report) -> str:
    """Counts and speed in one line."""
    counts = severity_counts(report.findings)
    speed = report.images / report.seconds if report.seconds else 0.0
    return (
        f"{', '.join(report.datasets)}: {_count(counts[ERROR], 'error')},"
        f" {_count(counts[NOTE], 'note')}; {_count(report.images, 'image')} in"
        f" {report.seconds:.1f} s ({speed:.0f} images/s)"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"

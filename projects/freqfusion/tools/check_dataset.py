"""Find what is wrong with a data set: ``python -m freqfusion.tools.check_dataset NAME``.

Names are those of Detectron2's catalogue; ``--config-file`` checks the data sets of a configuration
and whether they fit it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from freqfusion.data.validation.datasets import DatasetReport, check_datasets
from freqfusion.data.validation.issues import ERROR, NOTE, DatasetIssue
from freqfusion.files import add_unsafe_config
from freqfusion.tools._arguments import parse, write_json

_MOST_MESSAGES = 20  # of each kind


def main(arguments: Sequence[str] | None = None) -> int:
    """Check data sets and return the exit code: 0, 1 for errors in the data, 2 for a wrong call."""
    options = parse(_parser(), arguments)
    try:
        if options.json and not options.json.parent.is_dir():
            raise ValueError(f"there is no folder {options.json.parent} to write the report to")
        cfg = _load(options.config_file, unsafe=options.allow_unsafe_config)
        names = options.names or _names_of(cfg)
        report = check_datasets(names, cfg, workers=options.workers)
        if options.json:
            _write(options.json, report)
    except ImportError as error:
        print(
            f"check_dataset: {error}; python -m freqfusion.tools.doctor says how to install it",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, RuntimeError) as error:
        print(f"check_dataset: {error}", file=sys.stderr)
        return 2
    print(render(report))
    return 1 if _severity_counts(report)[ERROR] else 0


def render(report: DatasetReport) -> str:
    """Return errors before notes, the first messages of each kind, and a summary as last line."""
    groups: dict[tuple[str, str], list[DatasetIssue]] = defaultdict(list)
    for issue in sorted(report.issues, key=lambda issue: issue.severity != ERROR):
        groups[issue.severity, issue.kind].append(issue)
    lines = []
    for (severity, kind), issues in groups.items():
        lines.append(f"{severity}: {kind} ({len(issues)})")
        lines += [f"  {issue.sentence()}" for issue in issues[:_MOST_MESSAGES]]
        if len(issues) > _MOST_MESSAGES:
            lines.append(f"  ... and {len(issues) - _MOST_MESSAGES} more; --json writes all")
    counts = _severity_counts(report)
    summary = (
        f"{', '.join(report.datasets)}: {_count(counts[ERROR], 'error')},"
        f" {_count(counts[NOTE], 'note')}; {_count(report.images, 'image')} in"
        f" {report.seconds:.1f} s"
    )
    return "\n".join([*lines, summary])


def _severity_counts(report: DatasetReport) -> dict[str, int]:
    severities = [issue.severity for issue in report.issues]
    return {severity: severities.count(severity) for severity in (ERROR, NOTE)}


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _load(words: list[str] | None, *, unsafe: bool) -> Any:
    """Return the configuration of ``YAML [KEY VALUE ...]``, with all data sets registered."""
    from freqfusion.data.registration import register_datasets

    if not words:
        register_datasets()
        return None
    from freqfusion.engine.setup import load_config

    path, *overrides = words
    cfg = load_config(path, overrides, unsafe=unsafe)
    register_datasets(cfg.DATASETS.DECLARED)
    return cfg


def _names_of(cfg: Any) -> list[str]:
    if cfg is None:
        raise ValueError("name a data set, or a configuration with --config-file")
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ValueError("the configuration names no data set; set DATASETS.TRAIN or DATASETS.TEST")
    return names


def _write(path: Path, report: DatasetReport) -> None:
    counts = _severity_counts(report)
    content = {
        "datasets": report.datasets,
        "images": report.images,
        "seconds": round(report.seconds, 3),
        **{f"{severity}s": count for severity, count in counts.items()},
        "findings": [asdict(issue) for issue in report.issues],
    }
    write_json(path, content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.check_dataset",
        description="Look for missing, broken and contradictory files of data sets.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="registered data sets")
    fit = "configuration that they must fit; without names, its data sets are checked"
    add("--config-file", nargs="+", metavar=("YAML", "KEY VALUE"), help=fit)
    add_unsafe_config(parser)
    add("--json", type=Path, metavar="FILE", help="write all issues to a file")
    add("--workers", type=int, metavar="K", help="processes; not given: one a processor")
    return parser


if __name__ == "__main__":
    sys.exit(main())

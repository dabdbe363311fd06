"""The categories of a JSON file against those of the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from freqfusion.data.validation.finding import Finding, error
from freqfusion.data.validation.index import Index

_KIND = "categories that differ"
# Detectron2's metadata leaves these parts of COCO's names out.
_LEFT_OUT = ("-other", "-merged")


def expected_categories(metadata: Mapping[str, Any], kinds: Sequence[str]) -> dict[int, str] | None:
    """Name of each category id; None where the metadata has no ids.

    Args:
        metadata: Detectron2's.
        kinds: "thing", "stuff", or both; a thing that is in both maps has its thing name.
    """
    names: dict[int, str] = {}
    for kind in reversed(kinds):
        labels = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
        if labels is None:
            return None
        classes = metadata.get(f"{kind}_classes", ())
        separated = kind == "stuff" and labels.get(0) == 0 and list(classes[:1]) == ["things"]
        names |= {
            number: classes[label] if label < len(classes) else ""
            for number, label in labels.items()
            # The class of all things is no category of the JSON.
            if not (separated and number == 0)
        }
    return names


def category_findings(
    index: Index, metadata: Mapping[str, Any], kinds: Sequence[str]
) -> list[Finding]:
    """Errors where ids, names, or what is a thing differ from the metadata."""
    expected = expected_categories(metadata, kinds)
    if expected is None:
        return []
    findings = []
    for number, entry in index.categories.items():
        if number not in expected:
            found = f"has the category {number} ({entry['name']!r})"
            findings.append(error(_KIND, index.file, found, "one that the metadata knows"))
        elif not _same_name(str(entry["name"]), expected[number]):
            found = f"calls category {number} {entry['name']!r}"
            wanted = f"{expected[number]!r} as in the metadata"
            findings.append(error(_KIND, index.file, found, wanted))
    for number, name in expected.items():
        if number not in index.categories:
            found = f"has no category {number}"
            findings.append(error(_KIND, index.file, found, f"{name!r} as in the metadata"))
    return findings + (_thing_findings(index, metadata) if "stuff" in kinds else [])


def _thing_findings(index: Index, metadata: Mapping[str, Any]) -> list[Finding]:
    things = metadata["thing_dataset_id_to_contiguous_id"]
    return [
        error(
            _KIND,
            index.file,
            f"category {number} ({entry['name']!r}) has isthing {entry.get('isthing')!r}",
            f"{int(number in things)} as in the metadata",
        )
        for number, entry in index.categories.items()
        if entry.get("isthing") != int(number in things)
    ]


def _same_name(name: str, expected: str) -> bool:
    if not expected or name == expected:
        return True
    for part in _LEFT_OUT:
        name = name.replace(part, "")
    return name == expected

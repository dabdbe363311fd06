"""Registered data sets and their metadata."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any


def metadata_of(name: str) -> dict[str, Any]:
    """The metadata of a registered data set; ValueError, with names like it, for another."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    known = DatasetCatalog.list()
    if name not in known:
        similar = get_close_matches(name, known, n=3, cutoff=0.5)
        advice = (
            f"did you mean {' or '.join(similar)}?"
            if similar
            else "register it first (see freqfusion.data.registration)"
        )
        raise ValueError(f"no data set is registered as {name!r}; {advice}")
    return dict(MetadataCatalog.get(name).as_dict())

"""Check data sets: what is missing, broken or contradictory in the files and the metadata.

``check_classes`` and ``check_files_exist`` are quick, for the moment before training;
``check_dataset`` and ``check_datasets`` read every file once. The mapper and the loader of an
evaluation check each image by the same functions (``annotations``, ``ground_truth``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from freqfusion.data import load_lazily
from freqfusion.data.validation.classes import check_classes, check_files_exist
from freqfusion.data.validation.issues import ERROR, NOTE, DatasetIssue

if TYPE_CHECKING:
    from freqfusion.data.validation.datasets import DatasetReport, check_dataset, check_datasets

__all__ = [
    "ERROR",
    "NOTE",
    "DatasetIssue",
    "DatasetReport",
    "check_classes",
    "check_dataset",
    "check_datasets",
    "check_files_exist",
]

# Loaded at their first use, since training needs the quick checks and those of an image alone.
__getattr__ = load_lazily(
    __name__,
    {
        "DatasetReport": "datasets",
        "check_dataset": "datasets",
        "check_datasets": "datasets",
    },
)

"""Check data sets: what is missing, broken or contradictory in the files and the metadata.

``check_classes`` and ``check_files_exist`` are quick, for the moment before training;
``check_dataset`` and ``check_datasets`` read every file once. The mapper and the loader of an
evaluation check each image by the same functions (``annotations``, ``ground_truth``).
"""

from freqfusion.data.validation.classes import check_classes, check_files_exist
from freqfusion.data.validation.datasets import DatasetReport, check_dataset, check_datasets
from freqfusion.data.validation.issues import ERROR, NOTE, DatasetIssue

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

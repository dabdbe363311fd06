"""Checks of data sets: what is missing, broken or contradictory in the files and the metadata.

``check_classes`` and ``check_files_exist`` are quick, for the moment before training;
``check_dataset`` and ``check_datasets`` read every file once.
"""

from freqfusion.data.validation.classes import check_classes
from freqfusion.data.validation.existence import check_files_exist
from freqfusion.data.validation.finding import ERROR, NOTE, Finding
from freqfusion.data.validation.validate import Report, check_dataset, check_datasets

__all__ = [
    "ERROR",
    "NOTE",
    "Finding",
    "Report",
    "check_classes",
    "check_dataset",
    "check_datasets",
    "check_files_exist",
]

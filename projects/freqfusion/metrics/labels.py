"""Checks of label maps that the streaming metrics share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.integer[Any]]


def check_num_classes(num_classes: int, ignore_label: int | None) -> None:
    """ValueError unless there is a class, and the ignored label is not one of the classes."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    if ignore_label is not None and 0 <= ignore_label < num_classes:
        raise ValueError(
            f"ignore_label {ignore_label} is one of the {num_classes} classes 0..{num_classes - 1};"
            " give a label outside of them, or None"
        )


def check_label_maps(
    prediction: LabelArray, target: LabelArray, num_classes: int, ignore_label: int | None
) -> NDArray[np.bool_]:
    """Mask of the pixels that count; ValueError for labels that are neither a class nor ignored.

    The prediction is free where the target is ignored.
    """
    for name, labels in (("prediction", prediction), ("target", target)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"the {name} must hold integer labels, not {labels.dtype}")
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in shape;"
            " resize the prediction to the target first"
        )
    if ignore_label is None:
        counts = np.ones(target.shape, dtype=np.bool_)
    else:
        counts = target != ignore_label
    for name, labels in (("prediction", prediction), ("target", target)):
        wrong = counts & ((labels < 0) | (labels >= num_classes))
        if wrong.any():
            found = ", ".join(str(label) for label in np.unique(labels[wrong])[:8])
            ignored = "" if ignore_label is None else f", or {ignore_label} (ignored) in the target"
            raise ValueError(
                f"unexpected label {found} in the {name}: allowed are 0..{num_classes - 1}"
                f"{ignored}; map the labels first, or set num_classes and ignore_label to fit"
            )
    return counts

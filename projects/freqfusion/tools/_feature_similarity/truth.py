"""The label of each pixel of an image of a data set, with names and colours of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from freqfusion.drawing import VOID, Classes, LabelMap, PanopticMap

LabelSource = Literal["semantic", "panoptic"]


def true_labels(
    entry: Mapping[str, Any], metadata: Any, size: tuple[int, int], source: LabelSource | None
) -> LabelMap:
    """Labels of an image of ``size`` (height, width); -1 is void.

    ``"semantic"`` are the data set's semantic labels, or those of its panoptic truth where it has
    one label space; ``"panoptic"`` the categories of its segments, the things first, and
    crowds void; None takes the first that there is.

    Raises:
        ValueError: if there is no such truth, or it is not of the image's size.
    """
    from freqfusion.evaluation.pictures import truth_content

    content = truth_content(entry, metadata, size)
    found = content.semantic if source != "panoptic" else None
    if found is None and source != "semantic" and content.panoptic is not None:
        found = categories(content.panoptic, metadata)
    if found is None:
        raise ValueError(
            f"{entry.get('file_name', 'the image')} has no {source or 'semantic or panoptic'}"
            " truth, by which features are compared; take a data set that has"
        )
    if found.labels.shape != size:
        raise ValueError(
            f"{entry.get('file_name', 'the image')} is {size[0]} x {size[1]} (height x width), but"
            f" its truth is {found.labels.shape[0]} x {found.labels.shape[1]}"
        )
    return found


def categories(panoptic: PanopticMap, metadata: Any) -> LabelMap:
    """The category of each pixel's segment, the things before the stuff; crowds are void."""
    classes = Classes(metadata)
    labels = np.full(panoptic.ids.shape, VOID, dtype=np.int64)
    for segment in panoptic.segments:
        if not segment.is_crowd:
            labels[panoptic.ids == segment.id] = segment.category
    names = (*classes.things, *classes.stuff)
    return LabelMap(labels, names, (*classes.thing_colors, *classes.stuff_colors))

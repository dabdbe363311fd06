"""Detectron2's box and mask AP, also where things and stuff share one label space."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator


class InstanceEvaluator(COCOEvaluator):
    """``COCOEvaluator`` whose class names are those of the things.

    Metadata of one label space lists things and stuff as ``thing_classes``, while the categories of
    the instances are the things alone, which come first.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        *,
        output_dir: str | None = None,
        keypoint_sigmas: Sequence[float] = (),
    ) -> None:
        super().__init__(dataset_name, tasks, output_dir=output_dir, kpt_oks_sigmas=keypoint_sigmas)
        self._metadata: Any = of_things(MetadataCatalog.get(dataset_name))
        self._left_out: frozenset[Any] = frozenset()

    def leave_out(self, image_ids: Collection[Any]) -> None:
        """Score the other images only: without a prediction all objects would count as missed."""
        self._left_out = frozenset(image_ids)

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> Any:
        """The scores of all images but those left out, or of the images given."""
        if img_ids is None and self._left_out:
            img_ids = [n for n in self._coco_api.getImgIds() if n not in self._left_out]
        return super().evaluate(img_ids=img_ids)


def of_things(metadata: Any) -> Any:
    """The same metadata, or a copy whose ``thing_classes`` are the things only."""
    names = metadata.get("thing_classes")
    numbers = metadata.get("thing_dataset_id_to_contiguous_id")
    if names is None or numbers is None or len(names) == len(numbers):
        return metadata
    things = [names[number] for number in sorted(numbers.values())]
    return Metadata(**(metadata.as_dict() | {"thing_classes": things}))

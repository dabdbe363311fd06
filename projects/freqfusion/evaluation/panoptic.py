"""Panoptic quality as a Detectron2 evaluator, without panopticapi."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.dataset_dicts import read_json
from freqfusion.data.reading import read_panoptic_png
from freqfusion.evaluation.streaming import (
    StreamingEvaluator,
    check_sizes,
    image_name,
    summed,
)
from freqfusion.files import write_whole
from freqfusion.metrics import PanopticQuality, PanopticResult, id_to_rgb, panoptic_table

logger = logging.getLogger(__name__)

IdMap = NDArray[np.integer[Any]]
_SUFFIXES = {"All": "", "Things": "_th", "Stuff": "_st"}


class PanopticEvaluator(StreamingEvaluator):
    """PQ, SQ and RQ of all categories, of things (``_th``) and of stuff (``_st``), in percent.

    PQ of each category is ``PQ-<name>``.

    The ground truth is read from ``panoptic_json`` and ``panoptic_root`` of the metadata, and a
    prediction is compared with it when it comes. The categories, and which of them are things, are
    those of the JSON. A group without segments is nan. With ``output_dir``, the scores of each
    category are written to ``<dataset>_panoptic_seg.json``; with ``write_predictions`` too, the
    predictions in COCO's format to ``<dataset>_panoptic_predictions.json`` and the PNG files of the
    folder of that name. A JSON without annotations, as for a test set, has no scores then.

    The model's ``panoptic_seg`` is (height x width map of ids, segments): void is id 0, and a
    segment has ``id`` and ``category_id``, a contiguous id where it also has ``isthing`` and the
    data set's own otherwise. Segments None stands for a map of
    ``contiguous category * label_divisor + instance`` whose void is -1, as of Panoptic-DeepLab.
    """

    output_key = result_key = "panoptic_seg"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        write_predictions: bool = False,
    ) -> None:
        id_maps = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
        super().__init__(dataset_name, output_dir, ("panoptic_json", "panoptic_root", *id_maps))
        self._things, self._stuff = (
            {label: number for number, label in self.metadata.get(name).items()} for name in id_maps
        )
        self._folder: Path | None = None
        if write_predictions:
            if output_dir is None:
                raise ValueError("predictions are written to output_dir, which is None")
            self._folder = Path(output_dir) / f"{dataset_name}_panoptic_predictions"
        needed = ("categories",) if write_predictions else ("categories", "annotations")
        content = _read_ground_truth(self.metadata.panoptic_json, needed)
        self._categories, self._listed = content["categories"], content.get("images", [])
        self._gt = {entry["image_id"]: entry for entry in content.get("annotations", ())}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.quality = PanopticQuality(self._categories)
        self._images: set[Any] = set()
        self._predictions: list[dict[str, Any]] = []

    def count(self, image: Mapping[str, Any], output: Any) -> None:
        """Compare one ``panoptic_seg`` with its ground truth."""
        name = image_name(image)
        number = image.get("image_id")
        if number in self._images:
            raise ValueError(f"{name}: image_id {number!r} came twice; reset() begins a new round")
        if self._gt and number not in self._gt:
            raise ValueError(f"{name}: image_id {number!r} is not in {self.metadata.panoptic_json}")
        ids, segments = self._prediction(output, name)
        if self._gt:
            self._compare(name, ids, segments, self._gt[number])
        if self._folder is not None:
            self._write(self._folder / f"{Path(name).stem}.png", number, ids, segments)
        self._images.add(number)

    def _compare(
        self, name: str, ids: IdMap, segments: list[dict[str, Any]], gt: Mapping[str, Any]
    ) -> None:
        path = Path(self.metadata.panoptic_root) / gt["file_name"]
        gt_ids = read_panoptic_png(path)
        check_sizes(name, ids.shape, gt_ids.shape, path)
        self.quality.update(ids, segments, gt_ids, gt["segments_info"], image=name)

    def scores(self) -> dict[str, float] | None:
        """Return PQ, SQ, RQ of the three groups and PQ of categories, over all processes."""
        images, predictions = comm.gather(self._images), comm.gather(self._predictions)
        quality = summed(self.quality)
        if quality is None:
            return None
        if self._folder is not None:
            self._write_index(self._folder, [one for part in predictions for one in part])
            if not self._gt:
                return {}
        self._warn_of_coverage(images)
        result = quality.result()
        logger.info("panoptic quality on %s:\n%s", self.dataset_name, panoptic_table(result))
        scores = panoptic_scores(result)
        classes = [asdict(score) for score in result.classes]
        self.save({"percent": scores, "classes": classes})
        return scores

    def _write(
        self, path: Path, number: Any, ids: IdMap, segments: Iterable[Mapping[str, Any]]
    ) -> None:
        """Write the map of an image, and keep its segments for the index."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(id_to_rgb(ids)).save(path)
        infos = [{"id": int(s["id"]), "category_id": s["category_id"]} for s in segments]
        entry = {"image_id": number, "file_name": path.name, "segments_info": infos}
        self._predictions.append(entry)

    def _write_index(self, folder: Path, predictions: list[dict[str, Any]]) -> None:
        content = {
            "images": self._listed,
            "annotations": sorted(predictions, key=lambda one: str(one["file_name"])),
            "categories": self._categories,
        }
        write_whole(folder.with_suffix(".json"), json.dumps(content) + "\n")
        logger.info("wrote %d predictions to %s.json", len(predictions), folder)

    def _prediction(self, output: Any, name: str) -> tuple[IdMap, list[dict[str, Any]]]:
        """Return ids with void 0, and segments with the data set's categories."""
        id_map, infos = output
        ids: IdMap = id_map.cpu().numpy() if hasattr(id_map, "cpu") else np.asarray(id_map)
        if infos is None:
            ids, infos = segments_of_labels(ids, self.metadata, f"{name}: ")
        return ids, [dict(info, category_id=self._category(info, name)) for info in infos]

    def _category(self, info: Mapping[str, Any], name: str) -> int:
        """Return the data set's id of a segment's category."""
        category = info["category_id"]
        if info.get("isthing") is None:
            return int(category)
        kind, known = ("thing", self._things) if info["isthing"] else ("stuff", self._stuff)
        if category not in known:
            raise ValueError(
                f"{name}: segment {info['id']} of the prediction has the {kind} category"
                f" {category}, but {self.dataset_name} has {min(known)}..{max(known)}; does the"
                " model's number of classes fit?"
            )
        return int(known[category])

    def _warn_of_coverage(self, images: Iterable[set[Any]]) -> None:
        seen = set().union(*images)
        if len(seen) < len(self._gt):
            logger.warning(
                "%d of the %d images of %s were evaluated; the scores are theirs",
                *(len(seen), len(self._gt), self.dataset_name),
            )


def segments_of_labels(
    labels: IdMap, metadata: Any, where: str = ""
) -> tuple[IdMap, list[dict[str, Any]]]:
    """Return ids and segments of a map of category * label_divisor + instance, whose void is -1.

    The ids are a new array with void 0, since a model's output belongs to other evaluators too.
    """
    divisor = metadata.get("label_divisor")
    if not divisor:
        raise ValueError(
            f"{where}a panoptic_seg without segments needs label_divisor in the metadata"
        )
    things = (metadata.get("thing_dataset_id_to_contiguous_id") or {}).values()
    segments = [
        {"id": label + 1, "category_id": label // divisor, "isthing": label // divisor in things}
        for label in np.unique(labels).tolist()
        if label >= 0
    ]
    return labels + 1, segments


def panoptic_scores(result: PanopticResult) -> dict[str, float]:
    """Return ``PQ``, ``SQ_th``, ... of the groups and ``PQ-<name>`` of categories, in percent."""
    groups = {
        f"{score.upper()}{suffix}": 100 * getattr(result.groups[group], score)
        for group, suffix in _SUFFIXES.items()
        for score in ("pq", "sq", "rq")
    }
    return groups | {f"PQ-{score.name}": 100 * score.pq for score in result.classes}


def _read_ground_truth(path: str, needed: Sequence[str]) -> dict[str, Any]:
    content = read_json(path)
    missing = [name for name in needed if not content.get(name)]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}; is it COCO's panoptic JSON?")
    return content

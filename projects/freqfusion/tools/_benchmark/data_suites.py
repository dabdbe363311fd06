"""Counting panoptic quality, and reading an image with its truth: against plainer ways."""

import atexit
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqfusion.tools._benchmark.oracle import load_oracle
from freqfusion.tools._benchmark.suite import Call, Size

_CATEGORIES = 20


def panoptic_quality(size: Size, *, ours: bool) -> Call:
    """The counts of one image with about forty segments on either side.

    Segments are the pixels nearest to random places; the prediction's have been moved a little.
    """
    from freqfusion.metrics import PanopticQuality

    generator = np.random.default_rng(0)
    height, width = size.image
    places = generator.random((40, 2)) * (height, width)
    truth = _nearest(places, height, width)
    prediction = _nearest(places + 0.02 * height * generator.normal(size=(40, 2)), height, width)
    categories = [{"id": at, "isthing": int(at > 8)} for at in range(_CATEGORIES)]
    segments = [
        [{"id": int(at), "category_id": int(at) % _CATEGORIES} for at in np.unique(ids)]
        for ids in (prediction, truth)
    ]
    loop = None if ours else load_oracle("panoptic").count_by_masks

    def call() -> tuple[torch.Tensor, ...]:
        if loop is not None:
            found = loop([(prediction, segments[0], truth, segments[1])])
            table = [found.get(category["id"], [0] * 4) for category in categories]
            return tuple(torch.tensor(table, dtype=torch.float64).unbind(1))
        quality = PanopticQuality(categories)
        quality.update(prediction, segments[0], truth, segments[1])
        counted = (quality.tp, quality.fp, quality.fn, quality.iou_sum)
        return tuple(torch.from_numpy(count.astype(float)) for count in counted)

    return call


def mapping(size: Size, *, ours: bool) -> Call:
    """Read, flip or not, and resize a generated image with its labels and instances."""
    from detectron2.data import DatasetMapper

    from freqfusion import get_freqfusion_cfg
    from freqfusion.data.mapper import SegmentationMapper

    cfg = get_freqfusion_cfg()
    length = min(size.image)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (length,), max(size.image)
    cfg.MODEL.MASK_ON = True
    record = _scene(size.image)
    mapper = (SegmentationMapper if ours else DatasetMapper)(cfg, is_train=True)

    def call() -> tuple[torch.Tensor, ...]:
        np.random.seed(0)
        result = mapper(record)
        boxes = result["instances"].gt_boxes.tensor
        return result["image"].float(), result["sem_seg"].float(), boxes

    return call


def _nearest(places: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Ids, from 1, of the nearest place to each pixel, int32."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    best, ids = np.full((height, width), np.inf, np.float32), np.zeros((height, width), np.int32)
    for at, (row, column) in enumerate(places.astype(np.float32), start=1):
        distance = (y - row) ** 2 + (x - column) ** 2
        nearer = distance < best
        best[nearer], ids[nearer] = distance[nearer], at
    return ids


def _scene(size: tuple[int, int]) -> dict[str, Any]:
    """The dict of one generated image of ``size``; its files are removed when Python ends."""
    from detectron2.data.datasets import load_coco_json

    from freqfusion.data.synthetic import write_coco

    folder = tempfile.TemporaryDirectory(prefix="freqfusion-benchmark-")
    atexit.register(folder.cleanup)
    root = Path(folder.name) / "scenes"
    write_coco(root, num_train=1, num_val=0, size=size, progress=False, workers=1)
    annotations = root / "annotations" / "instances_train.json"
    record: dict[str, Any] = load_coco_json(str(annotations), str(root / "train"))[0]
    labels = root / "panoptic_semseg_train" / Path(record["file_name"]).with_suffix(".png").name
    return {**record, "sem_seg_file_name": str(labels)}

"""Test-time augmentation: several sizes of an image, mirrored too, and one result of them all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import pycocotools.mask as rle
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.modeling.mask2former import Mask2Former
from freqfusion.modeling.mask2former.structures import at_least_float32

logger = logging.getLogger(__name__)

SemanticScores = Literal["logits", "scores"]
PanopticMap = tuple[Tensor, Sequence[Mapping[str, Any]]]
_SWITCH_OFF = "set TEST.AUG.ENABLED False"
_MIN_OVERLAP = 0.5  # objects of different views with a larger IoU can be one
# Ground truth has the size of the image that came, not that of a view.
_GROUND_TRUTH = ("instances", "sem_seg", "pan_seg", "segments_info")


class TestTimeAugmentation(nn.Module):
    """A model in evaluation, called like it, whose results are merged from several views.

    Each image is shown in several sizes, and each size also mirrored, one view at a time. What the
    model gives is turned back and merged: ``sem_seg`` to the mean of the probabilities, or of what
    the queries of a ``Mask2Former`` vote for, which is no probability; ``instances`` and
    ``panoptic_seg`` by ``merge_instances`` and ``merge_panoptic``. One view is returned as it is.

    Args:
        cfg: Sizes and whether to mirror from ``TEST.AUG``, ``TEST.DETECTIONS_PER_IMAGE``, and the
            order of the channels from ``INPUT.FORMAT``.
        model: Gives a list of dicts for a list of dicts with ``image``; taken out of
            ``DistributedDataParallel``, since processes can have different numbers of views.
    """

    # The name begins like those of test classes, and pytest would collect it.
    __test__ = False

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        super().__init__()
        self.min_sizes, self.max_size = tuple(cfg.TEST.AUG.MIN_SIZES), cfg.TEST.AUG.MAX_SIZE
        if not self.min_sizes or min(*self.min_sizes, self.max_size) < 1:
            sizes = f"{list(self.min_sizes)} and {self.max_size}"
            raise ValueError(f"TEST.AUG.MIN_SIZES and MAX_SIZE must be positive, got {sizes}")
        self.flip, self.image_format = cfg.TEST.AUG.FLIP, cfg.INPUT.FORMAT
        self.topk = cfg.TEST.DETECTIONS_PER_IMAGE
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.semantic = semantic_kind(model)
        self._warned = False
        # Otherwise whoever puts the wrapper back into its mode would change that of the model.
        self.training = self.model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a dict of results for each image."""
        if self.training:
            raise RuntimeError(
                "test-time augmentation is for predictions only: call eval() first, and train the"
                " model inside it (.model)"
            )
        return [self._merged(given) for given in batched_inputs]

    def _merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        views = self._views(given)
        if len(views) == 1:
            return self.model([views[0][0]])[0]  # type: ignore[no-any-return]
        found: dict[str, list[Any]] = {}
        for inputs, flipped in views:
            for name, value in self.model([inputs])[0].items():
                values = found.setdefault(name, [])
                values.append(self._turned(name, value, flipped))
                if name == "sem_seg":  # maps of many classes are large: only their sum is kept
                    values[:] = [sum(values)]
        mergers: dict[str, Callable[[list[Any]], Any]] = {
            "sem_seg": lambda total: total[0] / len(views),
            "instances": partial(merge_instances, topk=self.topk),
            "panoptic_seg": merge_panoptic,
        }
        return {name: mergers[name](values) for name, values in found.items()}

    def _turned(self, name: str, value: Any, flipped: bool) -> Any:
        """Return a result of a view in the frame of the image, as it is merged."""
        if name == "sem_seg":
            scores = at_least_float32(value)
            if self.semantic == "logits":
                # A mean of logits lets one view that is sure of something wrong outvote the others.
                scores = scores.softmax(dim=0)
            return scores.flip(-1) if flipped else scores
        if name == "instances":
            return turn_instances(value, flipped=flipped)
        if name == "panoptic_seg" and value[1] is not None:
            return value[0].flip(-1) if flipped else value[0], value[1]
        raise ValueError(
            "test-time augmentation merges sem_seg, instances, and panoptic_seg with segments; the"
            f" model gives {name}: {_SWITCH_OFF}"
        )

    def _views(self, given: Mapping[str, Any]) -> list[tuple[dict[str, Any], bool]]:
        """Return the model's inputs, each size once, and whether they are mirrored."""
        if "proposals" in given:
            raise ValueError(f"test-time augmentation cannot turn proposals: {_SWITCH_OFF}")
        image, source = given["image"], self._source(given)
        common = {"height": image.shape[-2], "width": image.shape[-1]}
        common |= {name: value for name, value in given.items() if name not in _GROUND_TRUTH}
        shapes = (
            ResizeShortestEdge.get_output_shape(*source.shape[:2], size, self.max_size)
            for size in self.min_sizes
        )
        views = []
        for size in dict.fromkeys((max(1, rows), max(1, columns)) for rows, columns in shapes):
            view = torch.tensor(_resized(source, size)).permute(2, 0, 1).contiguous().to(image)
            views.append(({**common, "image": view}, False))
            if self.flip:
                views.append(({**common, "image": view.flip(-1)}, True))
        return views

    def _source(self, given: Mapping[str, Any]) -> NDArray[Any]:
        """Return the image (height, width, channels) that views are resized from.

        That is the file at its full size, which has detail that is gone from ``image``, but only if
        it gives ``image`` to the last bit when it is resized: so nothing that was cropped, changed
        or replaced on its way is shown to the model. Otherwise it is ``image``.
        """
        image, name = _as_array(given["image"]), given.get("file_name")
        if not name:
            return image
        try:
            file = np.ascontiguousarray(read_image(name, format=self.image_format))
            if file.dtype == np.uint8 and np.array_equal(_resized(file, image.shape[:2]), image):
                return file
            reason = f"{name} in {self.image_format} is not the image that the model is given"
        except (OSError, ValueError) as error:
            reason = f"{name} cannot be read ({error})"
        if not self._warned:
            self._warned = True
            logger.warning("%s: views are made from the resized image (warned once)", reason)
        return image


def semantic_kind(model: nn.Module) -> SemanticScores:
    """Return what ``sem_seg`` holds: logits in all of Detectron2's models, not in Mask2Former."""
    scoring = any(isinstance(module, Mask2Former) for module in model.modules())
    return "scores" if scoring else "logits"


def _as_array(image: Tensor) -> NDArray[Any]:
    """Return (H, W, C); whole values from 0 to 255 as bytes, which are resized better."""
    array: NDArray[Any] = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    if array.size and array.min() >= 0 and array.max() <= 255:
        as_bytes = array.astype(np.uint8)
        if np.array_equal(as_bytes, array):
            return as_bytes
    return array.astype(np.float32)


def _resized(image: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    transform = ResizeTransform(*image.shape[:2], *size)
    return transform.apply_image(image)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Detection:
    """An object of one view; ``shape`` is an RLE mask, or a box as (x, y, width, height)."""

    view: int
    index: int
    label: int
    score: Any
    shape: Any

    @cached_property
    def area(self) -> int:
        """Return the number of pixels of the mask; -1 for boxes."""
        return int(rle.area(self.shape)) if isinstance(self.shape, dict) else -1

    def overlaps(self, others: Sequence[_Detection]) -> NDArray[np.float64]:
        """Return the IoU with each; that of two empty masks is 1."""
        if self.area == 0 or not others:
            return np.array([float(other.area == 0) for other in others])
        shapes = [other.shape for other in others]
        return np.asarray(rle.iou([self.shape], shapes, [0] * len(others))[0])


def _encoded(mask: Tensor) -> Any:
    """Return a mask (H, W) as RLE, so that those of many views fit into memory."""
    return rle.encode(np.asfortranarray(mask.to("cpu", torch.uint8).numpy()))


def _cluster(detections: Iterable[_Detection]) -> list[list[_Detection]]:
    """Group detections of one label that overlap, with at most one of each view.

    In the order that they come in, each joins the group whose first one it overlaps most, if that
    is more than one half, or begins one. Two objects of one view never meet: the model holds them
    apart, so that views that agree give back what they have.
    """
    groups: list[list[_Detection]] = []
    for item in detections:
        rivals = [
            group
            for group in groups
            if group[0].label == item.label and all(other.view != item.view for other in group)
        ]
        overlaps = item.overlaps([group[0] for group in rivals])
        if len(overlaps) and overlaps.max() > _MIN_OVERLAP:
            rivals[int(overlaps.argmax())].append(item)
        else:
            groups.append([item])
    return groups


def turn_instances(instances: Instances, *, flipped: bool) -> Instances:
    """Return the instances of a view in the frame of the image, ``pred_masks`` as a list of RLE.

    Boxes without an area, which published Mask2Former models give, stay as they are.
    """
    needed, fields = {"pred_boxes", "scores", "pred_classes"}, set(instances.get_fields())
    if fields - {"pred_masks"} != needed or instances.pred_boxes.tensor.shape[1] != 4:
        raise ValueError(
            "test-time augmentation merges instances with scores, pred_classes, upright pred_boxes"
            f" and maybe pred_masks; the model gives {', '.join(sorted(fields))}: {_SWITCH_OFF}"
        )
    turned = Instances(instances.image_size, **instances.get_fields())
    if flipped:
        x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(dim=1)
        width = instances.image_size[1]
        boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
        has_area = instances.pred_boxes.nonempty()[:, None]
        turned.pred_boxes = Boxes(boxes.where(has_area, instances.pred_boxes.tensor))
    if instances.has("pred_masks"):
        masks = instances.pred_masks.flip(-1) if flipped else instances.pred_masks
        turned.pred_masks = [_encoded(mask) for mask in masks]
    return turned


def merge_instances(views: Sequence[Instances], *, topk: int) -> Instances:
    """Merge what ``turn_instances`` gives for each view to the best ``topk``; all if that is < 0.

    Instances of one class whose masks overlap, or boxes where there are no masks, are one object,
    at most one from each view. Its score is the mean over all views, 0 for those that did not see
    it; its mask is where instances with more than half of the sum of its scores agree; its box is
    the mean, weighted by the scores.
    """
    first, has_masks = views[0], views[0].has("pred_masks")
    detections: list[_Detection] = []
    for view, found in enumerate(views):
        corners = found.pred_boxes.tensor.cpu().double().numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        shapes = found.pred_masks if has_masks else boxes
        rows = zip(found.pred_classes.tolist(), found.scores.tolist(), shapes, strict=True)
        detections += [_Detection(view, index, *row) for index, row in enumerate(rows)]
    groups = _cluster(sorted(detections, key=lambda item: -item.score))
    scored = [(sum(item.score for item in group) / len(views), group) for group in groups]
    scored = sorted(scored, key=lambda pair: -pair[0])[: topk if topk >= 0 else None]
    boxes = first.pred_boxes.tensor.new_zeros(len(scored), 4)
    masks = torch.zeros(len(scored), *first.image_size, dtype=torch.bool)
    for number, (_, group) in enumerate(scored):
        # A mask of score 0 counts where nothing else does.
        weights = [max(item.score, 1e-6) for item in group]
        corners = torch.stack([views[i.view].pred_boxes.tensor[i.index] for i in group])
        boxes[number] = corners.new_tensor(weights) @ corners / sum(weights)
        if has_masks:
            votes = sum(w * rle.decode(i.shape) for w, i in zip(weights, group, strict=True))
            masks[number] = torch.from_numpy(votes > sum(weights) / 2)
    values = {
        "pred_boxes": Boxes(boxes),
        "scores": first.scores.new_tensor([score for score, _ in scored]),
        "pred_classes": first.pred_classes.new_tensor([group[0].label for _, group in scored]),
        "pred_masks": masks.to(first.scores.device),
    }
    return Instances(first.image_size, **{name: values[name] for name in first.get_fields()})


def merge_panoptic(views: Sequence[PanopticMap]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merge the panoptic maps of views, in the frame of the image, to one by votes.

    Each view has one vote for each pixel: for a stuff class, for a thing, or for void. Things of
    one class whose masks overlap are one thing, at most one from each view. A thing takes part if
    at least half of the views see it; one of two is enough, since a segment raises the panoptic
    quality as soon as its chance to be right is above half of the recognition quality.

    A pixel goes to what has most of its votes. Where that is equal, things come before stuff and
    stuff before void; of two things the one that more views see, then the larger; of two classes of
    stuff the larger. A thing that wins less than half of its area is given up, and its pixels are
    voted on without it. Segments are numbered in the order in which they were first seen; a
    ``score`` that all segments of a thing have is averaged over all views.
    """
    things: list[_Detection] = []
    stuff: dict[int, list[_Detection]] = {}
    void: list[_Detection] = []
    for view, (ids, segments) in enumerate(views):
        for index, info in enumerate(segments):
            category, shape = int(info["category_id"]), _encoded(ids == info["id"])
            segment = _Detection(view, index, category, info.get("score"), shape)
            if not info["isthing"]:
                stuff.setdefault(category, []).append(segment)
            elif segment.area:
                things.append(segment)
        known = torch.tensor([info["id"] for info in segments], dtype=ids.dtype, device=ids.device)
        void.append(_Detection(view, 0, 0, None, _encoded(~torch.isin(ids, known))))
    clusters = _cluster(sorted(things, key=lambda thing: -thing.area))
    seen = [group for group in clusters if 2 * len(group) >= len(views)]
    seen.sort(key=lambda group: (-len(group), -_area(group)))
    rest = [*sorted(stuff.values(), key=lambda group: -_area(group)), void]
    winners, won = _most_votes([*seen, *rest])
    # Things that stay lose nothing when others are given up, so that once is enough.
    pairs = zip(seen, won, strict=False)
    seen = [group for group, area in pairs if 2 * area * len(group) >= _area(group)]
    winners, won = _most_votes([*seen, *rest])
    groups = [*seen, *rest[:-1]]
    table = torch.zeros(len(groups) + 1, dtype=views[0][0].dtype)
    described: list[dict[str, Any]] = []
    present = [number for number, area in enumerate(won[:-1]) if area]
    for number in sorted(present, key=lambda n: min((s.view, s.index) for s in groups[n])):
        group, isthing = groups[number], number < len(seen)
        table[number] = len(described) + 1
        info = {"id": len(described) + 1, "isthing": isthing, "category_id": group[0].label}
        if isthing and all(segment.score is not None for segment in group):
            info["score"] = sum(segment.score for segment in group) / len(views)
        described.append(info)
    return table[winners].to(views[0][0].device), described


def _most_votes(groups: Sequence[Sequence[_Detection]]) -> tuple[Tensor, list[int]]:
    """Return the number (H, W) of the group with most votes, the earlier if equal, and areas."""
    most: Any = 0
    winners: Any = 0
    for number, group in enumerate(groups):
        votes = sum(rle.decode(segment.shape).astype(np.int16) for segment in group)
        winners = np.where(votes > most, number, winners)
        most = np.maximum(votes, most)
    found = torch.from_numpy(winners)
    return found, torch.bincount(found.flatten(), minlength=len(groups)).tolist()


def _area(group: Sequence[_Detection]) -> int:
    return sum(segment.area for segment in group)

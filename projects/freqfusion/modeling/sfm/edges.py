"""Edges of whatever labels an image has, for the supervision of the attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.sfm import semantic_edge_target
from freqfusion.modeling.mask2former.targets import image_targets

# In the label maps that are made here; ids and classes are not negative.
_IGNORED = -1


def label_edges(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> Tensor:
    """Edges (B, 1, height, width) of a batch of images, padded to ``size`` (height, width).

    An edge of any of the mapper's targets is one: of ``sem_seg``, of the segments of ``pan_seg``
    (crowds and what has no segment are ignored), of the masks of ``instances``. Neither ignored nor
    padded pixels make edges.
    """
    return torch.cat([_edges(image, size, device, ignore_value) for image in images])


def ignored_pixels(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> Tensor:
    """Where :func:`label_edges` knows nothing: 1 where all targets ignore a pixel or it is padding.

    (B, 1, height, width), float32; 0 elsewhere.
    """
    return torch.cat(
        [
            torch.stack(
                [
                    _padded(labels, size).to(device) == _IGNORED
                    for labels in label_maps(image, ignore_value)
                ]
            ).all(dim=0)
            for image in images
        ]
    )[:, None].float()


def _edges(
    image: Mapping[str, Any], size: tuple[int, int], device: torch.device, ignore_value: int
) -> Tensor:
    edges = [
        semantic_edge_target(_padded(labels, size).to(device), ignore_index=_IGNORED)
        for labels in label_maps(image, ignore_value)
    ]
    if not edges:
        raise ValueError(
            f"{image.get('file_name', 'an image')} has no sem_seg, pan_seg or instances whose edges"
            " could teach the attention: set INPUT.TARGETS to one that the data set has, or"
            " MODEL.SFM.EDGE_LOSS_WEIGHT 0"
        )
    return torch.stack(edges).amax(dim=0)


def label_maps(image: Mapping[str, Any], ignore_value: int) -> Iterator[Tensor]:
    """A map (H, W) of ids for each target of an image, -1 where a pixel is ignored."""
    if "sem_seg" in image:
        labels = image["sem_seg"]
        yield labels.masked_fill(labels == ignore_value, _IGNORED)
    if "pan_seg" in image:
        ids = image["pan_seg"]
        known = [part["id"] for part in image["segments_info"] if not part.get("iscrowd", 0)]
        wanted = torch.tensor(known, dtype=ids.dtype, device=ids.device)
        yield ids.masked_fill(~torch.isin(ids, wanted), _IGNORED)
    if "instances" in image:
        yield _painted(image_targets({"instances": image["instances"]}, ignore_value)["masks"])


def _painted(masks: Tensor) -> Tensor:
    """Masks (N, H, W) over each other, the smallest on top: 0 for none, else 1 to N."""
    canvas = torch.zeros(masks.shape[-2:], dtype=torch.long, device=masks.device)
    order = masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)
    for number, index in enumerate(order.tolist(), start=1):
        canvas[masks[index]] = number
    return canvas


def _padded(labels: Tensor, size: tuple[int, int]) -> Tensor:
    below, right = size[0] - labels.shape[-2], size[1] - labels.shape[-1]
    return F.pad(labels[None], (0, right, 0, below), value=_IGNORED)

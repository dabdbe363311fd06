"""What a model is shown of one image: several sizes, each as it is and mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[Any]

# Truth has the place and size of the image that came, not those of a view.
_TRUTH = ("instances", "sem_seg", "pan_seg", "segments_info")


def view_sizes(
    height: int, width: int, *, min_sizes: Sequence[int], max_size: int
) -> list[tuple[int, int]]:
    """Sizes (height, width) as ``ResizeShortestEdge`` makes them, each once, at least one pixel.

    Where ``max_size`` cuts several of ``min_sizes`` to the same size, the model looks once.
    """
    shapes = (
        ResizeShortestEdge.get_output_shape(height, width, size, max_size) for size in min_sizes
    )
    return list(dict.fromkeys((max(1, rows), max(1, columns)) for rows, columns in shapes))


def source_picture(given: Mapping[str, Any], *, image_format: str) -> tuple[Picture, str]:
    """The picture (height, width, channels) that views are made from, and why it is no better.

    The file at its full size is better than ``image``, which has been resized already: detail that
    a larger view could show is gone from it, and a smaller view would be resized twice. The file
    is taken only if, resized to the size of ``image``, it is ``image`` to the last bit. So a file
    in another order of channels, one that was cropped or changed on its way to the model, or one
    that is now another picture, is never shown to the model; ``image`` is taken then.

    Returns:
        The picture in the order of channels of ``image``, uint8 if its values allow; and the
        reason why the file was not taken, "" where it was or where none is named.
    """
    picture = _as_picture(given["image"])
    name = given.get("file_name")
    if not name:
        return picture, ""
    try:
        original = np.ascontiguousarray(read_image(name, format=image_format))
    except (OSError, ValueError) as error:
        return picture, f"{name} cannot be read ({error})"
    if original.dtype == np.uint8 and np.array_equal(
        _resized(original, (picture.shape[0], picture.shape[1])), picture
    ):
        return original, ""
    return picture, f"{name} in {image_format} is not the picture that the model is given"


def views(
    given: Mapping[str, Any], picture: Picture, sizes: Sequence[tuple[int, int]], *, flip: bool
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Inputs of the model for each view, and whether it is mirrored; one at a time.

    The results of all views are asked for at the same size, which is that of ``given``'s results.
    """
    image = given["image"]
    common = {name: value for name, value in given.items() if name not in _TRUTH}
    common["height"] = given.get("height", image.shape[-2])
    common["width"] = given.get("width", image.shape[-1])
    for size in sizes:
        planes = np.ascontiguousarray(_resized(picture, size).transpose(2, 0, 1))
        # A copy, since a resize to the same size may give the picture itself.
        view = torch.tensor(planes).to(image)
        yield {**common, "image": view}, False
        if flip:
            yield {**common, "image": view.flip(-1)}, True


def _as_picture(image: Tensor) -> Picture:
    """(C, H, W) to (H, W, C); whole values from 0 to 255 become bytes, which are resized better."""
    picture: Picture = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    if picture.dtype == np.uint8:
        return picture
    if picture.size and picture.min() >= 0 and picture.max() <= 255:
        as_bytes = picture.astype(np.uint8)
        if np.array_equal(as_bytes, picture):
            return as_bytes
    return picture.astype(np.float32)


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """As Detectron2's mapper does it."""
    height, width = picture.shape[:2]
    resized: Picture = ResizeTransform(height, width, *size).apply_image(picture)
    return resized

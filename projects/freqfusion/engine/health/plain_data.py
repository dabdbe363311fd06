"""Batches as tensors, numbers, lists and dictionaries, which can be read without running code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

_KIND = "structure"


def to_plain(value: Any) -> Any:
    """A copy on the CPU without other classes than Python's own and tensors.

    Raises:
        ValueError: for a class that has no plain form here.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return {_KIND: "array", "tensor": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {_KIND: "tuple", "items": [to_plain(item) for item in value]}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return _structure_to_plain(value)


def _structure_to_plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Instances):
        fields = {name: to_plain(field) for name, field in value.get_fields().items()}
        return {_KIND: "Instances", "size": list(value.image_size), "fields": fields}
    if type(value) in (Boxes, BitMasks):
        return {_KIND: type(value).__name__, "tensor": to_plain(value.tensor)}
    if isinstance(value, PolygonMasks):
        return {_KIND: "PolygonMasks", "polygons": to_plain(value.polygons)}
    raise ValueError(
        f"a batch with a {type(value).__name__} cannot be written as plain data; known are tensors,"
        " arrays, Instances, Boxes, BitMasks and PolygonMasks"
    )


def from_plain(value: Any) -> Any:
    """What ``to_plain`` was given."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: from_plain(item) for key, item in value.items()}
    if kind == "array":
        return value["tensor"].numpy()
    if kind == "tuple":
        return tuple(from_plain(item) for item in value["items"])
    if kind == "Instances":
        fields = {name: from_plain(field) for name, field in value["fields"].items()}
        return Instances(tuple(value["size"]), **fields)
    if kind == "PolygonMasks":
        return PolygonMasks(from_plain(value["polygons"]))
    if kind in ("Boxes", "BitMasks"):
        return {"Boxes": Boxes, "BitMasks": BitMasks}[kind](value["tensor"])
    raise ValueError(f"{kind!r} is no kind of structure that is known here")

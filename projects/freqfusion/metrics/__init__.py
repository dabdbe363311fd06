"""Segmentation metrics on numpy arrays; nothing here needs torch or Detectron2."""

from freqfusion.metrics.boundary import BoundaryIoU, boundary_width, erode, interior
from freqfusion.metrics.confusion import ConfusionMatrix
from freqfusion.metrics.id_codec import id_to_rgb, rgb_to_id

__all__ = [
    "BoundaryIoU",
    "ConfusionMatrix",
    "boundary_width",
    "erode",
    "id_to_rgb",
    "interior",
    "rgb_to_id",
]

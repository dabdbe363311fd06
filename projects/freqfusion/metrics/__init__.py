"""Segmentation metrics on numpy arrays; nothing here needs torch or Detectron2."""

from freqfusion.metrics.boundary import BoundaryIoU, boundary_width, erode, interior
from freqfusion.metrics.cityscapes_instances import CityscapesInstanceResult, CityscapesInstances
from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS, CityscapesLabel
from freqfusion.metrics.cityscapes_semantic import CityscapesSemantic, CityscapesSemanticResult
from freqfusion.metrics.confusion import ConfusionMatrix
from freqfusion.metrics.id_codec import id_to_rgb, rgb_to_id
from freqfusion.metrics.panoptic_quality import (
    ClassQuality,
    GroupQuality,
    PanopticQuality,
    PanopticResult,
    panoptic_table,
)
from freqfusion.metrics.panoptic_segments import pair_annotations

__all__ = [
    "CITYSCAPES_LABELS",
    "BoundaryIoU",
    "CityscapesInstanceResult",
    "CityscapesInstances",
    "CityscapesLabel",
    "CityscapesSemantic",
    "CityscapesSemanticResult",
    "ClassQuality",
    "ConfusionMatrix",
    "GroupQuality",
    "PanopticQuality",
    "PanopticResult",
    "boundary_width",
    "erode",
    "id_to_rgb",
    "interior",
    "pair_annotations",
    "panoptic_table",
    "rgb_to_id",
]

"""Pictures of segmentations: numpy arrays in, uint8 RGB arrays out; needs numpy and Pillow only."""

from freqfusion.drawing.colors import RGB, palette, shade
from freqfusion.drawing.content import (
    VOID,
    Classes,
    Instance,
    LabelMap,
    PanopticMap,
    PanopticSegment,
    Picture,
    panoptic_map,
)
from freqfusion.drawing.matching import (
    InstanceMatches,
    match_instances,
    panoptic_kinds,
    semantic_kinds,
)
from freqfusion.drawing.overlays import (
    INSTANCE_ERRORS,
    PANOPTIC_ERRORS,
    SEMANTIC_ERRORS,
    draw_image,
    draw_instance_errors,
    draw_instances,
    draw_panoptic,
    draw_panoptic_errors,
    draw_semantic,
    draw_semantic_errors,
)
from freqfusion.drawing.panels import side_by_side

__all__ = [
    "INSTANCE_ERRORS",
    "PANOPTIC_ERRORS",
    "RGB",
    "SEMANTIC_ERRORS",
    "VOID",
    "Classes",
    "Instance",
    "InstanceMatches",
    "LabelMap",
    "PanopticMap",
    "PanopticSegment",
    "Picture",
    "draw_image",
    "draw_instance_errors",
    "draw_instances",
    "draw_panoptic",
    "draw_panoptic_errors",
    "draw_semantic",
    "draw_semantic_errors",
    "match_instances",
    "palette",
    "panoptic_kinds",
    "panoptic_map",
    "semantic_kinds",
    "shade",
    "side_by_side",
]

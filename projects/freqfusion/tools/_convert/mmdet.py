"""Detectors that the research code trained in mmdetection."""

from freqfusion.tools._convert.neck import convert_neck
from freqfusion.tools._convert.resnet import resnet_rules
from freqfusion.tools._convert.rules import Conversion, Rule, State, choice, convert, shorten

NECK = "neck."
BACKBONE = "backbone."
_HEADS = (
    "bbox_head.",
    "mask_head.",
    "panoptic_fusion_head.",
    "panoptic_head.",
    "roi_head.",
    "rpn_head.",
    "semantic_head.",
)


def convert_detector(state: State, *, leave_out_heads: bool = False) -> Conversion:
    """Rename backbone and neck; heads have no counterpart here and are refused or left out.

    Raises:
        ValueError: if there are heads that may not be left out, or names without a rule.
    """
    heads = [name for name in state if name.startswith(_HEADS)]
    if heads and not leave_out_heads:
        raise ValueError(
            f"the heads of mmdetection's detectors have no counterpart here, and there are "
            f"{len(heads)} of their weights: {shorten(heads)}. Convert the rest with "
            "--neck-and-backbone-only"
        )
    neck = {name: value for name, value in state.items() if name.startswith(NECK)}
    rest = {name: value for name, value in state.items() if name not in neck}
    rules = [
        *resnet_rules(source=BACKBONE),
        Rule("heads, left out as asked", choice(_HEADS) + ".*"),
    ]
    backbone = convert(rest, rules)
    if not neck:
        return backbone
    return backbone | convert_neck(neck, source=NECK, prefix="backbone.")

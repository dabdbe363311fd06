"""ResNets with torchvision's names under Detectron2's: alone, and in detectors of mmdetection.

timm's and mmdetection's ResNets have torchvision's names too. Detectors are those that the research
code trained.
"""

import re

from freqfusion.tools._convert.fusion import convert_neck
from freqfusion.tools._convert.rules import Conversion, Rule, State, choice, convert, shorten

PREFIX = "backbone.bottom_up."
_STATISTICS = choice(("weight", "bias", "running_mean", "running_var"))
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


def convert_resnet(state: State, *, prefix: str = PREFIX) -> Conversion:
    """Rename the weights of a classifier; what lies behind the last stage is dropped.

    Raises:
        ValueError: if a name is none of a plain ResNet.
    """
    classifier = Rule("classifier, which a dense model has not", r"fc\.(?:weight|bias)")
    return convert(state, [*resnet_rules(prefix=prefix), classifier])


def resnet_rules(*, source: str = "", prefix: str = PREFIX) -> list[Rule]:
    """Rules for names that begin with ``source``; the new ones begin with ``prefix``."""
    old = re.escape(source)
    block = old + r"layer([1-4])\.(\d+)\."

    def inside(match: re.Match[str], part: str) -> str:
        return f"{prefix}res{int(match[1]) + 1}.{match[2]}.{part}"

    return [
        Rule("stem", old + r"conv1\.weight", lambda m: f"{prefix}stem.conv1.weight"),
        Rule("stem", rf"{old}bn1\.({_STATISTICS})", lambda m: f"{prefix}stem.conv1.norm.{m[1]}"),
        Rule(
            "convolutions of the blocks",
            block + r"conv([1-3])\.weight",
            lambda m: inside(m, f"conv{m[3]}.weight"),
        ),
        Rule(
            "norms of the blocks",
            rf"{block}bn([1-3])\.({_STATISTICS})",
            lambda m: inside(m, f"conv{m[3]}.norm.{m[4]}"),
        ),
        Rule("shortcuts", block + r"downsample\.0\.weight", lambda m: inside(m, "shortcut.weight")),
        Rule(
            "shortcuts",
            rf"{block}downsample\.1\.({_STATISTICS})",
            lambda m: inside(m, f"shortcut.norm.{m[3]}"),
        ),
        Rule(
            "counters of batches, which frozen norms have not",
            rf"{old}(?:layer[1-4]\.\d+\.)?(?:bn[1-3]|downsample\.1)\.num_batches_tracked",
        ),
    ]


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

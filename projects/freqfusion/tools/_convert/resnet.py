"""ResNets with torchvision's names (timm's and mmdetection's have them too) under Detectron2's."""

import re

from freqfusion.tools._convert.rules import Conversion, Rule, State, choice, convert

PREFIX = "backbone.bottom_up."
_STATISTICS = choice(("weight", "bias", "running_mean", "running_var"))


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

"""The FreqFusion neck of the research code for mmdetection under the names of our pyramid."""

import re

from freqfusion.tools._convert.fusion import BUFFERS, PARTS
from freqfusion.tools._convert.rules import Conversion, Rule, State, choice, convert

_FIRST_STAGE = 2


def convert_neck(state: State, *, source: str = "", prefix: str = "") -> Conversion:
    """Rename a neck's weights, for instance ``lateral_convs.0.conv.weight``.

    Args:
        state: The entries of the neck and no others.
        source: What their names begin with.
        prefix: What the new names begin with.

    Raises:
        ValueError: if a name is none of the neck, or its levels do not belong together.
    """
    return convert(state, neck_rules(state, source=source, prefix=prefix))


def neck_rules(state: State, *, source: str, prefix: str) -> list[Rule]:
    """Rules for one neck; which fusion modules are used depends on its levels."""
    hops = count_levels(state, source=source) - 1
    old = re.escape(source)
    unused = rf"{old}alignment\.{hops}\..*"

    def level(match: re.Match[str], kind: str, rest: str) -> str:
        return f"{prefix}fpn_{kind}{int(match[1]) + _FIRST_STAGE}.{rest}"

    def convolution(label: str, theirs: str, ours: str) -> Rule:
        pattern = rf"{old}{theirs}\.(\d+)\.conv\.(weight|bias)"
        return Rule(label, pattern, lambda m: level(m, ours, m[2]))

    return [
        convolution("lateral convolutions", "lateral_convs", "lateral"),
        convolution("output convolutions", "fpn_convs", "output"),
        Rule("fusion module that no hop uses", unused),
        Rule(
            "fusion modules",
            rf"{old}alignment\.(\d+)\.({choice(PARTS)})(weight|bias)",
            lambda m: level(m, "fusion", PARTS[m[2]] + m[3]),
        ),
        Rule("buffers that are recomputed", rf"{old}alignment\.\d+\.{choice(BUFFERS)}"),
    ]


def count_levels(state: State, *, source: str) -> int:
    """The number of levels of a neck.

    Raises:
        ValueError: if it has not one lateral and one output convolution a level, or fusion modules
            for some of its hops only.
    """
    lateral, output, fusion = (
        _indices(state, source + kind) for kind in ("lateral_convs.", "fpn_convs.", "alignment.")
    )
    count = len(lateral)
    if not lateral or lateral != set(range(count)) or output != lateral:
        raise ValueError(
            f"the neck has lateral convolutions {sorted(lateral)} and output convolutions "
            f"{sorted(output)}; only necks with both at every level, from 0 on, are known"
        )
    if fusion and fusion not in (set(range(count - 1)), set(range(count))):
        raise ValueError(
            f"the neck has fusion modules {sorted(fusion)} for the {count - 1} hops between its "
            f"{count} levels; there must be one for each"
        )
    return count


def _indices(state: State, beginning: str) -> set[int]:
    pattern = re.compile(rf"{re.escape(beginning)}(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, state) if match}

"""Rename weights from elsewhere by rules that account for every name.

* mmdetection: backbone and neck of the detectors that the research code trained.
* ResNets: timm's and mmdetection's have torchvision's names.
* Swin: the original release and timm share our names but for the steps between stages: there a
  step ends its stage, in timm it begins the next one.
* InternImage: ours are the published names. Classifiers of the sizes H and G have another head,
  whose names are not known here.
* Mask2Former: see ``_convert_mask2former``; SegNeXt: see ``_convert_segnext``.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from freqfusion.layers.freqfusion import ORIGINAL_BUFFERS, ORIGINAL_NAMES
from freqfusion.layers.sampler import ORIGINAL_BUFFERS as SAMPLER_BUFFERS
from freqfusion.layers.sampler import ORIGINAL_NAMES as SAMPLER_NAMES
from freqfusion.layers.windows import relative_position_index
from freqfusion.messages import shorten

State = Mapping[str, Tensor]
FIRST_STAGE, LAST_STAGE = 2, 5
BACKBONE = "backbone."
# Where Detectron2's FPN keeps its ResNet.
BOTTOM_UP = "backbone.bottom_up."
NECK = "neck."
# Of Mask2Former.
PREDICTOR = "sem_seg_head.predictor."
CLASS_WEIGHTS = "criterion.empty_weight"

_BOTH = "(?:weight|bias)"
_CLASSIFIER = "classifier, which a dense model has not"
_HEADS = tuple(
    f"{part}_head."
    for part in ("bbox", "mask", "panoptic", "panoptic_fusion", "roi", "rpn", "semantic")
)


@dataclass(frozen=True)
class Rule:
    """What happens to the names that a pattern matches as a whole.

    Args:
        label: What the entries are, for the report.
        pattern: Regular expression of the names.
        new_name: The name here, from the match; None drops the entry.
    """

    label: str
    pattern: str
    new_name: Callable[[re.Match[str]], str] | None = None


@dataclass(frozen=True)
class Conversion:
    """The renamed state dict, and what became of the names of the old one."""

    state: dict[str, Tensor] = field(default_factory=dict)
    mapped: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)


def convert(state: State, rules: Sequence[Rule]) -> Conversion:
    """Apply to each entry the first rule that matches its name.

    Raises:
        ValueError: if an entry has no rule, or two entries would get one name.
    """
    result = Conversion()
    unknown, new_names = [], []
    for name, value in state.items():
        for rule in rules:
            match = re.fullmatch(rule.pattern, name)
            if match is None:
                continue
            if rule.new_name is None:
                result.dropped.setdefault(rule.label, []).append(name)
            else:
                new_names.append(rule.new_name(match))
                result.state[new_names[-1]] = value
                result.mapped.setdefault(rule.label, []).append(name)
            break
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"no rule for {len(unknown)} names: {shorten(unknown)}")
    double = sorted(name for name, count in Counter(new_names).items() if count > 1)
    if double:
        raise ValueError(f"several entries would become one: {shorten(double)}")
    return result


def detect(state: State) -> str:
    """Return the source that the names are from.

    Raises:
        ValueError: if they are from nowhere known.
    """
    if any(name.startswith(PREDICTOR) for name in state):
        return "mask2former"
    if f"{_internimage_prefix(state)}levels.0.blocks.0.dcn.offset.weight" in state:
        return "internimage"
    if any(name.endswith("attn.spatial_gating_unit.conv0.weight") for name in state):
        return "segnext"
    if any(name.startswith((BACKBONE, NECK)) for name in state):
        return "mmdet"
    if "layer1.0.conv1.weight" in state:
        return "torchvision"
    if is_swin(state, ""):
        return "swin"
    raise ValueError(
        f"the names are neither those of an mmdetection detector nor of a Mask2Former, nor of a "
        "torchvision or timm ResNet, nor of a Swin, an InternImage or a SegNeXt: "
        f"{shorten(list(state))}"
    )


def needed_weight(state: State, name: str, model: str) -> Tensor:
    """Return a weight that every ``model`` has; ValueError if it is missing."""
    if name not in state:
        raise ValueError(f"the weight {name} is missing, which every {model} has")
    return state[name]


def choice(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, names))})"


_STATISTICS = choice(("weight", "bias", "running_mean", "running_var"))


def convert_resnet(state: State, *, prefix: str = BOTTOM_UP) -> Conversion:
    """Rename the weights of a ResNet that classifies; what lies behind the last stage is dropped.

    Raises:
        ValueError: if a name is none of a plain ResNet.
    """
    return convert(state, [*_resnet_rules("", prefix), Rule(_CLASSIFIER, rf"fc\.{_BOTH}")])


def _resnet_rules(source: str, prefix: str) -> list[Rule]:
    """Return rules for names that begin with ``source``; the new ones begin with ``prefix``."""
    old = re.escape(source)
    block = old + r"layer([1-4])\.(\d+)\."
    parts = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
    for i in (1, 2, 3):
        parts |= {f"conv{i}": f"conv{i}", f"bn{i}": f"conv{i}.norm"}

    def inside(match: re.Match[str]) -> str:
        return f"{prefix}res{int(match[1]) + 1}.{match[2]}.{parts[match[3]]}.{match[4]}"

    return [
        Rule("stem", old + r"conv1\.weight", lambda m: f"{prefix}stem.conv1.weight"),
        Rule("stem", rf"{old}bn1\.({_STATISTICS})", lambda m: f"{prefix}stem.conv1.norm.{m[1]}"),
        Rule("convolutions of the blocks", block + r"(conv[1-3]|downsample\.0)\.(weight)", inside),
        Rule("norms of the blocks", rf"{block}(bn[1-3]|downsample\.1)\.({_STATISTICS})", inside),
        Rule(
            "counters of batches, which frozen norms have not",
            rf"{old}(?:layer[1-4]\.\d+\.)?(?:bn[1-3]|downsample\.1)\.num_batches_tracked",
        ),
    ]


def convert_detector(state: State) -> Conversion:
    """Rename backbone and neck; heads have no counterpart here and are dropped.

    Raises:
        ValueError: if there are names without a rule.
    """
    rules = _resnet_rules(BACKBONE, BOTTOM_UP)
    rules.append(Rule("heads, which have no counterpart here", choice(_HEADS) + ".*"))
    if any(name.startswith(NECK) for name in state):
        rules += neck_rules(state, source=NECK, prefix=BACKBONE)
    return convert(state, rules)


_SAMPLER = "dysampler."
# Prefixes of names, there and here; what follows is "weight" or "bias". One part of the sampler is
# called here as it was there.
PARTS = {old: new for old, new in ORIGINAL_NAMES.items() if old != _SAMPLER} | {
    _SAMPLER + old: ORIGINAL_NAMES[_SAMPLER] + new
    for old, new in (SAMPLER_NAMES | {"hr_offset.": "hr_offset."}).items()
}
WINDOW_BUFFERS = list(ORIGINAL_BUFFERS)
POSITION_BUFFERS = [_SAMPLER + name for name in SAMPLER_BUFFERS]
FUSION_BUFFERS = choice([*WINDOW_BUFFERS, *POSITION_BUFFERS])


def neck_rules(state: State, *, source: str = "", prefix: str = "") -> list[Rule]:
    """Return rules for a neck of the research code; its levels tell which fusions are used.

    Args:
        state: Weights, those of the neck among them.
        source: Prefix of its names.
        prefix: Prefix of the new names.

    Raises:
        ValueError: if its levels do not belong together.
    """
    hops = count_levels(state, source=source) - 1
    first = neck_stages(state, source=source)[0]
    old = re.escape(source)
    unused = rf"{old}alignment\.{hops}\..*"

    def level(match: re.Match[str], kind: str, rest: str) -> str:
        return f"{prefix}fpn_{kind}{int(match[1]) + first}.{rest}"

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
        Rule("buffers that are recomputed", rf"{old}alignment\.\d+\.{FUSION_BUFFERS}"),
    ]


def count_levels(state: State, *, source: str) -> int:
    """Return the number of levels of a neck.

    Raises:
        ValueError: if it has not one lateral and one output convolution a level, or fusion modules
            for some of its hops only.
    """
    lateral, output, fusion = (
        _layer_indices(state, source + kind)
        for kind in ("lateral_convs.", "fpn_convs.", "alignment.")
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


def neck_stages(state: State, *, source: str) -> range:
    """Return the stages of the backbone that a neck reads, the last one of which is res5.

    Raises:
        ValueError: as ``count_levels``, and if it reads none.
    """
    names = (
        f"{source}lateral_convs.{level}.conv.weight"
        for level in range(count_levels(state, source=source))
    )
    # Levels above the backbone have wider convolutions.
    read = sum(needed_weight(state, name, "neck").shape[-1] == 1 for name in names)
    if not read:
        raise ValueError("the neck has no 1 x 1 convolution, which each map of a backbone needs")
    return range(LAST_STAGE + 1 - read, LAST_STAGE + 1)


def _layer_indices(state: State, prefix: str) -> set[int]:
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, state) if match}


def count_layers(state: State, prefix: str) -> int:
    """Return the highest number of a layer plus one; a gap is found later as missing weights."""
    return max(_layer_indices(state, prefix), default=-1) + 1


_SWIN_BLOCK = r"layers\.\d+\.blocks\.\d+\."
_SWIN_TABLE = rf"({_SWIN_BLOCK}attn\.)relative_position_bias_table"
_SWIN_INDEX = "relative_position_index"


def convert_swin(state: State, *, prefix: str = BACKBONE) -> Conversion:
    """Rename a Swin that classifies; the norms of the stages stay as they are in a new model.

    Raises:
        ValueError: if a name is none of a plain Swin.
    """
    # Where steps begin stages, the first stage has none.
    begins = not any(name.startswith("layers.0.downsample.") for name in state)
    return convert(
        state,
        [
            Rule(
                "steps between stages",
                r"layers\.(\d+)\.downsample\.(.+)",
                lambda m: f"{prefix}layers.{int(m[1]) - begins}.downsample.{m[2]}",
            ),
            Rule("last norm; here each stage has its own", rf"norm\.{_BOTH}"),
            Rule(_CLASSIFIER, rf"head\.(?:fc\.)?{_BOTH}"),
            swin_index_rule(""),
            Rule("masks of moved windows, which are recomputed", rf"{_SWIN_BLOCK}attn_mask"),
            Rule("patches and blocks", r"(?:patch_embed|layers)\..+", lambda m: prefix + m[0]),
        ],
    )


def swin_index_rule(prefix: str) -> Rule:
    """Return the rule for the buffers that ``swin_indices`` makes."""
    pattern = rf"{re.escape(prefix)}{_SWIN_BLOCK}attn\.{_SWIN_INDEX}"
    return Rule("places of pixels, which are recomputed", pattern)


def swin_indices(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the buffers that published code keeps for each table of displacements."""
    pattern = re.compile(re.escape(prefix) + _SWIN_TABLE)
    return {
        prefix + match[1] + _SWIN_INDEX: relative_position_index(swin_window(state, match[0]))
        for match in map(pattern.fullmatch, state)
        if match
    }


def is_swin(state: State, prefix: str) -> bool:
    """Say whether names with this prefix are a Swin's."""
    return any(re.fullmatch(re.escape(prefix) + _SWIN_TABLE, name) for name in state)


def swin_window(state: State, name: str) -> int:
    """Return the size of the windows from a table of displacements."""
    rows = len(needed_weight(state, name, "Swin"))
    size = (math.isqrt(rows) + 1) // 2
    if (2 * size - 1) ** 2 != rows:
        raise ValueError(
            f"{name} has {rows} rows, which are not the displacements in a square window: "
            "(2 * size - 1) ** 2"
        )
    return size


def convert_internimage(state: State, *, prefix: str = BACKBONE) -> Conversion:
    """Rename the backbone of a classifier, or of a segmentor whose heads are then left out.

    Raises:
        ValueError: if a name is none of an InternImage's.
    """
    source = re.escape(_internimage_prefix(state))
    return convert(
        state,
        [
            Rule("backbone", rf"{source}((?:patch_embed|levels)\..+)", lambda m: prefix + m[1]),
            Rule(_CLASSIFIER, rf"head\.{_BOTH}"),
            Rule(_CLASSIFIER, r"conv_head\.0\.weight"),
            Rule(_CLASSIFIER, rf"conv_head\.1\.0\.(?:{_STATISTICS}|num_batches_tracked)"),
            Rule("heads of a segmentor", r"(?:decode_head|auxiliary_head)\..+"),
        ],
    )


def _internimage_prefix(state: State) -> str:
    """Return the prefix of the backbone's names, alone or in a segmentor."""
    return BACKBONE if any(name.startswith(f"{BACKBONE}levels.") for name in state) else ""

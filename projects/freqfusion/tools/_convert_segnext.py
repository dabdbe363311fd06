"""Rename checkpoints of SegNeXt, of its FreqFusion form, and MSCANs that classify.

The backbone has its published names here. The head's differ, since its convolutions are
Detectron2's; its FreqFusion modules are those of the research code.
"""

import math
import re

from torch import Tensor

from freqfusion.tools._convert_names import (
    BACKBONE,
    FIRST_STAGE,
    FUSION_BUFFERS,
    PARTS,
    Conversion,
    Rule,
    State,
    choice,
    convert,
    count_layers,
    needed_weight,
)
from freqfusion.tools._convert_settings import INPUT, Settings, fusion_settings

HEAD = "decode_head."
OUR_HEAD = "sem_seg_head."
# Prefixes of names in the head, there and here.
_HEAD_NAMES = {
    "squeeze.conv.": "squeeze.",
    "squeeze.gn.": "squeeze.norm.",
    "hamburger.ham_in.conv.": "hamburger.ham_in.",
    "hamburger.ham_out.conv.": "hamburger.ham_out.",
    "hamburger.ham_out.gn.": "hamburger.ham_out.norm.",
    "align.conv.": "align.",
    "align.gn.": "align.norm.",
    "conv_seg.": "predictor.",
}
_BOTH = "(?:weight|bias)"
_BACKBONE_PARTS = r"(?:patch_embed|block|norm)\d+"


def convert_segnext(
    state: State, *, prefix: str = BACKBONE, head: str = HEAD, our_head: str = OUR_HEAD
) -> Conversion:
    """Rename a SegNeXt, or an MSCAN that classifies, whose classifier is dropped.

    Args:
        state: The weights.
        prefix: Of the backbone's new names.
        head: Prefix of the head's old names.
        our_head: Of the new ones.

    Raises:
        ValueError: if a name is none of SegNeXt.
    """
    old, source = re.escape(head), re.escape(_backbone_prefix(state))
    fusion = rf"{old}freqfusions\.(\d+)\."
    return convert(
        state,
        [
            # What the model does not have is found when it is compared with the model.
            Rule("backbone", rf"{source}({_BACKBONE_PARTS}\..+)", lambda m: prefix + m[1]),
            Rule(
                "head",
                rf"{old}({choice(_HEAD_NAMES)})({_BOTH})",
                lambda m: our_head + _HEAD_NAMES[m[1]] + m[2],
            ),
            Rule(
                "fusion modules",
                rf"{fusion}({choice(PARTS)})({_BOTH})",
                lambda m: f"{our_head}join.fusions.{m[1]}.{PARTS[m[2]]}{m[3]}",
            ),
            Rule(
                "convolutions from coarse to fine maps",
                rf"{old}(low2high_convs\.\d+\.{_BOTH})",
                lambda m: f"{our_head}join.{m[1]}",
            ),
            Rule("convolutions without a use", rf"{old}high2low_convs\.\d+\.{_BOTH}"),
            Rule("buffers that are recomputed", fusion + FUSION_BUFFERS),
            Rule("classifier, which a dense model has not", rf"head\.{_BOTH}"),
        ],
    )


def segnext_settings(state: State) -> Settings:
    """Return the keys of a backbone and a head under their published names.

    Weights tell neither stochastic depth nor ``MODEL.LIGHT_HAM.RANK``.

    Raises:
        ValueError: if a weight is missing that a key is read from, or no stages have the channels
            of the head.
    """
    prefix = _backbone_prefix(state)
    stages = len({name for name in state if re.fullmatch(rf"{prefix}norm\d+\.weight", name)})
    first = [
        needed_weight(state, f"{prefix}block{stage + 1}.0.mlp.fc1.weight", "MSCAN")
        for stage in range(stages)
    ]
    widths = [weight.shape[1] for weight in first]
    found: Settings = {
        "MODEL.BACKBONE.NAME": "build_mscan_backbone",
        "MODEL.MSCAN.EMBED_DIMS": widths,
        "MODEL.MSCAN.DEPTHS": [
            count_layers(state, f"{prefix}block{i + 1}.") for i in range(stages)
        ],
        "MODEL.MSCAN.MLP_RATIOS": [weight.shape[0] / weight.shape[1] for weight in first],
        "MODEL.MSCAN.OUT_FEATURES": [f"res{FIRST_STAGE + stage}" for stage in range(stages)],
        **INPUT,
    }
    if f"{HEAD}squeeze.conv.weight" in state:
        found |= _head_settings(state, widths)
    return found


def _head_settings(state: State, widths: list[int]) -> Settings:
    classes, width = needed_weight(state, f"{HEAD}conv_seg.weight", "SegNeXt").shape[:2]
    hidden, joined = state[f"{HEAD}squeeze.conv.weight"].shape[:2]
    # The coarsest stages, from the one where their channels add up.
    start = next((i for i in range(len(widths)) if sum(widths[i:]) == joined), None)
    if start is None:
        raise ValueError(
            f"the head joins {joined} channels; ours joins the last of stages of {widths} channels"
        )
    found: Settings = {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME": "LightHamHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": [
            f"res{FIRST_STAGE + stage}" for stage in range(start, len(widths))
        ],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": width,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": classes,
        "MODEL.LIGHT_HAM.CHANNELS": 0 if hidden == width else hidden,
    }
    return found | _concatenation_settings(state)


def _concatenation_settings(state: State) -> Settings:
    prefix = f"{HEAD}freqfusions.0."
    fusion = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not fusion:
        return {"MODEL.FREQFUSION.ENABLED": False}
    compressed = fusion["hr_channel_compressor.weight"].shape[0]
    channels = sum(_inputs(fusion, f"{side}_channel_compressor.weight") for side in ("hr", "lr"))
    found: Settings = {
        "MODEL.FREQFUSION.ENABLED": True,
        "MODEL.FREQFUSION.COMPRESS_RATIO": math.floor(channels / compressed),
    }
    settings = fusion_settings(fusion)
    del settings["MODEL.FREQFUSION.COMPRESSED_CHANNELS"]
    return found | settings


def _inputs(weights: dict[str, Tensor], name: str) -> int:
    return needed_weight(weights, name, "FreqFusion module").shape[1]


def _backbone_prefix(state: State) -> str:
    return BACKBONE if any(name.startswith(f"{BACKBONE}patch_embed1.") for name in state) else ""

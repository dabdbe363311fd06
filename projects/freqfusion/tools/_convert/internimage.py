"""InternImage under its published names: as a classifier of ImageNet, and inside a segmentor.

The names are those of the authors' released code as remembered; no published file was opened. What
has no rule is refused, so a difference cannot pass unseen. The largest published models (H, G) have
parts that ours has not, and are refused by name.
"""

import re

from freqfusion.tools._convert.rules import (
    RGB_INPUT,
    Conversion,
    Rule,
    Settings,
    State,
    choice,
    convert,
    count_layers,
    needed_weight,
)

PREFIX = "backbone."
_MODEL = "InternImage"
_FIRST_STAGE = 2
_TAPS = 9
_BOTH = "(?:weight|bias)"
_BLOCK = r"levels\.\d+\.blocks\.\d+\."
_PARTS = "|".join(
    (
        rf"patch_embed\.(?:conv[12]|norm[12]\.1)\.{_BOTH}",
        rf"{_BLOCK}(?:norm[12]\.0|mlp\.fc[12])\.{_BOTH}",
        rf"{_BLOCK}gamma[12]",
        rf"{_BLOCK}dcn\.(?:dw_conv\.0|dw_conv\.1\.1|offset|mask|input_proj|output_proj)\.{_BOTH}",
        r"levels\.\d+\.downsample\.conv\.weight",
        rf"levels\.\d+\.(?:downsample\.norm\.1|norm\.0)\.{_BOTH}",
    )
)
_STATISTICS = choice(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
_UNKNOWN = re.compile(r".*(?:center_feature_scale|res_post_norm|post_norms)")


def convert_internimage(state: State, *, prefix: str = PREFIX) -> Conversion:
    """Rename the backbone of a classifier, or of a segmentor whose heads are then left out.

    Raises:
        ValueError: if a name is none of InternImage-T, S, B, L or XL.
    """
    others = [name for name in state if _UNKNOWN.match(name)]
    if others:
        raise ValueError(
            f"{others[0]} belongs to InternImage-H or -G, whose blocks have parts that ours have "
            "not: take T, S, B, L or XL"
        )
    source = re.escape(_source(state))
    return convert(
        state,
        [
            Rule("backbone", f"{source}({_PARTS})", lambda m: prefix + m[1]),
            Rule("classifier, which a dense model has not", rf"head\.{_BOTH}"),
            Rule("classifier, which a dense model has not", r"conv_head\.0\.weight"),
            Rule("classifier, which a dense model has not", rf"conv_head\.1\.0\.{_STATISTICS}"),
            Rule("heads of a segmentor", r"(?:decode_head|auxiliary_head)\..+"),
        ],
    )


def is_internimage(state: State) -> bool:
    """Whether names are those of an InternImage, alone or as the backbone of a segmentor."""
    return f"{_source(state)}levels.0.blocks.0.dcn.offset.weight" in state


def internimage_settings(state: State, prefix: str) -> Settings:
    """Keys of the backbone that weights under our names tell.

    Stochastic depth and ``OFFSET_SCALE`` (above 1 for L and XL) are none of them.

    Raises:
        ValueError: if a weight is missing that a key is read from.
    """
    stages = count_layers(state, f"{prefix}levels.")
    block = f"{prefix}levels.{{}}.blocks.0."
    hidden, channels = needed_weight(state, f"{block.format(0)}mlp.fc1.weight", _MODEL).shape
    offsets = [
        needed_weight(state, f"{block.format(i)}dcn.offset.weight", _MODEL) for i in range(stages)
    ]
    found = {
        "CHANNELS": channels,
        "DEPTHS": [
            count_layers(state, f"{prefix}levels.{stage}.blocks.") for stage in range(stages)
        ],
        "GROUPS": [len(rows) // (2 * _TAPS) for rows in offsets],
        "MLP_RATIO": hidden / channels,
        "POST_NORM": f"{prefix}levels.0.norm.0.weight" not in state,
        # Where the factors start does not matter to weights that have them.
        "LAYER_SCALE": float(f"{block.format(0)}gamma1" in state),
        "OUT_FEATURES": [f"res{_FIRST_STAGE + stage}" for stage in range(stages)],
    }
    return {
        "MODEL.BACKBONE.NAME": "build_internimage_backbone",
        **{f"MODEL.INTERNIMAGE.{name}": value for name, value in found.items()},
        **{name: value for name, value in RGB_INPUT.items() if "RESNETS" not in name},
    }


def _source(state: State) -> str:
    """What the names of the backbone begin with."""
    return PREFIX if any(name.startswith(f"{PREFIX}levels.") for name in state) else ""

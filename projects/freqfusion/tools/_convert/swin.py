"""Swin under the published names: inside a Mask2Former, and as a classifier of ImageNet.

The original release and timm share our names but for the steps between stages: there a step ends
its stage, in timm it begins the next one.
"""

import math
import re

from torch import Tensor

from freqfusion.layers.windows import relative_position_index
from freqfusion.tools._convert.rules import (
    RGB_INPUT,
    Conversion,
    Rule,
    Settings,
    State,
    convert,
    count_layers,
    needed_weight,
)

PREFIX = "backbone."
INDEX = "relative_position_index"
# What a backbone has and a classifier has not.
NEW = r"norm\d+\.(?:weight|bias)"
_MODEL = "Swin"
_FIRST_STAGE = 2
_BOTH = "(?:weight|bias)"
_BLOCK = r"layers\.\d+\.blocks\.\d+\."
_TABLE = rf"({_BLOCK}attn\.)relative_position_bias_table"
_STEP = rf"(norm\.{_BOTH}|reduction\.weight)"
_INSIDE = "|".join(
    (
        rf"patch_embed\.(?:proj|norm)\.{_BOTH}",
        rf"{_BLOCK}(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.{_BOTH}",
        rf"{_BLOCK}attn\.relative_position_bias_table",
    )
)


def published_rules(prefix: str) -> list[Rule]:
    """Rules for a backbone of Mask2Former, whose names are ours."""
    names = rf"{_INSIDE}|layers\.\d+\.downsample\.{_STEP}|norm\d+\.{_BOTH}"
    start = re.escape(prefix)
    return [
        Rule("backbone", f"{start}(?:{names})", lambda m: m[0]),
        Rule("places of pixels, which are recomputed", rf"{start}{_BLOCK}attn\.{INDEX}"),
    ]


def convert_classifier(state: State, *, prefix: str = PREFIX) -> Conversion:
    """Rename the weights of a classifier; the norms of the stages stay as they are in a new model.

    Raises:
        ValueError: if a name is none of a plain Swin.
    """
    # Where steps begin stages, the first stage has none.
    begins = not any(name.startswith("layers.0.downsample.") for name in state)
    return convert(
        state,
        [
            Rule("patches and blocks", f"(?:{_INSIDE})", lambda m: prefix + m[0]),
            Rule(
                "steps between stages",
                rf"layers\.(\d+)\.downsample\.{_STEP}",
                lambda m: f"{prefix}layers.{int(m[1]) - begins}.downsample.{m[2]}",
            ),
            Rule("last norm; here each stage has its own", rf"norm\.{_BOTH}"),
            Rule("classifier, which a dense model has not", rf"head\.(?:fc\.)?{_BOTH}"),
            Rule("places of pixels, which are recomputed", rf"{_BLOCK}attn\.{INDEX}"),
            Rule("masks of moved windows, which are recomputed", rf"{_BLOCK}attn_mask"),
        ],
    )


def indices(state: State, prefix: str) -> dict[str, Tensor]:
    """The buffers that published code keeps for each table of displacements."""
    pattern = re.compile(re.escape(prefix) + _TABLE)
    return {
        prefix + match[1] + INDEX: relative_position_index(_window(state, match[0]))
        for match in map(pattern.fullmatch, state)
        if match
    }


def is_swin(state: State, prefix: str) -> bool:
    """Whether names that begin so are a Swin's."""
    return any(re.fullmatch(re.escape(prefix) + _TABLE, name) for name in state)


def swin_settings(state: State, prefix: str) -> Settings:
    """Keys of the backbone that weights under our names tell; stochastic depth is none of them.

    Raises:
        ValueError: if a weight is missing that a key is read from.
    """
    block = f"{prefix}layers.{{}}.blocks.0."
    stages = count_layers(state, f"{prefix}layers.")
    tables = [f"{block.format(stage)}attn.relative_position_bias_table" for stage in range(stages)]
    hidden, channels = needed_weight(state, f"{block.format(0)}mlp.fc1.weight", _MODEL).shape
    normalized = [stage for stage in range(stages) if f"{prefix}norm{stage}.weight" in state]
    found = {
        "EMBED_DIM": channels,
        "DEPTHS": [
            count_layers(state, f"{prefix}layers.{stage}.blocks.") for stage in range(stages)
        ],
        "NUM_HEADS": [needed_weight(state, table, _MODEL).shape[1] for table in tables],
        "WINDOW_SIZE": _window(state, tables[0]),
        "MLP_RATIO": hidden / channels,
        "QKV_BIAS": f"{block.format(0)}attn.qkv.bias" in state,
        "PATCH_NORM": f"{prefix}patch_embed.norm.weight" in state,
        # Classifiers have none of these norms.
        "OUT_FEATURES": [f"res{_FIRST_STAGE + stage}" for stage in normalized or range(stages)],
    }
    return {
        "MODEL.BACKBONE.NAME": "build_swin_backbone",
        **{f"MODEL.SWIN.{name}": value for name, value in found.items()},
        **{name: value for name, value in RGB_INPUT.items() if "RESNETS" not in name},
    }


def _window(state: State, name: str) -> int:
    rows = len(needed_weight(state, name, _MODEL))
    size = (math.isqrt(rows) + 1) // 2
    if (2 * size - 1) ** 2 != rows:
        raise ValueError(
            f"{name} has {rows} rows, which are not the displacements in a square window: "
            "(2 * size - 1) ** 2"
        )
    return size

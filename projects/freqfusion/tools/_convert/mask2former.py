"""Mask2Former's published weights, and those of its FreqFusion fork, under our names and back.

Our names are the published ones but for the parts of FreqFusion. Files of the first release, which
are most of those to be had, lack ``pixel_decoder.`` and have another name for the queries.
"""

import re

from torch import Tensor

from freqfusion.tools._convert.fusion import (
    BUFFERS,
    PARTS,
    buffers_without_window,
    under_original_names,
)
from freqfusion.tools._convert.rules import Conversion, Rule, State, choice, convert
from freqfusion.tools._convert.swin import indices, published_rules

HEAD = "sem_seg_head."
PIXEL_DECODER = f"{HEAD}pixel_decoder."
PREDICTOR = f"{HEAD}predictor."
BACKBONE = "backbone."
CLASS_WEIGHTS = "criterion.empty_weight"
# What Mask2Former's code must find in a state dict, or it takes the names for older ones.
VERSIONS = {HEAD.rstrip("."): 2, PREDICTOR.rstrip("."): 2}

_BOTH = "(?:weight|bias)"
_NORM = r"norm\.(?:weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET = rf"(?:stem\.conv1|res[2-5]\.\d+\.(?:shortcut|conv[1-3]))\.(?:weight|{_NORM})"
_ENCODER_LAYER = (
    r"self_attn\.(?:sampling_offsets|attention_weights|value_proj|output_proj)|norm[12]|linear[12]"
)
_PYRAMID = "|".join(
    (
        rf"input_proj\.\d+\.[01]\.{_BOTH}",
        r"transformer\.level_embed",
        rf"transformer\.encoder\.layers\.\d+\.(?:{_ENCODER_LAYER})\.{_BOTH}",
        rf"mask_features\.{_BOTH}",
        rf"(?:adapter|layer)_\d+\.(?:{_BOTH}|{_NORM})",
    )
)
_ATTENTION = rf"in_proj_{_BOTH}|out_proj\.{_BOTH}"
_QUERIES = "|".join(
    (
        rf"transformer_self_attention_layers\.\d+\.self_attn\.(?:{_ATTENTION})",
        rf"transformer_cross_attention_layers\.\d+\.multihead_attn\.(?:{_ATTENTION})",
        rf"transformer_(?:self|cross)_attention_layers\.\d+\.norm\.{_BOTH}",
        rf"transformer_ffn_layers\.\d+\.(?:linear[12]|norm)\.{_BOTH}",
        rf"(?:decoder_norm|class_embed|mask_embed\.layers\.\d+|input_proj\.\d+)\.{_BOTH}",
        r"(?:query_feat|query_embed|level_embed)\.weight",
    )
)
_FUSION = r"freqfusions\.(\d+)\."
_OURS = {new: old for old, new in PARTS.items()}


def convert_published(state: State) -> Conversion:
    """Rename published weights, of any release.

    Raises:
        ValueError: if a name has no rule, or the names are ours already.
    """
    if any(fusion_modules(state).values()):
        raise ValueError(
            "the fusion modules have the names of this project already; --to mask2former leads to "
            "the published ones"
        )
    return convert(state, [*_kept(), *_first_release(), *_fusion_rules()])


def publish(state: State) -> Conversion:
    """Rename weights of ours for Mask2Former's code, or for the fork where there is FreqFusion.

    Buffers are made anew, those of the fork for modules without Hamming windows: it knows no
    others.

    Raises:
        ValueError: if a name has no rule; other fusions than FreqFusion have none.
    """
    rule = Rule(
        "fusion modules",
        rf"{re.escape(PIXEL_DECODER)}{_FUSION}({choice(_OURS)})(weight|bias)",
        lambda m: f"{PIXEL_DECODER}freqfusions.{m[1]}.{_OURS[m[2]]}{m[3]}",
    )
    result = convert(state, [*_kept(), rule])
    result.state.update(_buffers(state) | indices(state, BACKBONE))
    return result


def windows(state: State) -> list[Tensor]:
    """The low-pass windows in a published state dict, one for each fusion module."""
    return [value for name, value in state.items() if name.endswith(".hamming_lowpass")]


def fusion_modules(state: State) -> dict[str, dict[str, Tensor]]:
    """Beginnings of the names of our fusion modules, and their weights as the fork calls them."""
    pattern = re.compile(rf"{re.escape(PIXEL_DECODER)}{_FUSION}")
    beginnings = sorted({match[0] for match in map(pattern.match, state) if match})
    return {beginning: under_original_names(state, beginning) for beginning in beginnings}


def _kept() -> list[Rule]:
    """What has the same name there and here."""

    def kept(label: str, pattern: str) -> Rule:
        return Rule(label, pattern, lambda m: m[0])

    return [
        kept("backbone", re.escape(BACKBONE) + _RESNET),
        *published_rules(BACKBONE),
        kept("pixel decoder", f"{re.escape(PIXEL_DECODER)}(?:{_PYRAMID})"),
        kept("transformer decoder", f"{re.escape(PREDICTOR)}(?:{_QUERIES})"),
        kept("class weights, which the model sets itself", re.escape(CLASS_WEIGHTS)),
    ]


def _first_release() -> list[Rule]:
    return [
        Rule(
            "pixel decoder, as the first release named it",
            f"{re.escape(HEAD)}({_PYRAMID})",
            lambda m: PIXEL_DECODER + m[1],
        ),
        Rule(
            "queries, as the first release named them",
            re.escape(f"{PREDICTOR}static_query.weight"),
            lambda m: f"{PREDICTOR}query_feat.weight",
        ),
    ]


def _fusion_rules() -> list[Rule]:
    beginning = rf"{re.escape(HEAD)}(?:pixel_decoder\.)?{_FUSION}"
    return [
        Rule(
            "fusion modules",
            rf"{beginning}({choice(PARTS)})(weight|bias)",
            lambda m: f"{PIXEL_DECODER}freqfusions.{m[1]}.{PARTS[m[2]]}{m[3]}",
        ),
        Rule("buffers that are recomputed", beginning + choice(BUFFERS)),
    ]


def _buffers(state: State) -> dict[str, Tensor]:
    found = {}
    for beginning, weights in fusion_modules(state).items():
        offset = weights.get("dysampler.hr_offset.weight")
        groups = None if offset is None else len(offset) // 2
        like = weights.get("content_encoder.weight")
        if like is None:
            raise ValueError(
                f"{beginning}* lacks {PARTS['content_encoder.']}weight: only FreqFusion has a "
                "form in published code"
            )
        made = buffers_without_window(groups, like)
        found.update({beginning + name: value for name, value in made.items()})
    return found

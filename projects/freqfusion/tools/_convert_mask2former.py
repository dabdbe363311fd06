"""Rename Mask2Former's published weights, and its FreqFusion fork's, and read their settings.

Our names are the published ones but for the parts of FreqFusion. Files of the first release, which
are most of those to be had, lack ``pixel_decoder.`` and have another name for the queries.
"""

import re

import torch
from torch import Tensor

from freqfusion.tools import _convert_names as names
from freqfusion.tools import _convert_settings as settings
from freqfusion.tools._convert_names import (
    BACKBONE,
    FIRST_STAGE,
    PARTS,
    PREDICTOR,
    Conversion,
    Rule,
    State,
    choice,
    count_layers,
)

HEAD = "sem_seg_head."
PIXEL_DECODER = f"{HEAD}pixel_decoder."
# What Mask2Former's code must find in a state dict, or it takes the names for older ones.
VERSIONS = {HEAD.rstrip("."): 2, PREDICTOR.rstrip("."): 2}

_FUSION = r"freqfusions\.(\d+)\."
_ORIGINAL = {new: old for old, new in PARTS.items()}
# Blocks of each stage, whether they are bottlenecks, and what such a ResNet is called.
_TOP_STAGE = 5
# The weights tell heads times points; all published models have these points.
_NUM_POINTS = 4


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
    fusion = rf"{re.escape(HEAD)}(?:pixel_decoder\.)?{_FUSION}"
    older = rf"{re.escape(HEAD)}(?!pixel_decoder\.|predictor\.)(.+)"
    rules = [
        Rule(
            "queries, as the first release named them",
            re.escape(f"{PREDICTOR}static_query.weight"),
            lambda m: f"{PREDICTOR}query_feat.weight",
        ),
        Rule(
            "fusion modules",
            rf"{fusion}({choice(PARTS)})(weight|bias)",
            lambda m: f"{PIXEL_DECODER}freqfusions.{m[1]}.{PARTS[m[2]]}{m[3]}",
        ),
        Rule("buffers that are recomputed", fusion + names.FUSION_BUFFERS),
        Rule("pixel decoder, as the first release named it", older, lambda m: PIXEL_DECODER + m[1]),
    ]
    return names.convert(state, [*rules, *_kept()])


def publish(state: State) -> Conversion:
    """Rename weights of ours for Mask2Former's code, or for the fork where there is FreqFusion.

    Buffers are made anew, those of the fork for modules without Hamming windows: it knows no
    others.

    Raises:
        ValueError: if a name has no rule; other fusions than FreqFusion have none.
    """
    rule = Rule(
        "fusion modules",
        rf"{re.escape(PIXEL_DECODER)}{_FUSION}({choice(_ORIGINAL)})(weight|bias)",
        lambda m: f"{PIXEL_DECODER}freqfusions.{m[1]}.{_ORIGINAL[m[2]]}{m[3]}",
    )
    result = names.convert(state, [rule, *_kept()])
    result.state.update(_fork_buffers(state) | names.swin_indices(state, BACKBONE))
    return result


def windows(state: State) -> list[Tensor]:
    """Return the low-pass windows in a published state dict, one for each fusion module."""
    return [value for name, value in state.items() if name.endswith(".hamming_lowpass")]


def fusion_modules(state: State) -> dict[str, dict[str, Tensor]]:
    """Return prefixes of our fusion modules, and their weights under the research code's names."""
    pattern = re.compile(rf"{re.escape(PIXEL_DECODER)}{_FUSION}")
    prefixes = sorted({match[0] for match in map(pattern.match, state) if match})
    return {
        prefix: {
            old + kind: state[prefix + new + kind]
            for old, new in PARTS.items()
            for kind in ("weight", "bias")
            if prefix + new + kind in state
        }
        for prefix in prefixes
    }


def _kept() -> list[Rule]:
    """Return rules for what has the same name there and here, which the model then checks."""

    def kept(label: str, pattern: str) -> Rule:
        return Rule(label, pattern, lambda m: m[0])

    return [
        names.swin_index_rule(BACKBONE),
        kept("backbone", re.escape(BACKBONE) + ".+"),
        kept("pixel decoder", re.escape(PIXEL_DECODER) + ".+"),
        kept("transformer decoder", re.escape(PREDICTOR) + ".+"),
        kept("class weights, which the model sets itself", re.escape(names.CLASS_WEIGHTS)),
    ]


def _fork_buffers(state: State) -> dict[str, Tensor]:
    """Return the buffers of the fork's modules, which were built without Hamming windows."""
    found: dict[str, Tensor] = {}
    for prefix, weights in fusion_modules(state).items():
        like = weights.get("content_encoder.weight")
        if like is None:
            raise ValueError(
                f"{prefix}* lacks {PARTS['content_encoder.']}weight: only FreqFusion has a "
                "form in published code"
            )
        found |= {prefix + name: like.new_ones(1) for name in names.WINDOW_BUFFERS}
        offset = weights.get("dysampler.hr_offset.weight")
        if offset is not None:
            # From the center of a coarse pixel to those of its four fine pixels, in coarse pixels:
            # first all x, then all y, each for all groups, rows and columns.
            step = torch.tensor([-0.25, 0.25], dtype=like.dtype, device=like.device)
            y, x = torch.meshgrid(step, step, indexing="ij")
            positions = torch.stack([x, y]).flatten(1).repeat(1, len(offset) // 2)
            found |= {prefix + name: positions.view(1, -1, 1, 1) for name in names.POSITION_BUFFERS}
    return found


def mask2former_settings(state: State, windows: list[Tensor]) -> settings.Settings:
    """Return the keys of a Mask2Former.

    Args:
        state: The weights.
        windows: The low-pass windows of the fusion modules where the file had them.

    Raises:
        ValueError: if a weight is missing that a key is read from, or the backbone is unknown.
    """
    levels = _size(state, f"{PIXEL_DECODER}transformer.level_embed", 0)
    hops = max(count_layers(state, f"{PIXEL_DECODER}adapter_") - 1, 0)  # they are numbered from 1
    finest = _TOP_STAGE + 1 - levels - hops
    if finest < FIRST_STAGE:
        raise ValueError(
            f"the pixel decoder takes {levels + hops} maps, and a backbone has "
            f"{_TOP_STAGE + 1 - FIRST_STAGE}"
        )
    features = [f"res{stage}" for stage in range(finest, _TOP_STAGE + 1)]
    if names.is_swin(state, BACKBONE):
        backbone = settings.swin_settings(state, BACKBONE)
    else:
        backbone = settings.resnet_settings(state, BACKBONE) | {
            "MODEL.BACKBONE.NAME": "build_resnet_backbone",
            "MODEL.RESNETS.OUT_FEATURES": features,
        }
    decoder = {
        "IN_FEATURES": features,
        "ENCODER_FEATURES": features[-levels:],
        "COMMON_STRIDE": 2**finest,
        **_pixel_decoder(state, levels),
        **_transformer_decoder(state),
    }
    found: settings.Settings = {
        "MODEL.META_ARCHITECTURE": "Mask2Former",
        "MODEL.SEM_SEG_HEAD.NAME": "Mask2FormerHead",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _size(state, f"{PREDICTOR}class_embed.weight", 0) - 1,
    }
    found |= {f"MODEL.MASK2FORMER.{name}": value for name, value in decoder.items()}
    modules = list(fusion_modules(state).values())
    found["MODEL.FREQFUSION.ENABLED"] = bool(modules)
    if modules:
        hamming = {"hamming_lowpass": windows[0]} if windows else {}
        found |= settings.fusion_settings(modules[0] | hamming)
    return backbone | found


def _pixel_decoder(state: State, levels: int) -> settings.Settings:
    layer = f"{PIXEL_DECODER}transformer.encoder.layers.0."
    rows = _size(state, f"{layer}self_attn.attention_weights.weight", 0)
    if rows % (levels * _NUM_POINTS):
        raise ValueError(
            f"the encoder's attention has {rows} weights, which is no multiple of {_NUM_POINTS}"
            f" points in {levels} maps, as all published models have them"
        )
    adapter = f"{PIXEL_DECODER}adapter_1."
    plain = f"{adapter}bias" in state
    counted = f"{adapter}norm.num_batches_tracked" in state
    return {
        "CONV_DIM": _size(state, f"{PIXEL_DECODER}mask_features.weight", 1),
        "MASK_DIM": _size(state, f"{PIXEL_DECODER}mask_features.weight", 0),
        "NORM": "" if plain else "BN" if counted else "GN",
        "ENCODER_LAYERS": count_layers(state, f"{PIXEL_DECODER}transformer.encoder.layers."),
        "ENCODER_FEEDFORWARD": _size(state, f"{layer}linear1.weight", 0),
        "ENCODER_POINTS": _NUM_POINTS,
        "NHEADS": rows // (levels * _NUM_POINTS),
    }


def _transformer_decoder(state: State) -> settings.Settings:
    hidden = _size(state, f"{PREDICTOR}query_feat.weight", 1)
    found: settings.Settings = {
        "HIDDEN_DIM": hidden,
        "NUM_QUERIES": _size(state, f"{PREDICTOR}query_feat.weight", 0),
        "DECODER_LAYERS": count_layers(state, f"{PREDICTOR}transformer_ffn_layers."),
        "DECODER_FEEDFORWARD": _size(
            state, f"{PREDICTOR}transformer_ffn_layers.0.linear1.weight", 0
        ),
    }
    projection = state.get(f"{PREDICTOR}input_proj.0.weight")
    found["ENFORCE_INPUT_PROJ"] = projection is not None and projection.shape[1] == hidden
    if names.CLASS_WEIGHTS in state and not state[names.CLASS_WEIGHTS].is_meta:
        found["NO_OBJECT_WEIGHT"] = round(state[names.CLASS_WEIGHTS][-1].item(), 6)
    return found


def _size(state: State, name: str, axis: int) -> int:
    return names.needed_weight(state, name, "Mask2Former").shape[axis]

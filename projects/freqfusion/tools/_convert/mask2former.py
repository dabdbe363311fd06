"""Mask2Former's published weights, and those of its FreqFusion fork, under our names and back.

The settings of a model are read from its weights.

Our names are the published ones but for the parts of FreqFusion. Files of the first release, which
are most of those to be had, lack ``pixel_decoder.`` and have another name for the queries.
"""

import re

from torch import Tensor

from freqfusion.tools._convert.fusion import (
    BUFFERS,
    PARTS,
    buffers_without_window,
    fusion_settings,
    under_original_names,
)
from freqfusion.tools._convert.rules import (
    RGB_INPUT,
    Conversion,
    Rule,
    Settings,
    State,
    choice,
    convert,
    count_layers,
)
from freqfusion.tools._convert.swin import indices, is_swin, published_rules, swin_settings

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
# Blocks of each stage, whether they are bottlenecks, and what such a ResNet is called.
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
_FIRST_STAGE, _TOP_STAGE = 2, 5
_STAGES = range(_FIRST_STAGE, _TOP_STAGE + 1)
# The weights tell heads times points; all published models have these points.
_POINTS = 4


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


def mask2former_settings(state: State, windows: list[Tensor]) -> Settings:
    """Keys for weights under our names.

    Args:
        state: The weights.
        windows: The low-pass windows of the fusion modules where the file had them.

    Raises:
        ValueError: if a weight is missing that a key is read from, or the backbone is unknown.
    """
    levels = _size(state, f"{PIXEL_DECODER}transformer.level_embed", 0)
    hops = max(count_layers(state, f"{PIXEL_DECODER}adapter_") - 1, 0)  # they are numbered from 1
    finest = _TOP_STAGE + 1 - levels - hops
    if finest < _FIRST_STAGE:
        raise ValueError(
            f"the pixel decoder takes {levels + hops} maps, and a backbone has "
            f"{_TOP_STAGE + 1 - _FIRST_STAGE}"
        )
    features = [f"res{stage}" for stage in range(finest, _TOP_STAGE + 1)]
    if is_swin(state, BACKBONE):
        backbone = swin_settings(state, BACKBONE)
    else:
        backbone = resnet_settings(state) | {"MODEL.RESNETS.OUT_FEATURES": features}
    decoder = {
        "IN_FEATURES": features,
        "ENCODER_FEATURES": features[-levels:],
        "COMMON_STRIDE": 2**finest,
        **_pixel_decoder(state, levels),
        **_transformer_decoder(state),
    }
    found: Settings = {
        "MODEL.META_ARCHITECTURE": "Mask2Former",
        "MODEL.SEM_SEG_HEAD.NAME": "Mask2FormerHead",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _size(state, f"{PREDICTOR}class_embed.weight", 0) - 1,
    }
    found |= {f"MODEL.MASK2FORMER.{name}": value for name, value in decoder.items()}
    modules = list(fusion_modules(state).values())
    found["MODEL.FREQFUSION.ENABLED"] = bool(modules)
    if modules:
        hamming = {"hamming_lowpass": windows[0]} if windows else {}
        found |= fusion_settings(modules[0] | hamming)
    return backbone | found


def resnet_settings(state: State) -> Settings:
    """Keys of Detectron2's ResNet; published ones have torchvision's strides and input."""
    first = f"{BACKBONE}res2.0."
    bottleneck = f"{first}conv3.weight" in state
    blocks = tuple(count_layers(state, f"{BACKBONE}res{stage}.") for stage in _STAGES)
    if (blocks, bottleneck) not in _DEPTHS:
        kind = "bottlenecks" if bottleneck else "plain blocks"
        raise ValueError(
            f"the backbone has {blocks} {kind}; only ResNets of depth "
            f"{', '.join(str(depth) for depth in _DEPTHS.values())} are known"
        )
    inner = _size(state, f"{first}conv1.weight", 0)
    groups = inner // _size(state, f"{first}conv2.weight", 1)
    # Only norms that are trained, or were once, count batches.
    counted = f"{BACKBONE}stem.conv1.norm.num_batches_tracked" in state
    last = "conv3" if bottleneck else "conv2"
    return RGB_INPUT | {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": _DEPTHS[blocks, bottleneck],
        "MODEL.RESNETS.NORM": "BN" if counted else "FrozenBN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": _size(state, f"{BACKBONE}stem.conv1.weight", 0),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _size(state, f"{first}{last}.weight", 0),
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": inner // groups,
    }


def _pixel_decoder(state: State, levels: int) -> Settings:
    layer = f"{PIXEL_DECODER}transformer.encoder.layers.0."
    rows = _size(state, f"{layer}self_attn.attention_weights.weight", 0)
    if rows % (levels * _POINTS):
        raise ValueError(
            f"the encoder's attention has {rows} weights, which is no multiple of {_POINTS} points "
            f"in {levels} maps, as all published models have them"
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
        "ENCODER_POINTS": _POINTS,
        "NHEADS": rows // (levels * _POINTS),
    }


def _transformer_decoder(state: State) -> Settings:
    hidden = _size(state, f"{PREDICTOR}query_feat.weight", 1)
    found: Settings = {
        "HIDDEN_DIM": hidden,
        "NUM_QUERIES": _size(state, f"{PREDICTOR}query_feat.weight", 0),
        "DECODER_LAYERS": count_layers(state, f"{PREDICTOR}transformer_ffn_layers."),
        "DECODER_FEEDFORWARD": _size(
            state, f"{PREDICTOR}transformer_ffn_layers.0.linear1.weight", 0
        ),
    }
    projection = state.get(f"{PREDICTOR}input_proj.0.weight")
    found["ENFORCE_INPUT_PROJ"] = projection is not None and projection.shape[1] == hidden
    if CLASS_WEIGHTS in state and not state[CLASS_WEIGHTS].is_meta:
        found["NO_OBJECT_WEIGHT"] = round(state[CLASS_WEIGHTS][-1].item(), 6)
    return found


def _size(state: State, name: str, axis: int) -> int:
    if name not in state:
        raise ValueError(f"the weight {name} is missing, which every Mask2Former has")
    return state[name].shape[axis]

"""The configuration keys of a Mask2Former that its weights tell."""

import re

from torch import Tensor

from freqfusion.tools._convert.mask2former import (
    BACKBONE,
    CLASS_WEIGHTS,
    PIXEL_DECODER,
    PREDICTOR,
    fusion_modules,
)
from freqfusion.tools._convert.rules import State
from freqfusion.tools._convert.settings import RGB_INPUT, Settings, fusion_settings
from freqfusion.tools._convert.swin import is_swin, swin_settings

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


def mask2former_settings(state: State, windows: list[Tensor]) -> Settings:
    """Keys for weights under our names.

    Args:
        state: The weights.
        windows: The low-pass windows of the fusion modules where the file had them.

    Raises:
        ValueError: if a weight is missing that a key is read from, or the backbone is unknown.
    """
    levels = _size(state, f"{PIXEL_DECODER}transformer.level_embed", 0)
    hops = max(_count(state, f"{PIXEL_DECODER}adapter_") - 1, 0)  # they are numbered from 1
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
    blocks = tuple(_count(state, f"{BACKBONE}res{stage}.") for stage in _STAGES)
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
        "ENCODER_LAYERS": _count(state, f"{PIXEL_DECODER}transformer.encoder.layers."),
        "ENCODER_FEEDFORWARD": _size(state, f"{layer}linear1.weight", 0),
        "ENCODER_POINTS": _POINTS,
        "NHEADS": rows // (levels * _POINTS),
    }


def _transformer_decoder(state: State) -> Settings:
    hidden = _size(state, f"{PREDICTOR}query_feat.weight", 1)
    found: Settings = {
        "HIDDEN_DIM": hidden,
        "NUM_QUERIES": _size(state, f"{PREDICTOR}query_feat.weight", 0),
        "DECODER_LAYERS": _count(state, f"{PREDICTOR}transformer_ffn_layers."),
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


def _count(state: State, beginning: str) -> int:
    """One more than the highest number of a layer; a gap is found later as missing weights."""
    pattern = re.compile(rf"{re.escape(beginning)}(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, state) if match), default=0)

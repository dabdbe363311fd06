"""Read a model's configuration from weights under our names, and hold them against the model."""

import math
import re

from torch import Tensor

from freqfusion.messages import shorten
from freqfusion.tools._convert_names import (
    CLASS_WEIGHTS,
    FIRST_STAGE,
    LAST_STAGE,
    State,
    count_layers,
    count_levels,
    neck_stages,
    needed_weight,
    swin_window,
)

Settings = dict[str, object]
# Statistics of ImageNet, in the order of the channels, times 255.
INPUT: Settings = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
RESNET_INPUT: Settings = {"MODEL.RESNETS.STRIDE_IN_1X1": False} | INPUT
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
_STAGES = range(FIRST_STAGE, LAST_STAGE + 1)
_NUM_TAPS = 9
# By channels and blocks of the published InternImages that do not have 1: L and XL.
_OFFSET_SCALES: dict[tuple[int, ...], float] = {
    (160, 5, 5, 22, 5): 2.0,
    (192, 5, 5, 24, 5): 2.0,
}
_BLOCKS_TO_A_NORM = 6
_NUM_NEIGHBORS = 8


def neck_settings(state: State, *, source: str = "") -> Settings:
    """Return the keys of the pyramid that a neck, under its old names, asks for."""
    stages = neck_stages(state, source=source)
    settings: Settings = {
        "MODEL.FPN.IN_FEATURES": [f"res{stage}" for stage in stages],
        "MODEL.FPN.OUT_CHANNELS": state[f"{source}lateral_convs.0.conv.weight"].shape[0],
        "MODEL.FREQFUSION.FUSED_TOP_LEVEL": count_levels(state, source=source) > len(stages),
    }
    first = f"{source}alignment.0."
    fusion = {k[len(first) :]: value for k, value in state.items() if k.startswith(first)}
    enabled = "content_encoder.weight" in fusion
    settings["MODEL.FREQFUSION.ENABLED"] = enabled
    return settings | (fusion_settings(fusion) if enabled else {})


def fusion_settings(fusion: dict[str, Tensor]) -> Settings:
    """Return the keys of one fusion module under the research code's names."""
    lowpass = fusion["content_encoder.weight"]
    taps, compressed, width = lowpass.shape[:3]
    found: Settings = {
        "COMPRESSED_CHANNELS": compressed,
        "ENCODER_KERNEL": width,
        "LOWPASS_KERNEL": math.isqrt(taps),
        "USE_HIGH_PASS": "content_encoder2.weight" in fusion,
        "FEATURE_RESAMPLE": "dysampler.offset.weight" in fusion,
    }
    if "content_encoder2.weight" in fusion:
        found["HIGHPASS_KERNEL"] = math.isqrt(fusion["content_encoder2.weight"].shape[0])
    if "hamming_lowpass" in fusion:
        found["HAMMING_WINDOW"] = fusion["hamming_lowpass"].numel() > 1
    if "dysampler.hr_offset.weight" in fusion:
        offset = fusion["dysampler.hr_offset.weight"]
        both = offset.shape[1] == compressed + _NUM_NEIGHBORS
        found["FEATURE_RESAMPLE_GROUP"] = offset.shape[0] // 2
        found["FEATURE_RESAMPLE_NORM"] = "dysampler.norm_hr.weight" in fusion
        found["SAMPLER_FEATURES"] = "sim_concat" if both else "sim"
    return {f"MODEL.FREQFUSION.{name}": value for name, value in found.items()}


def resnet_settings(state: State, prefix: str) -> Settings:
    """Return the keys of a ResNet of torchvision's strides and input.

    Raises:
        ValueError: if it has another number of blocks than the known ones.
    """
    first = f"{prefix}res2.0."
    bottleneck = f"{first}conv3.weight" in state
    blocks = tuple(count_layers(state, f"{prefix}res{stage}.") for stage in _STAGES)
    if (blocks, bottleneck) not in _DEPTHS:
        kind = "bottlenecks" if bottleneck else "plain blocks"
        raise ValueError(
            f"the backbone has {blocks} {kind}; only ResNets of depth "
            f"{', '.join(str(depth) for depth in _DEPTHS.values())} are known"
        )

    def size(name: str, axis: int = 0) -> int:
        return int(needed_weight(state, f"{prefix}{name}.weight", "ResNet").shape[axis])

    inner = size("res2.0.conv1")
    groups = inner // size("res2.0.conv2", 1)
    # Only norms that are trained, or were once, count batches.
    counted = f"{prefix}stem.conv1.norm.num_batches_tracked" in state
    return RESNET_INPUT | {
        "MODEL.RESNETS.DEPTH": _DEPTHS[blocks, bottleneck],
        "MODEL.RESNETS.NORM": "BN" if counted else "FrozenBN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": size("stem.conv1"),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": size(f"res2.0.conv{3 if bottleneck else 2}"),
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": inner // groups,
    }


def swin_settings(state: State, prefix: str) -> Settings:
    """Return the keys of a Swin, except stochastic depth, which weights do not tell.

    Raises:
        ValueError: if a weight is missing that a key is read from.
    """
    block = f"{prefix}layers.{{}}.blocks.0."
    stages = count_layers(state, f"{prefix}layers.")
    tables = [f"{block.format(stage)}attn.relative_position_bias_table" for stage in range(stages)]
    hidden, channels = needed_weight(state, f"{block.format(0)}mlp.fc1.weight", "Swin").shape
    normalized = [stage for stage in range(stages) if f"{prefix}norm{stage}.weight" in state]
    found = {
        "EMBED_DIM": channels,
        "DEPTHS": [
            count_layers(state, f"{prefix}layers.{stage}.blocks.") for stage in range(stages)
        ],
        "NUM_HEADS": [needed_weight(state, table, "Swin").shape[1] for table in tables],
        "WINDOW_SIZE": swin_window(state, tables[0]),
        "MLP_RATIO": hidden / channels,
        "QKV_BIAS": f"{block.format(0)}attn.qkv.bias" in state,
        "PATCH_NORM": f"{prefix}patch_embed.norm.weight" in state,
        # Classifiers have none of these norms.
        "OUT_FEATURES": [f"res{FIRST_STAGE + stage}" for stage in normalized or range(stages)],
    }
    return {
        "MODEL.BACKBONE.NAME": "build_swin_backbone",
        **{f"MODEL.SWIN.{name}": value for name, value in found.items()},
        **INPUT,
    }


def internimage_settings(state: State, prefix: str) -> Settings:
    """Return the keys of an InternImage.

    Weights tell neither stochastic depth nor ``OFFSET_SCALE``, which is that of the published model
    with as many channels and blocks, else 1; nor which blocks have further norms behind them, which
    are taken for those of the published sizes H and G.

    Raises:
        ValueError: if a weight is missing that a key is read from, or further norms are more or
            less than those sizes have.
    """
    stages = count_layers(state, f"{prefix}levels.")
    depths = [count_layers(state, f"{prefix}levels.{stage}.blocks.") for stage in range(stages)]
    block = f"{prefix}levels.{{}}.blocks.0."
    hidden, channels = needed_weight(state, f"{block.format(0)}mlp.fc1.weight", "InternImage").shape
    offsets = [
        needed_weight(state, f"{block.format(i)}dcn.offset.weight", "InternImage")
        for i in range(stages)
    ]
    depthwise = needed_weight(state, f"{block.format(0)}dcn.dw_conv.0.weight", "InternImage")
    mixes_center = f"{block.format(0)}dcn.center_feature_scale_proj_bias" in state
    res_post_norm = f"{block.format(0)}res_post_norm1.0.weight" in state
    found = {
        "CHANNELS": channels,
        "DEPTHS": depths,
        "GROUPS": [len(rows) // (2 * _NUM_TAPS) for rows in offsets],
        "MLP_RATIO": hidden / channels,
        # Stages that center_feature_scale normalizes too do not tell; H alone has res_post_norm.
        "POST_NORM": not res_post_norm
        if mixes_center
        else f"{prefix}levels.0.norm.0.weight" not in state,
        "OFFSET_SCALE": _OFFSET_SCALES.get((channels, *depths), 1.0),
        "DEPTHWISE_KERNEL": depthwise.shape[-1],
        "CENTER_FEATURE_SCALE": mixes_center,
        "RES_POST_NORM": res_post_norm,
        "POST_NORM_BLOCKS": _further_norms(state, prefix, depths),
        # Where the factors start does not matter to weights that have them.
        "LAYER_SCALE": float(f"{block.format(0)}gamma1" in state),
        "OUT_FEATURES": [f"res{FIRST_STAGE + stage}" for stage in range(stages)],
    }
    return {
        "MODEL.BACKBONE.NAME": "build_internimage_backbone",
        **{f"MODEL.INTERNIMAGE.{name}": value for name, value in found.items()},
        **INPUT,
    }


def _further_norms(state: State, prefix: str, depths: list[int]) -> list[int]:
    """Return the blocks of the third stage with a norm behind them: every sixth one, or none."""
    found = count_layers(state, f"{prefix}levels.2.post_norms.")
    if found and found != depths[2] // _BLOCKS_TO_A_NORM:
        raise ValueError(
            f"the third stage has {found} further norms (post_norms) for {depths[2]} blocks, and "
            "weights do not tell where; published models have one behind every sixth block"
        )
    return [_BLOCKS_TO_A_NORM * (norm + 1) - 1 for norm in range(found)]


def check_against_model(state: State, settings: Settings, *, backbone: str | None = None) -> None:
    """Compare names and shapes with a model of these settings, which takes no memory.

    Args:
        state: The weights.
        settings: Keys of the model.
        backbone: Prefix of all names in ``state``, for a backbone alone; None for a whole model.

    Raises:
        ValueError: if weights are missing, left over or of another shape, or such a model cannot
            be built.
    """
    import torch
    from detectron2.modeling import build_backbone, build_model

    from freqfusion import get_freqfusion_cfg

    cfg = get_freqfusion_cfg()
    cfg.merge_from_list([part for item in settings.items() for part in item])
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            model = build_model(cfg) if backbone is None else build_backbone(cfg)
    except (AssertionError, LookupError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"no model can be built for these weights: {error}") from error
    prefix = backbone or ""
    expected = {prefix + name: tuple(value.shape) for name, value in model.state_dict().items()}
    # A model sets the weights of its classes itself; a Swin that classifies has none of the norms.
    may_lack = rf"{re.escape(CLASS_WEIGHTS)}|{re.escape(prefix)}norm\d+\.(?:weight|bias)"
    problems = {
        "missing": [
            name for name in expected if name not in state and not re.fullmatch(may_lack, name)
        ],
        "left over": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} has {tuple(value.shape)} in place of {expected[name]}"
            for name, value in state.items()
            if name in expected and tuple(value.shape) != expected[name]
        ],
    }
    for kind, names in problems.items():
        if names:
            raise ValueError(
                f"{len(names)} weights are {kind} for the model that the others belong to: "
                f"{shorten(names)}"
            )

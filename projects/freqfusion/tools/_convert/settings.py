"""The configuration keys that a checkpoint's shapes decide, since a model without them differs."""

import math
import re

from torch import Tensor

from freqfusion.tools._convert.neck import count_levels
from freqfusion.tools._convert.rules import State

Settings = dict[str, object]
_NEIGHBOURS = 8

# Statistics of ImageNet, in the order of the channels, times 255.
RGB_INPUT: Settings = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def count_layers(state: State, beginning: str) -> int:
    """One more than the highest number of a layer; a gap is found later as missing weights."""
    pattern = re.compile(rf"{re.escape(beginning)}(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, state) if match), default=0)


def needed_weight(state: State, name: str, model: str) -> Tensor:
    """A weight that every ``model`` has; ValueError if it is missing."""
    if name not in state:
        raise ValueError(f"the weight {name} is missing, which every {model} has")
    return state[name]


def neck_settings(state: State, *, source: str = "") -> Settings:
    """Keys of the pyramid that a neck (under its old names) asks for."""
    levels = count_levels(state, source=source)
    top = state[f"{source}lateral_convs.{levels - 1}.conv.weight"]
    settings: Settings = {
        "MODEL.FPN.OUT_CHANNELS": top.shape[0],
        "MODEL.FREQFUSION.FUSED_TOP_LEVEL": top.shape[-1] == 3,
    }
    first = f"{source}alignment.0."
    fusion = {k[len(first) :]: value for k, value in state.items() if k.startswith(first)}
    enabled = "content_encoder.weight" in fusion
    settings["MODEL.FREQFUSION.ENABLED"] = enabled
    return settings | (fusion_settings(fusion) if enabled else {})


def fusion_settings(fusion: dict[str, Tensor]) -> Settings:
    """Keys of one fusion module, under the research code's names."""
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
        both = offset.shape[1] == compressed + _NEIGHBOURS
        found["FEATURE_RESAMPLE_GROUP"] = offset.shape[0] // 2
        found["FEATURE_RESAMPLE_NORM"] = "dysampler.norm_hr.weight" in fusion
        found["SAMPLER_FEATURES"] = "sim_concat" if both else "sim"
    return {f"MODEL.FREQFUSION.{name}": value for name, value in found.items()}

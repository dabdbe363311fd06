"""FreqFusion and its neck in mmdetection: names of the research code and here, and settings."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from freqfusion.layers.freqfusion import ORIGINAL_BUFFERS, ORIGINAL_NAMES
from freqfusion.layers.sampler import ORIGINAL_BUFFERS as SAMPLER_BUFFERS
from freqfusion.layers.sampler import ORIGINAL_NAMES as SAMPLER_NAMES
from freqfusion.tools._convert.rules import Conversion, Rule, Settings, State, choice, convert

_FIRST_STAGE = 2
_NEIGHBOURS = 8
_SAMPLER = "dysampler."
# The one part of the sampler that is called here as it was there.
_KEPT = {"hr_offset.": "hr_offset."}
# Beginnings of names, there and here; what follows is "weight" or "bias".
PARTS = {old: new for old, new in ORIGINAL_NAMES.items() if old != _SAMPLER} | {
    _SAMPLER + old: ORIGINAL_NAMES[_SAMPLER] + new for old, new in (SAMPLER_NAMES | _KEPT).items()
}
_WINDOWS = list(ORIGINAL_BUFFERS)
_POSITIONS = [_SAMPLER + name for name in SAMPLER_BUFFERS]
BUFFERS = [*_WINDOWS, *_POSITIONS]


def buffers_without_window(groups: int | None, like: Tensor) -> dict[str, Tensor]:
    """The buffers that the research code's module has when it was built without Hamming windows.

    Args:
        groups: Channel groups of the offset generator; ``None`` where there is none.
        like: Has their type.
    """
    buffers = {name: like.new_ones(1) for name in _WINDOWS}
    if groups is None:
        return buffers
    # From the centre of a coarse pixel to those of its four fine pixels, in coarse pixels: first
    # all x, then all y, each for all groups, rows and columns.
    step = torch.tensor([-0.25, 0.25], dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(step, step, indexing="ij")
    positions = torch.stack([x, y]).flatten(1).repeat(1, groups).view(1, -1, 1, 1)
    return buffers | dict.fromkeys(_POSITIONS, positions)


def under_original_names(state: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """The weights of one of our modules, whose names begin so, under the research code's names."""
    return {
        old + kind: state[beginning + new + kind]
        for old, new in PARTS.items()
        for kind in ("weight", "bias")
        if beginning + new + kind in state
    }


def convert_neck(state: State, *, source: str = "", prefix: str = "") -> Conversion:
    """Rename a neck's weights, for instance ``lateral_convs.0.conv.weight``.

    Args:
        state: The entries of the neck and no others.
        source: What their names begin with.
        prefix: What the new names begin with.

    Raises:
        ValueError: if a name is none of the neck, or its levels do not belong together.
    """
    return convert(state, neck_rules(state, source=source, prefix=prefix))


def neck_rules(state: State, *, source: str, prefix: str) -> list[Rule]:
    """Rules for one neck; which fusion modules are used depends on its levels."""
    hops = count_levels(state, source=source) - 1
    old = re.escape(source)
    unused = rf"{old}alignment\.{hops}\..*"

    def level(match: re.Match[str], kind: str, rest: str) -> str:
        return f"{prefix}fpn_{kind}{int(match[1]) + _FIRST_STAGE}.{rest}"

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
        Rule("buffers that are recomputed", rf"{old}alignment\.\d+\.{choice(BUFFERS)}"),
    ]


def count_levels(state: State, *, source: str) -> int:
    """The number of levels of a neck.

    Raises:
        ValueError: if it has not one lateral and one output convolution a level, or fusion modules
            for some of its hops only.
    """
    lateral, output, fusion = (
        _indices(state, source + kind) for kind in ("lateral_convs.", "fpn_convs.", "alignment.")
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


def _indices(state: State, beginning: str) -> set[int]:
    pattern = re.compile(rf"{re.escape(beginning)}(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, state) if match}


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

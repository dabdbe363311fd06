"""Arguments that a layer cannot use are named in the error."""

import inspect
from typing import Literal, get_origin

import layer_cases
import pytest
import torch

from freqfusion import layers
from freqfusion.layers import sfm
from freqfusion.layers.sfm.spectrum import aliasing_ratio, equivalent_sampling_rate
from freqfusion.layers.sfm.supervision import attention_edge_loss, semantic_edge_target

MAPS, ONE = torch.zeros(1, 4, 5, 7), torch.ones(1, 1, 4, 4)
SHAPES = [(3, 5), (1, 1), (4, 2)]
VALUE, LOCATIONS = torch.zeros(2, 24, 2, 3), torch.zeros(2, 6, 2, 3, 2, 2)
WEIGHTS = LOCATIONS[..., 0]


def dcn(value=None, offsets=None, weights=None, **options):
    value = torch.zeros(2, 5, 4, 6) if value is None else value
    offsets = torch.zeros(2, 5, 4, 36) if offsets is None else offsets
    weights = torch.zeros(2, 5, 4, 18) if weights is None else weights
    defaults = {"kernel_size": 3, "padding": 1, "groups": 2}
    return layers.deformable_convolution_v3(value, offsets, weights, **{**defaults, **options})


def fusion(**options):
    defaults = {"hr_channels": 4, "lr_channels": 8, "compressed_channels": 8}
    return layers.FreqFusion(**{"feature_resample": True, **defaults, **options})


def attend(value=VALUE, shapes=SHAPES, locations=LOCATIONS, weights=WEIGHTS, **options):
    return layers.deformable_attention(value, shapes, locations, weights, **options)


def attention_layer(query=(2, 5, 8), points=(2, 5, 3, 2), value=(2, 24, 8), **given):
    layer = layers.MultiScaleDeformableAttention(embed_dim=8, num_levels=3, num_heads=2)
    tensors = (torch.zeros(shape) for shape in (query, points, value))
    return layer(*tensors, given.pop("spatial_shapes", SHAPES), **given)


def reassemble(features=MAPS, kernels=(1, 9, 5, 7), **options):
    return layers.reassemble(features, torch.zeros(kernels), **{"kernel_size": 3, **options})


def similarity(**options):
    return layers.local_similarity(MAPS, **options)


def displaced(saliency=ONE, **options):
    return sfm.saliency_to_displacement(saliency, **options)


def inverse(displacement=(1, 2, 4, 4), points=None, **options):
    points = None if points is None else torch.zeros(points)
    return sfm.invert_displacement(torch.zeros(displacement), points, **options)


def interpolated(features=(1, 1, 4, 4), points=(1, 3, 3, 2), **options):
    return sfm.interpolate_at(torch.zeros(features), torch.zeros(points), **options)


def stage(**changes):
    options = {"align_corners": False, "stride": 2, "phase": 0.5, "out_size": (2, 2)} | changes
    return layers.Mapping(options.pop("displacement", torch.zeros(1, 2, 4, 4)), **options)


def constructed():
    """Every whole number and every word that a module is built with, and what it cannot be."""
    for name in layer_cases.MODULES:
        module = getattr(sfm, name, None) or getattr(layers, name)
        parameters = inspect.signature(module).parameters
        needed = {argument: NEEDED[argument] for argument in parameters if argument in NEEDED}
        for argument, parameter in parameters.items():
            wrong = []
            if parameter.annotation is int:
                is_odd = "kernel" in argument or argument in ("pool", "local_window")
                wrong = [0, 4] if is_odd else [0]
            elif get_origin(parameter.annotation) is Literal:
                wrong = ["other"]
            for value in wrong:
                options = {**needed, argument: value}
                yield pytest.param(module, argument, options, id=f"{name}-{argument}-{value}")


# Widths, and what some checks depend on.
NEEDED = {
    **dict.fromkeys(("channels", "hr_channels", "lr_channels", "guide_channels"), 8),
    "compressed_channels": 8,
    "groups": 2,
    "feature_resample": True,
    "in_channels": [8, 8],
    "make_fusion": layer_cases.joined,
}


@pytest.mark.parametrize(("module", "argument", "options"), constructed())
def test_what_modules_are_built_with_is_named(module, argument, options):
    with pytest.raises(ValueError, match=rf"{argument}\b"):
        module(**options)


# Argument -> values that are refused.
WRONG = {
    fusion: {"align_corners": [True], "feature_resample_group": [3]},
    lambda **o: layers.LocalSimilaritySampler(channels=8, **o): {"local_window": [1]},
    lambda **o: layers.MultiScaleDeformableAttention(**o): {"num_heads": [3]},
    lambda **o: layers.DeformableConvolutionV3(**{"channels": 8, "groups": 2, **o}): {
        "groups": [3],
        "offset_scale": [0.0],
    },
    lambda **o: sfm.SemanticHighFreqAttention(channels=8, **o): {
        "bins": [(1, 0)],
        "logit_bound": [0],
    },
    lambda **o: layers.AdaptiveResampling(channels=4, **o): {"fwhm": [0], "strength": [1.5]},
    lambda **o: layers.LocalPixelRelation(**o): {"kernel_size": [1], "center_init": [0.0, 1.0]},
    lambda **o: layers.ThreePointReassembly(channels=4, **o): {"groups": [3]},
    lambda **o: layers.NonUniformUpsample(**o): {"interp": ["barycentric"]},
    stage: {
        "displacement": [torch.zeros(1, 3, 4, 4)],
        "stride": [0],
        "out_size": [(0, 2)],
    },
    reassemble: {
        "kernel_size": [2],
        "scale": [0],
        "padding_mode": ["mirror"],
        "groups": [3],
        "kernels": [(1, 25, 5, 7), (1, 9, 5, 8), (2, 9, 5, 7)],
    },
    similarity: {"kernel_size": [1, 4], "dilation": [0], "measure": ["l2"]},
    attend: {
        "implementation": ["cuda"],
        "value": [torch.zeros(2, 24, 6)],
        "weights": [torch.zeros(2, 6, 2, 3, 1)],
        "locations": [torch.zeros(2, 6, 2, 3, 2, 3), torch.zeros(1, 6, 2, 3, 2, 2)],
    },
    attention_layer: {
        "query": [(2, 5, 9)],
        "value": [(24, 8)],
        "points": [(2, 5, 3, 3), (2, 5, 2)],
        "padding_mask": [torch.zeros(2, 24), torch.zeros(2, 5).bool()],
    },
    dcn: {
        **{name: [0] for name in ("kernel_size", "stride", "dilation", "groups")},
        "padding": [-1, (1, -1)],
        "value": [torch.zeros(2, 5, 6), torch.zeros(2, 0, 4, 6)],
        "offsets": [torch.zeros(2, 5, 4, 18)],
        "weights": [torch.zeros(1, 5, 4, 18)],
    },
    displaced: {
        "saliency": [torch.ones(1, 2, 4, 4), torch.ones(1, 4, 4)],
        "radius": [0],
        "fwhm": [0.0],
    },
    inverse: {
        "displacement": [(1, 3, 4, 4), (1, 2, 0, 4)],
        "points": [(2, 3, 3, 2), (1, 3, 3, 3)],
        "out_size": [(0, 3)],
        "solver": ["qhull"],
        "grad": ["none"],
        "iters": [0],
    },
    interpolated: {
        "features": [(2, 4, 4), (1, 2, 0, 4)],
        "points": [(2, 3, 3, 2), (1, 3, 2)],
        "interp": ["cubic"],
    },
    lambda **o: sfm.modulate(torch.zeros(1, 2, 4, 5), **{"displacement": ONE, **o}): {
        "displacement": [torch.zeros(1, 2, 5, 4)],
    },
    lambda **o: sfm.modulate(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5), **o): {
        "mode": ["nearest"],
    },
    lambda **o: layers.AdaptiveResampling(channels=1)(ONE, **o): {"stride": [0]},
    lambda **o: aliasing_ratio(ONE, **o): {
        "stride": [0],
        "f_nyquist": [0.0, 0.6],
        "window": ["box"],
    },
    lambda **o: equivalent_sampling_rate(3, 2, c_out=64, **o): {"c_in": [0]},
    lambda **o: semantic_edge_target(torch.zeros(1, 4, 4), **o): {"width": [2]},
    lambda **o: attention_edge_loss(ONE, ONE, **o): {"kind": ["l2"], "floor": [-1]},
}


@pytest.mark.parametrize(
    ("build", "argument", "value"),
    [
        pytest.param(build, argument, value, id=f"{build.__name__}-{argument}-{number}")
        for build, wrong in WRONG.items()
        for argument, values in wrong.items()
        for number, value in enumerate(values)
    ],
)
def test_wrong_arguments_are_named(build, argument, value):
    with pytest.raises(ValueError, match=rf"{argument}\b"):
        build(**{argument: value})


# What does not fit together, and part of what is said.
MISFITS = {
    "got 4 channels: take a multiple of 8": lambda: fusion(compressed_channels=4),
    "at least two maps": lambda: layers.FreqFusionConcat(in_channels=[8]),
    "must divide the channels of every map": lambda: layers.FreqFusionConcat(
        in_channels=[6, 8], fusion={"feature_resample_norm": False}
    ),
    "64 and 160 channels at compress_ratio 8 gives 28": lambda: layers.FreqFusionConcat(
        in_channels=[160, 64]
    ),
    "which leaves plain interpolation": lambda: fusion(
        use_low_pass=False, use_high_pass=False, feature_resample=False
    ),
    r"pass out_size=\(5, 8\)": lambda: reassemble(kernels=(1, 9, 5, 8)),
    r"\(10, 14\), got \(5, 7\)": lambda: reassemble(scale=2),
    "4 groups for 6 channels": lambda: layers.DySampleUpsampling(lr_channels=6),
    "groups must divide the 9 channels": lambda: layers.normalize_kernels(
        torch.zeros(1, 9, 1, 1), groups=2
    ),
    "one weight for each of the 9 taps": lambda: layers.normalize_kernels(
        torch.zeros(1, 9, 1, 1), layers.hamming_window(5)
    ),
    r"pass spatial_shapes.tolist\(\)": lambda: attend(shapes=torch.tensor(SHAPES)),
    r"must be positive \(height, width\) pairs, got \[\]": lambda: attend(shapes=[]),
    "must have 16 positions, .* got 24": lambda: attend(shapes=[(3, 5), (1, 1)]),
    "on one device, got cpu and meta": lambda: attend(weights=WEIGHTS.to("meta")),
    "a size for each of the 3 levels, got 2": lambda: attention_layer(spatial_shapes=SHAPES[:2]),
    r"over \(7, 1\) pixels, more than a map of": lambda: dcn(kernel_size=(7, 1), padding=0),
    r"without its center must be odd, got \(3, 2\)": lambda: dcn(
        kernel_size=(3, 2), remove_center=True
    ),
    "got 4 groups for 6 channels": lambda: dcn(groups=4),
    r"offsets must be \(2, 3, 2, 36\)": lambda: dcn(stride=2),
    "points or out_size, not both": lambda: inverse(points=(1, 3, 3, 2), out_size=(3, 3)),
    "set interp to 'barycentric', got": lambda: layers.NonUniformUpsample(solver="search"),
    r"the same align_corners, got \[True, False\]": lambda: layers.NonUniformUpsample()(
        ONE, layers.MappingStack([stage(align_corners=True), stage()]), (4, 4)
    ),
    r"at least one, .* got \[\]": lambda: layers.NonUniformUpsample().locate(
        layers.MappingStack(), (4, 4)
    ),
    "groups must divide the 3 channels of features": lambda: layers.LocalPixelRelation(groups=2)(
        torch.zeros(1, 9, 4, 4), torch.zeros(1, 3, 4, 4)
    ),
    r"batch and size of relation, \(2, 9, 4, 4\)": lambda: layers.LocalPixelRelation()(
        torch.zeros(2, 9, 4, 4), torch.zeros(1, 2, 4, 4)
    ),
    r"label must be \(batch, height, width\)": lambda: semantic_edge_target(torch.zeros(4, 4)),
    "one shape, got .*warp_edge_target": lambda: attention_edge_loss(ONE, torch.zeros(1, 1, 8, 8)),
}


@pytest.mark.parametrize("said", MISFITS)
def test_misfits_say_what_to_do(said):
    with pytest.raises(ValueError, match=said):
        MISFITS[said]()


@pytest.mark.parametrize(
    "build",
    [
        lambda: fusion(lowpas_kernel=5),
        lambda: layers.FreqFusion(4, 8),
        lambda: reassemble(kernels_size=3),
        lambda: layers.FreqFusionConcat(in_channels=[64, 64], fusion={"semi_con": False}),
    ],
)
def test_misspelt_and_positional_arguments_are_refused(build):
    with pytest.raises(TypeError, match=r"lowpas_kernel|positional|kernels_size|semi_con"):
        build()

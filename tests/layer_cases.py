"""Every public module of ``freqfusion.layers``, small, and some functions, with fitting inputs."""

from dataclasses import replace

import torch
from copies import disturbed
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from freqfusion import layers
from freqfusion.layers import deformable, sfm

SHAPES = [(4, 5), (2, 3)]
_PIXELS = sum(height * width for height, width in SHAPES)


def mapping(dtype):
    return layers.Mapping(
        0.3 * torch.randn(2, 2, 6, 8, dtype=dtype),
        align_corners=False,
        stride=2,
        phase=0.5,
        out_size=(3, 4),
    )


def stack(dtype):
    return layers.MappingStack([mapping(dtype)])


def joined(hr_feat, lr_feat):
    return layers.InterpolationUpsampling(mode="bilinear")


FINE, COARSE, SMALL = (2, 8, 6, 8), (2, 16, 3, 4), (2, 8, 3, 4)
# Name -> how to build the module, and its inputs: shapes, or whatever stands there made of a dtype.
MODULES = {
    "FreqFusion": (
        lambda: layers.FreqFusion(
            hr_channels=8, lr_channels=16, compressed_channels=8, feature_resample=True
        ),
        (FINE, COARSE),
    ),
    "FreqFusionConcat": (
        lambda: layers.FreqFusionConcat(in_channels=(8, 16), compress_ratio=3),
        ([FINE, COARSE],),
    ),
    "Concatenation": (
        lambda: layers.Concatenation(in_channels=(8, 16), make_fusion=joined),
        ([FINE, COARSE],),
    ),
    "LocalSimilaritySampler": (
        lambda: layers.LocalSimilaritySampler(channels=8, groups=2),
        (FINE, SMALL, COARSE),
    ),
    "InterpolationUpsampling": (lambda: layers.InterpolationUpsampling(), (FINE, COARSE)),
    "CarafeUpsampling": (lambda: layers.CarafeUpsampling(lr_channels=16), (FINE, COARSE)),
    "DySampleUpsampling": (lambda: layers.DySampleUpsampling(lr_channels=16), (FINE, COARSE)),
    "MultiScaleDeformableAttention": (
        lambda: layers.MultiScaleDeformableAttention(
            embed_dim=8, num_levels=2, num_heads=2, num_points=2
        ),
        ((2, 7, 8), (2, 7, 2, 2), (2, _PIXELS, 8), lambda _: SHAPES),
    ),
    "DeformableConvolutionV3": (
        lambda: layers.DeformableConvolutionV3(channels=8, groups=2),
        ((2, 5, 6, 8),),
    ),
    "AdaptiveResampling": (lambda: layers.AdaptiveResampling(channels=8), (FINE,)),
    "LocalPixelRelation": (lambda: layers.LocalPixelRelation(gate=True), ((2, 9, 6, 8), FINE)),
    "MultiScaleAdaptiveUpsampling": (
        lambda: layers.MultiScaleAdaptiveUpsampling(guide_channels=8, dilations=(1, 2)),
        (SMALL, SMALL, stack, lambda _: (12, 16)),
    ),
    "NonUniformUpsample": (
        lambda: layers.NonUniformUpsample(grad="implicit"),
        (SMALL, stack, lambda _: (6, 8)),
    ),
    "ThreePointReassembly": (
        lambda: layers.ThreePointReassembly(channels=8, offsets=True),
        (FINE, SMALL, mapping),
    ),
    "SemanticHighFreqAttention": (lambda: sfm.SemanticHighFreqAttention(channels=8), (FINE,)),
}

# The same of functions.
FUNCTIONS = {
    "reassemble": (
        lambda features, kernels: layers.reassemble(features, kernels, kernel_size=3),
        ((2, 4, 5, 6), (2, 9, 5, 6)),
    ),
    "local_similarity": (layers.local_similarity, ((2, 4, 5, 6),)),
    "sample_at_offsets": (layers.sample_at_offsets, ((2, 4, 5, 6), (2, 2, 2, 5, 6))),
    "deformable_attention": (
        lambda value, locations, weights: layers.deformable_attention(
            value, [(2, 3)], locations, weights
        ),
        ((2, 6, 2, 3), (2, 4, 2, 1, 2, 2), (2, 4, 2, 1, 2)),
    ),
    "deformable_convolution_v3": (
        lambda value, offsets, weights: layers.deformable_convolution_v3(
            value, offsets, weights, kernel_size=3, padding=1
        ),
        ((2, 4, 5, 2), (2, 4, 5, 18), (2, 4, 5, 9)),
    ),
    "interpolate_at": (sfm.interpolate_at, ((2, 4, 5, 6), (2, 3, 3, 2))),
    "modulate": (sfm.modulate, ((2, 4, 5, 6), (2, 2, 5, 6))),
    "invert_displacement": (
        lambda displacement, points: sfm.invert_displacement(displacement, points, grad="implicit")[
            0
        ],
        (
            lambda dtype: 0.2 * torch.randn(2, 2, 5, 6, dtype=dtype),
            lambda dtype: 0.5 * torch.randn(2, 3, 3, 2, dtype=dtype).tanh(),
        ),
    ),
}

# Functions of tensors in half precision that read maps hundreds of pixels wide, and their shapes.
_PLACES = torch.rand(1, 5, 60, 2, generator=torch.Generator().manual_seed(4))
_LOCATIONS = _PLACES.view(1, 100, 1, 1, 3, 2)
WIDE = {
    "reassemble": (
        lambda features, kernels: layers.reassemble(
            features, kernels, kernel_size=5, scale=2, padding_mode="reflect"
        ),
        ((1, 4, 3, 300), (1, 25, 6, 600)),
    ),
    "sample_at_offsets": (layers.sample_at_offsets, ((1, 4, 2, 600), (1, 2, 2, 2, 600))),
    "deformable_attention": (
        lambda value, weights: layers.deformable_attention(value, [(3, 600)], _LOCATIONS, weights),
        ((1, 1800, 1, 4), (1, 100, 1, 1, 3)),
    ),
    "attend_by_levels": (
        lambda value, weights: deformable.attend_by_levels(value, [(3, 600)], _LOCATIONS, weights),
        ((1, 1800, 1, 4), (1, 100, 1, 1, 3)),
    ),
    "deformable_convolution_v3": (
        lambda value, offsets, weights: layers.deformable_convolution_v3(
            value, offsets, weights, kernel_size=3, padding=1
        ),
        ((1, 3, 600, 2), (1, 3, 600, 18), (1, 3, 600, 9)),
    ),
    "modulate": (sfm.modulate, ((1, 2, 3, 600), (1, 2, 3, 600))),
    **{
        interp: (
            lambda features, interp=interp: sfm.interpolate_at(
                features, 2 * _PLACES - 1, interp=interp
            ),
            ((1, 2, 3, 600),),
        )
        for interp in ("bilinear", "barycentric")
    },
}


def built(name, dtype=torch.float32):
    """The module in evaluation mode, far from its start, or the function; and its inputs."""
    torch.manual_seed(0)
    if name in FUNCTIONS:
        module, given = FUNCTIONS[name]
    else:
        make, given = MODULES[name]
        module = disturbed(make()).to(dtype).eval()
    return module, tuple(made(one, dtype) for one in given)


def made(given, dtype):
    if isinstance(given, list):
        return [made(one, dtype) for one in given]
    return given(dtype) if callable(given) else torch.randn(given, dtype=dtype)


def image_of(given, index):
    """The inputs of one image of a batch."""
    if isinstance(given, layers.Mapping):
        return replace(given, displacement=image_of(given.displacement, index))
    if isinstance(given, torch.Tensor):
        return given[index : index + 1]
    if isinstance(given, list | tuple) and given is not SHAPES:
        return type(given)(
            image_of(one, index) if not isinstance(one, int) else one for one in given
        )
    return given


def converted(given, dtype):
    """The inputs with all tensors in another type; mappings stay."""
    leaves, tree = tree_flatten(given)
    return tree_unflatten([x.to(dtype) if isinstance(x, torch.Tensor) else x for x in leaves], tree)


def tensors(given):
    """The tensors among inputs or outputs, as a flat list; a mapping is none."""
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


def as_function(name, dtype=torch.float64):
    """The case as a function of its tensors to a list of tensors, and those tensors."""
    module, inputs = built(name, dtype)
    leaves, tree = tree_flatten(inputs)

    def function(*given):
        rest = iter(given)
        replaced = [next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return tensors(module(*tree_unflatten(replaced, tree)))

    return function, tensors(inputs)

"""What is measured: the operators in two forms, and the table of all suites."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers import FreqFusion, deformable_attention, normalize_kernels, reassemble
from freqfusion.layers.sfm.coordinates import lattice_pixels
from freqfusion.layers.sfm.displacement import saliency_to_displacement
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.upsampling import NonUniformUpsample
from freqfusion.tools._benchmark import floors
from freqfusion.tools._benchmark.data_suites import mapping, panoptic_quality
from freqfusion.tools._benchmark.model_suite import MODEL_CASES
from freqfusion.tools._benchmark.oracle import load_oracle, load_unfold_forms
from freqfusion.tools._benchmark.suite import Call, Size, Suite, differentiable


def reassembly(size: Size, *, ours: bool, backward: bool) -> Call:
    """The operator: kernel 5, scale 2."""
    torch.manual_seed(0)
    features = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    logits = torch.randn(1, 25, 2 * size.height, 2 * size.width)
    kernels = normalize_kernels(logits).requires_grad_(backward)
    form = reassemble if ours else load_unfold_forms().reassemble

    def forward() -> tuple[Tensor, ...]:
        return (form(features, kernels, kernel_size=5, scale=2),)

    return differentiable(forward, (features, kernels), backward)


def fusion(size: Size, *, ours: bool, backward: bool) -> Call:
    """The module: resampling in 4 groups, 64 compressed channels."""
    torch.manual_seed(0)
    module = FreqFusion(
        hr_channels=size.channels,
        lr_channels=size.channels,
        compressed_channels=64,
        feature_resample=True,
        feature_resample_group=4,
    ).requires_grad_(backward)
    fine = torch.randn(1, size.channels, 2 * size.height, 2 * size.width, requires_grad=backward)
    coarse = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    form = module if ours else partial(load_unfold_forms().freqfusion, module)
    wanted = (fine, coarse, *module.parameters())
    return differentiable(lambda: form(fine, coarse)[1:], wanted, backward)


def deformable(size: Size, *, ours: bool, backward: bool) -> Call:
    """Deformable attention: every pixel of three maps reads 4 places of each, per head.

    The maps are the coarse one, its half and its double.
    """
    torch.manual_seed(0)
    shapes = [_scaled(size, factor) for factor in (0.5, 1, 2)]
    heads, levels, points = math.gcd(size.channels, 8), len(shapes), 4
    centres = torch.cat([_pixel_centres(height, width) for height, width in shapes])
    queries = len(centres)
    samples = (1, queries, heads, levels, points)
    sizes = torch.tensor([(width, height) for height, width in shapes])[:, None]
    pixels = centres[:, None, None, None] * sizes + 2 * torch.randn(*samples, 2)
    # Away from the pixels' centres, where the gradient jumps and rounding decides.
    pixels = pixels.floor() + 0.6 + 0.8 * torch.rand(*samples, 2)
    locations = (pixels / sizes).requires_grad_(backward)
    weights = torch.randn(samples).flatten(3).softmax(-1).view(samples).requires_grad_(backward)
    value = torch.randn(1, queries, heads, size.channels // heads, requires_grad=backward)
    form = deformable_attention if ours else load_oracle("deformable").sampled

    def forward() -> tuple[Tensor, ...]:
        return (form(value, shapes, locations, weights),)

    return differentiable(forward, (value, locations, weights), backward)


def demodulation(size: Size, *, ours: bool, backward: bool) -> Call:
    """Non-uniform upsampling of a modulated map: the inverse of its lattice, or scipy's Delaunay.

    The lattice and the output have the size of the fine map. The two forms interpolate differently
    between nodes. Both reproduce what is affine in the original position, so that is what every
    channel holds; the gradients are those of the slopes.
    """
    if not ours and importlib.util.find_spec("scipy") is None:
        raise ValueError(
            "the suite demodulation compares with scipy, which is not installed: "
            "pip install 'scipy>=1.11'"
        )
    torch.manual_seed(0)
    lattice = (2 * size.height, 2 * size.width)
    noise = F.avg_pool2d(torch.randn(1, 1, *lattice), 7, 1, 3, count_include_pad=False)
    displacement = saliency_to_displacement((2 * torch.tanh(10 * noise)).exp())
    nodes = lattice_pixels(lattice).permute(2, 0, 1)[None] + displacement
    basis = torch.cat([nodes / max(lattice), torch.ones_like(noise)], dim=1)
    slopes = torch.randn(size.channels, 3, requires_grad=backward)
    stack = MappingStack([Mapping(displacement, False, 1, 0.0, lattice)])
    upsample = NonUniformUpsample()
    reference = None if ours else load_oracle("demodulation").delaunay

    def forward() -> tuple[Tensor, ...]:
        features = torch.einsum("cn,bnhw->bchw", slopes, basis)
        if reference is None:
            return (upsample(features, stack, lattice),)
        return (reference(features, displacement),)

    return differentiable(forward, (slopes,), backward)


def _scaled(size: Size, factor: float) -> tuple[int, int]:
    return math.ceil(size.height * factor), math.ceil(size.width * factor)


def _pixel_centres(height: int, width: int) -> Tensor:
    """(H * W, 2), x and y in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).flatten(0, 1)


def _both_ways(case: Callable[..., Call]) -> dict[str, Callable[..., Call]]:
    return {
        "forward": partial(case, backward=False),
        "forward + backward": partial(case, backward=True),
    }


SUITES: dict[str, Suite] = {
    "reassemble": Suite(_both_ways(reassembly), "unfold form", floors.reassembly_floor),
    "fusion": Suite(_both_ways(fusion), "unfold form", floors.fusion_floor),
    "deformable": Suite(
        _both_ways(deformable), "grid_sample of each level", floors.deformable_floor
    ),
    "demodulation": Suite(
        _both_ways(demodulation), "scipy's Delaunay interpolation", floors.demodulation_floor
    ),
    "panoptic-quality": Suite(
        {"one image": panoptic_quality},
        "a loop over masks of segments",
        floors.panoptic_quality_floor,
        of_images=True,
    ),
    "data": Suite(
        {"one image": mapping},
        "Detectron2's mapper",
        floors.data_floor,
        of_images=True,
    ),
    "models": Suite(MODEL_CASES, "the same model without", is_same=False, of_images=True),
}

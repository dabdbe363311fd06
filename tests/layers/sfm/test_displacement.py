"""Adaptive resampling: attention to displacement, and what it does to features and spectra.

Invariants of the specification, numbers made by hand, an oracle of loops.
"""

import math

import pytest
import sfm_signals
import torch
import torch.nn.functional as F
from oracles.loops import mirror

from freqfusion.layers.sfm.attention import SemanticHighFreqAttention
from freqfusion.layers.sfm.displacement import (
    AdaptiveResampling,
    modulate,
    saliency_to_displacement,
    spatial_softmax,
)
from freqfusion.layers.sfm.spectrum import aliasing_ratio

SIZES = [(32, 32), (33, 47), (7, 5), (1, 9), (3, 3), (2, 1), (1, 1)]


def positive(*shape, seed=0, dtype=torch.float64):
    """Attention with ratios up to about 50 between neighbours."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=dtype).uniform_(-2, 2, generator=generator).exp()


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(channels=8, **options):
    """A module that moves samples."""
    torch.manual_seed(0)
    attention = SemanticHighFreqAttention(channels=channels, ratio=4, zero_init=False)
    with torch.no_grad():
        for parameter in attention.project.parameters():
            parameter *= 4
    return AdaptiveResampling(channels=channels, attention=attention, **options)


def coordinates(displacement):
    """x and y (B, H, W) of the moved nodes."""
    height, width = displacement.shape[-2:]
    x = torch.arange(width, dtype=displacement.dtype)
    y = torch.arange(height, dtype=displacement.dtype)[:, None]
    return displacement[:, 0] + x, displacement[:, 1] + y


def naive_centroids(saliency, fwhm, radius):
    """The 2-D centroid minus the place itself, pixel by pixel and tap by tap (H, W only)."""
    height, width = saliency.shape

    sigma = fwhm / (2 * math.sqrt(2 * math.log(2)))
    result = torch.zeros(2, height, width, dtype=torch.float64)
    taps = range(-radius, radius + 1)
    for i in range(height):
        for j in range(width):
            total = x = y = 0.0
            for v in taps:
                for u in taps:
                    weight = math.exp(-(u * u + v * v) / (2 * sigma**2))
                    weight *= float(saliency[mirror(i + v, height), mirror(j + u, width)])
                    total += weight
                    x += weight * (j + u)
                    y += weight * (i + v)
            result[:, i, j] = torch.tensor([x / total - j, y / total - i], dtype=torch.float64)
    return result


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_even_attention_moves_nothing(size):
    """Invariant 1: differences of equal numbers are zero, whatever their rounding."""
    for level in (1.0, 0.1, 3e4):
        assert saliency_to_displacement(torch.full((2, 1, *size), level)).abs().max() == 0


@pytest.mark.parametrize(("fwhm", "radius"), [(3.0, 5), (6.0, 4), (1.0, 1)])
@pytest.mark.parametrize("size", [(9, 7), (2, 5), (1, 4), (1, 1)], ids=str)
def test_separable_form_equals_the_centroid(size, fwhm, radius):
    """Invariant 2."""
    saliency = positive(1, 1, *size)
    found = saliency_to_displacement(saliency, fwhm=fwhm, radius=radius)
    assert found.dtype == torch.float64
    expected = naive_centroids(saliency[0, 0], fwhm, radius)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-10)
    single = saliency_to_displacement(saliency.float(), fwhm=fwhm, radius=radius)
    torch.testing.assert_close(single[0].double(), expected, rtol=0, atol=1e-4)


def test_only_ratios_of_the_attention_matter():
    """Invariant 2, second part."""
    saliency = positive(2, 1, 19, 23, dtype=torch.float32)
    expected = saliency_to_displacement(saliency)
    for factor in (1e-6, 7e5):
        found = saliency_to_displacement(saliency * factor)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_border_nodes_stay_on_the_border(size):
    """Invariant 3; also, nothing leaves the map."""
    displacement = saliency_to_displacement(positive(3, 1, *size, dtype=torch.float32))
    assert displacement[:, 0, :, [0, -1]].abs().max() <= 1e-6
    assert displacement[:, 1, [0, -1]].abs().max() <= 1e-6
    for place, length in zip(coordinates(displacement), reversed(size), strict=True):
        assert place.min() >= -1e-5
        assert place.max() <= length - 1 + 1e-5


@pytest.mark.parametrize("spread", [1.0, 32.0])
@pytest.mark.parametrize(("fwhm", "radius"), [(3.0, 5), (6.0, 9), (3.0, 1)])
def test_nodes_keep_their_order_whatever_the_attention(spread, fwhm, radius):
    """Invariant 4: logits without a bound."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 1, 40, 33, generator=generator, dtype=torch.float64) * spread
    displacement = saliency_to_displacement(spatial_softmax(logits), fwhm=fwhm, radius=radius)
    x, y = coordinates(displacement)
    assert x.diff(dim=2).min() >= -1e-9
    assert y.diff(dim=1).min() >= -1e-9
    assert displacement.abs().max() <= radius


def folding_maps():
    """Logits within [-2, 2] that bend a lattice as much as they can."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(8, 1, 48, 48, generator=generator, dtype=torch.float64) * 4 - 2
    curves = sfm_signals.thin_curves(48, batch=4, seed=7)
    sparse = torch.full((4, 1, 48, 48), -2, dtype=torch.float64)
    sparse[torch.rand(sparse.shape, generator=generator) < 0.02] = 2
    return {
        "random": noise,
        "signs": 2 * noise.sign(),
        "thin lines": 4 * curves - 2,
        "sparse": sparse,
        "checkers": 2.0
        * (-1.0) ** torch.arange(48).double().add(torch.arange(48)[:, None])[None, None],
    }


@pytest.mark.parametrize(("fwhm", "radius"), [(3.0, 5), (6.0, 9)])
@pytest.mark.parametrize("name", folding_maps())
def test_no_triangle_folds_at_the_default_bound(name, fwhm, radius):
    """Invariant 5: the four corner triangles of every cell keep more than a hundredth of a pixel.

    An unmoved triangle has half a pixel.
    """
    saliency = spatial_softmax(folding_maps()[name])
    x, y = coordinates(saliency_to_displacement(saliency, fwhm=fwhm, radius=radius))
    nodes = torch.stack([x, y], dim=-1)
    corners = [nodes[:, :-1, :-1], nodes[:, :-1, 1:], nodes[:, 1:, 1:], nodes[:, 1:, :-1]]
    for first in range(4):
        a, b, c = (corners[(first + step) % 4] for step in range(3))
        one, two = b - a, c - b
        area = (one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]) / 2
        assert area.min() > 0.01


def test_three_taps_by_hand():
    """A full width of two means half the weight one pixel away.

    Beside the 3, where the window is (1, 1, 3): (3 / 2 - 1 / 2) / (1 / 2 + 1 + 3 / 2) = 1/3. On it
    and where all is even: 0. Along y, the one row is its own mirror image: 0.
    """
    saliency = torch.tensor([1.0, 1, 1, 3, 1, 1]).view(1, 1, 1, 6)
    x, y = saliency_to_displacement(saliency, fwhm=2, radius=1)[0]
    torch.testing.assert_close(x, torch.tensor([[0, 0, 1 / 3, 0, -1 / 3, 0]]))
    assert y.abs().max() == 0


def test_flips_and_transposition():
    """Invariant 15: of the displacement, and of the features that it moves."""
    saliency, image = positive(2, 1, 21, 34, dtype=torch.float32), random(2, 3, 21, 34)
    expected = saliency_to_displacement(saliency)
    for dim, axis in ((3, 0), (2, 1)):
        flipped = saliency_to_displacement(saliency.flip(dim)).flip(dim)
        flipped[:, axis] *= -1
        torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-5)
        mirrored = expected.flip(dim)
        mirrored[:, axis] *= -1
        found = modulate(image.flip(dim), mirrored).flip(dim)
        torch.testing.assert_close(found, modulate(image, expected), rtol=0, atol=1e-4)
    transposed = saliency_to_displacement(saliency.mT).mT.flip(1)
    torch.testing.assert_close(transposed, expected, rtol=0, atol=1e-5)


def test_extreme_logits_stay_finite():
    """Invariant 18: most windows hold zeros only; their nodes stay, and gradients are finite."""
    logits = torch.full((1, 1, 30, 30), -1e4)
    logits[..., 3, 4], logits[..., 20, 20], logits[..., 20, 22] = 1e4, 1e4, 9.9e3
    logits.requires_grad_()
    displacement = saliency_to_displacement(spatial_softmax(logits))
    assert displacement.isfinite().all()
    assert displacement.abs().max() <= 5
    assert displacement[0, :, 10:14, 10:14].abs().max() == 0
    # Where one pixel, here (4, 3), outweighs all others, nodes fall onto it.
    assert displacement[0, :, 5, 2].tolist() == pytest.approx([2, -2])
    (gradient,) = torch.autograd.grad(displacement.square().sum(), logits)
    assert gradient.isfinite().all()


def test_faint_windows_have_finite_gradients():
    """Windows just above and below what is left alone."""
    saliency = torch.logspace(-44, 0, 300).view(1, 1, 10, 30).requires_grad_()
    displacement = saliency_to_displacement(saliency)
    assert displacement.isfinite().all()
    (gradient,) = torch.autograd.grad(displacement.sum(), saliency)
    assert gradient.isfinite().all()


# Resampling


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_start_is_the_identity(size):
    """Invariant 1."""
    features = random(2, 4, *size)
    for align_corners in (False, True):
        module = AdaptiveResampling(channels=4, align_corners=align_corners)
        modulated, mapping, logits = module(features)
        torch.testing.assert_close(modulated, features, rtol=0, atol=3e-5)
        assert mapping.displacement.abs().max() <= 1e-6
        assert logits.shape == (2, 1, *size)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_ramps_are_read_exactly(mode, align_corners):
    """3 x - y at (x + 0.5, y - 0.5) has 2 more, away from the border, which is repeated."""
    x, y = torch.arange(9.0), torch.arange(7.0)[:, None]
    image = (3 * x - y)[None, None]
    options = {"mode": mode, "align_corners": align_corners}
    displacement = torch.tensor([0.5, -0.5]).view(1, 2, 1, 1).expand(1, 2, 7, 9)
    found = modulate(image, displacement, **options)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inner], image[inner] + 2, rtol=0, atol=1e-4)
    far = modulate(image, torch.full((1, 2, 7, 9), 99.0), **options)
    torch.testing.assert_close(far, image[..., -1:, -1:].expand_as(far), rtol=0, atol=1e-4)


def test_parts_of_the_module():
    """Attention, softmax, displacement and sampling, one after the other."""
    module = trained(fwhm=6.0, radius=9, strength=0.5)
    features = random(2, 8, 14, 19)
    modulated, mapping, logits = module(features)
    torch.testing.assert_close(logits, module.attention(features))
    displacement = 0.5 * saliency_to_displacement(logits.exp(), fwhm=6.0, radius=9)
    assert displacement.abs().max() > 0.3
    torch.testing.assert_close(mapping.displacement, displacement, rtol=0, atol=1e-5)
    torch.testing.assert_close(modulated, modulate(features, displacement), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (2, 2, 0), (1, 2, 0), (4, 4, 0), (7, 4, 3), (3, 1, 1)],
)
@pytest.mark.parametrize("length", [8, 11, 23])
def test_size_and_phase_are_those_of_a_convolution(kernel, stride, padding, length):
    """The centre of a kernel's window lies at stride * j + phase, phase = (k - 1) / 2 - padding."""
    phase = (kernel - 1) / 2 - padding
    ramp = torch.arange(length, dtype=torch.float64).view(1, 1, length)
    box = torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64)
    small = F.conv1d(ramp, box, stride=stride, padding=padding)
    module = AdaptiveResampling(channels=1).double()
    _, mapping, _ = module(ramp.expand(1, 1, length, -1), stride=stride, phase=phase)
    assert mapping.out_size == (small.shape[-1], small.shape[-1])
    assert (mapping.stride, mapping.phase) == (stride, phase)
    # Away from the padding, a box reads a ramp at the centre of its window.
    middle = slice(1, (length - kernel) // stride)
    j = torch.arange(small.shape[-1], dtype=torch.float64)[middle]
    torch.testing.assert_close(small[0, 0, middle], stride * j + phase)


def test_downsampled_size_can_be_given():
    """Patch merging pads odd maps; a map of one pixel still has a size."""
    module = AdaptiveResampling(channels=1)
    assert module(random(1, 1, 9, 9), out_size=(5, 5))[1].out_size == (5, 5)
    assert module(random(1, 1, 9, 1))[1].out_size == (4, 1)


# Aliasing


def aliasing_after(image, logits, fwhm=3.0, radius=5):
    displacement = saliency_to_displacement(spatial_softmax(logits), fwhm=fwhm, radius=radius)
    modulated = modulate(image, displacement, mode="bicubic")
    return aliasing_ratio(modulated, remove_dc=True).mean().item()


def aliasing_of(image):
    return aliasing_ratio(image, remove_dc=True).mean().item()


@pytest.mark.parametrize(
    ("signal", "share", "bound"), [("thin_curves", 0.127, 0.25), ("label_edges", 0.03, 0.6)]
)
def test_attention_to_detail_prevents_its_aliasing(signal, share, bound):
    """Invariant 9. Unrelated attention hardly does, so it is not the interpolation."""
    image = getattr(sfm_signals, signal)(batch=4)
    before = aliasing_of(image)
    assert before == pytest.approx(share, rel=0.15)
    assert aliasing_after(image, sfm_signals.detail_logits(image)) <= bound * before
    unrelated = torch.rand(image[:, :1].shape, generator=torch.Generator().manual_seed(9)) * 4 - 2
    assert aliasing_after(image, unrelated.double()) >= 0.7 * before


@pytest.mark.parametrize(
    ("signal", "bounds"), [("chirp", (0.5, 0.75)), ("texture_patch", (0.25, 0.5))]
)
def test_wide_kernels_stretch_textures(signal, bounds):
    """Invariant 10: at a width of 32 pixels, and less so at 16.

    The width of 3 stretches edges and lines, not areas, so it is not expected to help here.
    """
    image = getattr(sfm_signals, signal)()
    before = aliasing_of(image)
    for fwhm, radius, bound in ((32.0, 40, bounds[0]), (16.0, 24, bounds[1])):
        logits = sfm_signals.detail_logits(image, fwhm=fwhm)
        assert aliasing_after(image, logits, fwhm, radius) <= bound * before


# Learning


def test_attention_learns_from_the_first_step_on():
    """Invariant 14, unless the grid is detached: then only from the logits."""
    features, weight = random(2, 8, 12, 12), random(2, 8, 12, 12, seed=1)
    for detach_grid in (False, True):
        module = AdaptiveResampling(channels=8, detach_grid=detach_grid)
        modulated, mapping, logits = module(features.requires_grad_())
        (modulated * weight).sum().backward()
        gradient = module.attention.project.weight.grad
        assert (gradient is None) == detach_grid
        if gradient is not None:
            assert gradient.abs().max() > 1e-3
        assert mapping.displacement.requires_grad != detach_grid
        assert logits.requires_grad

"""Attention to displacement: invariants of the specification, hand-made numbers, an oracle."""

from __future__ import annotations

import math

import pytest
import sfm_signals
import torch
from torch import Tensor

from freqfusion.layers.sfm.displacement import saliency_to_displacement, spatial_softmax

SIZES = [(32, 32), (33, 47), (7, 5), (1, 9), (3, 3), (2, 1), (1, 1)]


def positive(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Attention with ratios up to about 50 between neighbours."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=dtype).uniform_(-2, 2, generator=generator).exp()


def coordinates(displacement: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (B, H, W) of the moved nodes."""
    height, width = displacement.shape[-2:]
    x = torch.arange(width, dtype=displacement.dtype)
    y = torch.arange(height, dtype=displacement.dtype)[:, None]
    return displacement[:, 0] + x, displacement[:, 1] + y


def naive_centroids(saliency: Tensor, fwhm: float, radius: int) -> Tensor:
    """The 2-D centroid minus the place itself, pixel by pixel and tap by tap (H, W only)."""
    height, width = saliency.shape

    def reflected(index: int, length: int) -> int:
        while length > 1 and not 0 <= index < length:
            index = -index if index < 0 else 2 * (length - 1) - index
        return index if length > 1 else 0

    sigma = fwhm / (2 * math.sqrt(2 * math.log(2)))
    result = torch.zeros(2, height, width, dtype=torch.float64)
    taps = range(-radius, radius + 1)
    for i in range(height):
        for j in range(width):
            total = x = y = 0.0
            for v in taps:
                for u in taps:
                    weight = math.exp(-(u * u + v * v) / (2 * sigma**2))
                    weight *= float(saliency[reflected(i + v, height), reflected(j + u, width)])
                    total += weight
                    x += weight * (j + u)
                    y += weight * (i + v)
            result[:, i, j] = torch.tensor([x / total - j, y / total - i], dtype=torch.float64)
    return result


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("level", [1.0, 0.1, 3e4])
def test_even_attention_moves_nothing(size: tuple[int, int], level: float) -> None:
    """Invariant 1: differences of equal numbers are zero, whatever their rounding."""
    saliency = torch.full((2, 1, *size), level)
    assert saliency_to_displacement(saliency).abs().max() == 0


@pytest.mark.parametrize(("fwhm", "radius"), [(3.0, 5), (6.0, 4), (1.0, 1)])
@pytest.mark.parametrize("size", [(9, 7), (2, 5), (1, 4), (1, 1)], ids=str)
def test_separable_form_equals_the_centroid(
    size: tuple[int, int], fwhm: float, radius: int
) -> None:
    """Invariant 2."""
    saliency = positive(1, 1, *size)
    found = saliency_to_displacement(saliency, fwhm=fwhm, radius=radius)
    assert found.dtype == torch.float64
    expected = naive_centroids(saliency[0, 0], fwhm, radius)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-10)
    single = saliency_to_displacement(saliency.float(), fwhm=fwhm, radius=radius)
    torch.testing.assert_close(single[0].double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-6, 0.3, 7e5])
def test_only_ratios_of_the_attention_matter(factor: float) -> None:
    """Invariant 2, second part."""
    saliency = positive(2, 1, 19, 23, dtype=torch.float32)
    expected = saliency_to_displacement(saliency)
    torch.testing.assert_close(
        saliency_to_displacement(saliency * factor), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_border_nodes_stay_on_the_border(size: tuple[int, int]) -> None:
    """Invariant 3; also, nothing leaves the map."""
    displacement = saliency_to_displacement(positive(3, 1, *size, dtype=torch.float32))
    assert displacement[:, 0, :, [0, -1]].abs().max() <= 1e-6
    assert displacement[:, 1, [0, -1]].abs().max() <= 1e-6
    for place, length in zip(coordinates(displacement), reversed(size), strict=True):
        assert place.min() >= -1e-5
        assert place.max() <= length - 1 + 1e-5


@pytest.mark.parametrize("spread", [1.0, 4.0, 32.0])
@pytest.mark.parametrize(("fwhm", "radius"), [(3.0, 5), (6.0, 9), (3.0, 1)])
def test_nodes_keep_their_order_whatever_the_attention(
    spread: float, fwhm: float, radius: int
) -> None:
    """Invariant 4: logits without a bound."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 1, 40, 33, generator=generator, dtype=torch.float64) * spread
    displacement = saliency_to_displacement(spatial_softmax(logits), fwhm=fwhm, radius=radius)
    x, y = coordinates(displacement)
    assert x.diff(dim=2).min() >= -1e-9
    assert y.diff(dim=1).min() >= -1e-9
    assert displacement.abs().max() <= radius


def folding_maps() -> dict[str, Tensor]:
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
def test_no_triangle_folds_at_the_default_bound(name: str, fwhm: float, radius: int) -> None:
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


def test_three_taps_by_hand() -> None:
    """A full width of two means half the weight one pixel away.

    Beside the 3, where the window is (1, 1, 3): (3 / 2 - 1 / 2) / (1 / 2 + 1 + 3 / 2) = 1/3. On it
    and where all is even: 0. Along y, the one row is its own mirror image: 0.
    """
    saliency = torch.tensor([1.0, 1, 1, 3, 1, 1]).view(1, 1, 1, 6)
    x, y = saliency_to_displacement(saliency, fwhm=2, radius=1)[0]
    torch.testing.assert_close(x, torch.tensor([[0, 0, 1 / 3, 0, -1 / 3, 0]]))
    assert y.abs().max() == 0


def test_exponential_attention_moves_by_its_rate_times_the_variance() -> None:
    """The displacement is sigma^2 grad log(k * S); exp(0.2 x) smoothed is a multiple of itself.

    At a full width of 3, sigma^2 = 9 / (8 ln 2) = 1.623, so x moves by 0.3246 away from borders.
    """
    row = torch.exp(0.2 * torch.arange(24, dtype=torch.float64))
    x, y = saliency_to_displacement(row.expand(1, 1, 12, 24))[0]
    assert x[:, 5:-5].sub(0.2 * 9 / (8 * math.log(2))).abs().max() < 1e-3
    assert y.abs().max() < 1e-12


def test_a_line_draws_its_neighbours() -> None:
    """A line of contrast 100: five nodes within half a pixel of it instead of one.

    The specification measured spacings of 0.04 pixels on the line and at most 2.25 beside it.
    """
    saliency = torch.ones(1, 1, 9, 41)
    saliency[..., 20] = 100
    place = coordinates(saliency_to_displacement(saliency))[0][0, 4]
    assert (place.sub(20).abs() <= 0.5).sum() == 5
    assert place.diff().min() == pytest.approx(0.04, abs=0.01)
    assert place.diff().max() <= 2.25


def test_flips_and_transposition() -> None:
    """Invariant 15."""
    saliency = positive(2, 1, 21, 34, dtype=torch.float32)
    expected = saliency_to_displacement(saliency)
    for dim, axis in ((3, 0), (2, 1)):
        flipped = saliency_to_displacement(saliency.flip(dim)).flip(dim)
        flipped[:, axis] *= -1
        torch.testing.assert_close(flipped, expected, rtol=0, atol=1e-5)
    transposed = saliency_to_displacement(saliency.mT).mT.flip(1)
    torch.testing.assert_close(transposed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    """Invariant 17: the displacement of a rounded attention is that of its exact value."""
    saliency = positive(1, 1, 16, 16, dtype=torch.float32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        displacement = saliency_to_displacement(saliency)
    assert displacement.dtype == torch.float32
    torch.testing.assert_close(displacement, saliency_to_displacement(saliency.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    """Invariant 18: most windows hold zeros only; their nodes stay, and gradients are finite."""
    logits = torch.full((1, 1, 30, 30), -1e4, dtype=dtype)
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


def test_faint_windows_have_finite_gradients() -> None:
    """Windows just above and below what is left alone."""
    saliency = torch.logspace(-44, 0, 300).view(1, 1, 10, 30).requires_grad_()
    displacement = saliency_to_displacement(saliency)
    assert displacement.isfinite().all()
    (gradient,) = torch.autograd.grad(displacement.sum(), saliency)
    assert gradient.isfinite().all()


def test_gradients() -> None:
    logits = positive(2, 1, 5, 4).log().requires_grad_()

    def run(logits: Tensor) -> Tensor:
        return saliency_to_displacement(spatial_softmax(logits), fwhm=3, radius=3)

    assert torch.autograd.gradcheck(run, logits)

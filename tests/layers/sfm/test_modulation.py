"""Adaptive resampling: what it does to features, to their spectrum, and in every mode of torch."""

from __future__ import annotations

from typing import Any

import pytest
import sfm_signals
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.sfm.attention import SemanticHighFreqAttention
from freqfusion.layers.sfm.displacement import (
    AdaptiveResampling,
    modulate,
    saliency_to_displacement,
    spatial_softmax,
)
from freqfusion.layers.sfm.mapping import Mapping
from freqfusion.layers.sfm.spectrum import aliasing_ratio

SIZES = [(32, 32), (33, 47), (7, 5), (1, 9), (3, 3), (1, 1)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bounded_displacement(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """As from random logits within [-2, 2]; ``shape`` is (B, H, W)."""
    batch, height, width = shape
    logits = 2 * torch.tanh(random(batch, 1, height, width, seed=seed, dtype=dtype))
    return saliency_to_displacement(spatial_softmax(logits))


def trained(channels: int = 8, **options: Any) -> AdaptiveResampling:
    """A module that moves samples."""
    torch.manual_seed(0)
    attention = SemanticHighFreqAttention(channels=channels, ratio=4, zero_init=False)
    with torch.no_grad():
        for parameter in attention.project.parameters():
            parameter *= 4
    return AdaptiveResampling(channels=channels, attention=attention, **options)


class Given(nn.Module):
    """An attention that is the first channel of the features."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :1]


# What it does to features


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_start_is_the_identity(size: tuple[int, int], align_corners: bool) -> None:
    """Invariant 1."""
    features = random(2, 4, *size)
    module = AdaptiveResampling(channels=4, align_corners=align_corners)
    modulated, mapping, logits = module(features)
    torch.testing.assert_close(modulated, features, rtol=0, atol=3e-5)
    assert mapping.displacement.abs().max() <= 1e-6
    assert logits.shape == (2, 1, *size)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_ramps_are_read_exactly(mode: Any, align_corners: bool) -> None:
    """3 x - y at (x + 0.5, y - 0.5) has 2 more, away from the border, which is repeated."""
    x, y = torch.arange(9.0), torch.arange(7.0)[:, None]
    image = (3 * x - y)[None, None]
    displacement = torch.tensor([0.5, -0.5]).view(1, 2, 1, 1).expand(1, 2, 7, 9)
    found = modulate(image, displacement, align_corners=align_corners, mode=mode)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inner], image[inner] + 2, rtol=0, atol=1e-4)
    far = modulate(image, torch.full((1, 2, 7, 9), 99.0), align_corners=align_corners, mode=mode)
    torch.testing.assert_close(far, image[..., -1:, -1:].expand_as(far), rtol=0, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(6, 7), (1, 5), (1, 1)], ids=str)
def test_bilinear_against_a_loop(size: tuple[int, int], align_corners: bool) -> None:
    height, width = size
    image = random(1, 2, *size, dtype=torch.float64)
    displacement = 2 * random(1, 2, *size, seed=1, dtype=torch.float64)
    expected = torch.empty_like(image)
    for i in range(height):
        for j in range(width):
            x = min(max(j + float(displacement[0, 0, i, j]), 0), width - 1)
            y = min(max(i + float(displacement[0, 1, i, j]), 0), height - 1)
            left, top = int(x), int(y)
            right, below = min(left + 1, width - 1), min(top + 1, height - 1)
            u, v = x - left, y - top
            upper = (1 - u) * image[..., top, left] + u * image[..., top, right]
            lower = (1 - u) * image[..., below, left] + u * image[..., below, right]
            expected[..., i, j] = (1 - v) * upper + v * lower
    found = modulate(image, displacement, align_corners=align_corners)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_parts_of_the_module() -> None:
    """Attention, softmax, displacement and sampling, one after the other."""
    module = trained(fwhm=6.0, radius=9, strength=0.5)
    features = random(2, 8, 14, 19)
    modulated, mapping, logits = module(features)
    torch.testing.assert_close(logits, module.attention(features))
    displacement = 0.5 * saliency_to_displacement(logits.exp(), fwhm=6.0, radius=9)
    assert displacement.abs().max() > 0.3
    torch.testing.assert_close(mapping.displacement, displacement, rtol=0, atol=1e-5)
    torch.testing.assert_close(modulated, modulate(features, displacement), rtol=0, atol=1e-4)


def test_strength_can_be_changed() -> None:
    module = trained(strength=0.0)
    features = random(1, 8, 10, 12)
    modulated, mapping, _ = module(features)
    assert mapping.displacement.abs().max() == 0
    torch.testing.assert_close(modulated, features, rtol=0, atol=3e-5)
    module.strength = 1.0
    assert module(features)[1].displacement.abs().max() > 0.3


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (2, 2, 0), (1, 2, 0), (4, 4, 0), (7, 4, 3), (5, 3, 2), (3, 1, 1), (3, 3, 0)],
)
@pytest.mark.parametrize("length", [8, 9, 11, 12, 23])
def test_size_and_phase_are_those_of_a_convolution(
    kernel: int, stride: int, padding: int, length: int
) -> None:
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


def test_downsampled_size_can_be_given() -> None:
    """Patch merging pads odd maps; a map of one pixel still has a size."""
    module = AdaptiveResampling(channels=1)
    assert module(random(1, 1, 9, 9), out_size=(5, 5))[1].out_size == (5, 5)
    assert module(random(1, 1, 9, 1))[1].out_size == (4, 1)


# Aliasing


def aliasing_after(image: Tensor, logits: Tensor, fwhm: float = 3.0, radius: int = 5) -> float:
    displacement = saliency_to_displacement(spatial_softmax(logits), fwhm=fwhm, radius=radius)
    modulated = modulate(image, displacement, mode="bicubic")
    return aliasing_ratio(modulated, remove_dc=True).mean().item()


def aliasing_of(image: Tensor) -> float:
    return aliasing_ratio(image, remove_dc=True).mean().item()


def test_attention_to_thin_curves_prevents_their_aliasing() -> None:
    """Invariant 9. Unrelated attention hardly does, so it is not the interpolation."""
    image = sfm_signals.thin_curves(batch=4)
    before = aliasing_of(image)
    assert before == pytest.approx(0.127, abs=0.01)
    assert aliasing_after(image, sfm_signals.detail_logits(image)) <= 0.25 * before
    unrelated = torch.rand(image.shape, generator=torch.Generator().manual_seed(9)) * 4 - 2
    assert aliasing_after(image, unrelated.double()) >= 0.7 * before


def test_attention_to_label_edges_reduces_their_aliasing() -> None:
    """Invariant 9, second part."""
    labels = sfm_signals.label_edges(batch=4)
    before = aliasing_of(labels)
    assert before == pytest.approx(0.03, abs=0.005)
    assert aliasing_after(labels, sfm_signals.detail_logits(labels)) <= 0.6 * before


@pytest.mark.parametrize(
    ("signal", "bounds"), [("chirp", (0.5, 0.75)), ("texture_patch", (0.25, 0.5))]
)
def test_wide_kernels_stretch_textures(signal: str, bounds: tuple[float, float]) -> None:
    """Invariant 10: at a width of 32 pixels, and less so at 16.

    The width of 3 stretches edges and lines, not areas, so it is not expected to help here.
    """
    image = getattr(sfm_signals, signal)()
    before = aliasing_of(image)
    for fwhm, radius, bound in ((32.0, 40, bounds[0]), (16.0, 24, bounds[1])):
        logits = sfm_signals.detail_logits(image, fwhm=fwhm)
        assert aliasing_after(image, logits, fwhm, radius) <= bound * before


def test_bilinear_sampling_is_a_lowpass_filter_itself() -> None:
    """The trap of such measurements: a shift by a quarter of a pixel reduces aliasing as well."""
    image = sfm_signals.thin_curves(batch=2)
    shift = torch.full((2, 2, 128, 128), 0.25, dtype=torch.float64)
    shifted = {
        mode: aliasing_of(modulate(image, shift, mode=mode)) for mode in ("bilinear", "bicubic")
    }
    before = aliasing_of(image)
    assert shifted["bilinear"] < 0.65 * before
    assert shifted["bicubic"] > 0.8 * before


# Gradients


def test_gradients_of_logits_and_features() -> None:
    """Invariant 14."""
    features = random(2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    logits = random(2, 1, 5, 4, seed=1, dtype=torch.float64).requires_grad_()

    def run(features: Tensor, logits: Tensor) -> Tensor:
        return modulate(features, saliency_to_displacement(spatial_softmax(logits)))

    assert torch.autograd.gradcheck(run, (features, logits))


def test_attention_learns_from_the_first_step_on() -> None:
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


# Equivariance, independence, precision


@pytest.mark.parametrize(("dim", "axis"), [(3, 0), (2, 1)])
def test_flips(dim: int, axis: int) -> None:
    """Invariant 15: of ``modulate``, and of the module while its high-pass is symmetric."""
    features, displacement = random(1, 8, 20, 31), bounded_displacement(1, 20, 31)
    mirrored = displacement.flip(dim)
    mirrored[:, axis] *= -1
    found = modulate(features.flip(dim), mirrored).flip(dim)
    torch.testing.assert_close(found, modulate(features, displacement), rtol=0, atol=1e-4)
    module = trained()
    found = module(features.flip(dim))[0].flip(dim)
    torch.testing.assert_close(found, module(features)[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_features(dtype: torch.dtype, error: float) -> None:
    """Invariant 17: coordinates stay float32, so that only the features are rounded."""
    features = random(1, 3, 96, 160).clamp(-3, 3)
    displacement = bounded_displacement(1, 96, 160)
    found = modulate(features.to(dtype), displacement)
    assert found.dtype == dtype
    assert (found.float() - modulate(features, displacement)).abs().max() <= error


def test_extreme_attention() -> None:
    """Invariant 18: another attention may give logits of +-1e4."""
    module = AdaptiveResampling(channels=2, attention=Given())
    features = torch.sign(random(2, 2, 17, 15)) * 1e4
    features.requires_grad_()
    modulated, mapping, _ = module(features)
    assert modulated.isfinite().all()
    assert mapping.displacement.abs().max() <= 5
    modulated.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


# Compilers and errors


@pytest.mark.slow
def test_compiles_without_a_break() -> None:
    module = trained()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in ((12, 17), (9, 30)):
        features = random(2, 8, *size).requires_grad_()
        found, expected = compiled(features), module(features)
        assert isinstance(found[1], Mapping)
        assert found[1].out_size == expected[1].out_size
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1].displacement, expected[1].displacement)
        gradients = [torch.autograd.grad(run[0].sum(), features)[0] for run in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


class Tensors(nn.Module):
    """An exported program returns tensors."""

    def __init__(self, module: AdaptiveResampling):
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated, mapping, logits = self.module(features, 2, 0.0)
        return modulated, mapping.displacement, logits


@pytest.mark.slow
def test_exports_for_all_sizes() -> None:
    module = Tensors(trained())
    height, width = torch.export.Dim("h", min=2, max=512), torch.export.Dim("w", min=2, max=512)
    shapes = {"features": {2: height, 3: width}}
    program = torch.export.export(module, (random(1, 8, 12, 17),), dynamic_shapes=shapes)
    for size in ((12, 17), (31, 8), (2, 3)):
        features = random(1, 8, *size)
        torch.testing.assert_close(program.module()(features), module(features))

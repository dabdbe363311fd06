"""Aliasing before a stride: tones, known displacements, the control, correlation with edges."""

import math

import pytest
import torch
from sfm_signals import detail_logits, label_edges, smooth_noise, thin_curves

from freqfusion.analysis import (
    Modulation,
    attention_edge_correlation,
    control_displacements,
    measure_stage,
)
from freqfusion.layers.sfm import aliasing_ratio, modulate, saliency_to_displacement
from freqfusion.layers.sfm.displacement import spatial_softmax


def tone(cycles, size=32):
    line = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * cycles * line).expand(1, 1, size, size)


def modulation_by(logits, **arguments):
    displacement = saliency_to_displacement(spatial_softmax(logits), **arguments)
    return Modulation(displacement, logits, **arguments)


def still(size=32):
    return modulation_by(torch.zeros(1, 1, size, size, dtype=torch.float64))


@pytest.mark.parametrize(("cycles", "ratio"), [(3, 0), (8, 0), (9, 1), (16, 1)])
def test_plain_tone(cycles, ratio):
    """A stride of two keeps up to 8 of 32 cycles; without attention nothing else is measured."""
    found = measure_stage(tone(cycles))
    assert list(found.ratios) == list(found.spectra) == ["plain"]
    assert found.ratios["plain"].item() == pytest.approx(ratio, abs=1e-12)
    assert found.frequencies[found.spectra["plain"][0].argmax()] == (cycles - 0.5) / 32


def test_uses_the_displacement_of_the_model():
    """A shift by one pixel of a wave along x: as if the map had been rolled, but for the border."""
    maps = thin_curves(64)
    logits = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    own = modulation_by(logits)
    found = measure_stage(maps, own)
    expected = aliasing_ratio(modulate(maps, own.displacement, mode="bicubic"), remove_dc=True)
    assert torch.allclose(found.ratios["modulated"], expected)
    assert found.ratios["modulated"] != found.ratios["plain"]


@pytest.mark.parametrize(("signal", "most"), [(thin_curves, 0.25), (label_edges, 0.6)])
def test_attention_on_detail_beats_the_control(signal, most):
    """Section 1: modulated well below plain, and below the control, which gains little.

    Measured: 0.122 plain, 0.011 modulated, 0.122 control for curves; 0.033, 0.015, 0.028 for edges.
    """
    maps = signal(128)
    found = measure_stage(maps, modulation_by(detail_logits(maps)))
    plain, modulated, control = (found.ratios[v].item() for v in ("plain", "modulated", "control"))
    assert modulated <= most * plain
    assert modulated < 0.7 * control
    assert control >= 0.7 * plain


def test_resampling_alone_filters_little():
    """The trap: a shift of all samples by a quarter of a pixel, which stretches nothing.

    Bilinear resampling alone would take the ratio from 0.12 to about half of it.
    """
    maps = thin_curves(128)
    shift = Modulation(torch.full((1, 2, 128, 128), 0.25).double(), torch.zeros(1, 1, 128, 128))
    ratios = measure_stage(maps, shift).ratios
    assert (ratios["modulated"] / ratios["plain"]).item() > 0.75


def test_attention_at_wrong_places_is_like_the_control():
    """Attention made for other curves gains nothing, in either number."""
    maps = thin_curves(128)
    found = measure_stage(maps, modulation_by(detail_logits(thin_curves(128, seed=7)))).ratios
    for version in ("modulated", "control"):
        assert found[version].item() == pytest.approx(found["plain"].item(), rel=0.1)


def test_control_is_the_attention_at_other_places():
    """The first roll is half the map: a peak at (4, 20) of 16 x 32 draws samples to (12, 4)."""
    logits = torch.zeros(1, 1, 16, 32, dtype=torch.float64)
    logits[..., 4, 20] = 2
    first, *others = control_displacements(logits, fwhm=3, radius=5, rolls=4)
    moved = torch.zeros_like(logits)
    moved[..., 12, 4] = 2
    expected = saliency_to_displacement(spatial_softmax(moved), fwhm=3, radius=5)
    assert torch.allclose(first, expected)
    assert len(others) == 3
    for one in others:
        # Drawn from both sides: the peak is where the displacement in x changes its sign.
        place = one.abs().sum(dim=1)[0]
        rows, columns = (place > 1e-3).nonzero().double().unbind(1)
        down, across = rows.median() - 4, columns.median() - 20
        assert 3 <= down % 16 <= 13, "at least a quarter away"
        assert 7 <= across % 32 <= 25
        # Recomputed, so that no sample leaves the map.
        assert one[:, 1, [0, -1]].abs().max() < 1e-9
        assert one[:, 0, :, [0, -1]].abs().max() < 1e-9


def test_padding_is_not_measured():
    """The part that shows the image, beside it a checkerboard in the padding."""
    maps = torch.zeros(1, 1, 32, 48, dtype=torch.float64)
    maps[..., 32:] = (-1.0) ** torch.arange(16)
    maps[..., :32] = tone(3)
    own = modulation_by(torch.zeros(1, 1, 32, 48, dtype=torch.float64))
    found = measure_stage(maps, own, valid=(32, 32))
    for ratio in found.ratios.values():
        assert ratio.item() < 1e-9
    assert measure_stage(maps, own).ratios["plain"].item() > 0.1


def test_mean_is_left_out():
    ratios = [measure_stage(maps).ratios["plain"].item() for maps in (tone(9), tone(9) + 10)]
    assert ratios[0] == pytest.approx(ratios[1]) == pytest.approx(1)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5)])
def test_any_size_and_half_precision(size):
    maps = torch.randn(1, 2, *size).half()
    own = modulation_by(torch.randn(1, 1, *size))
    found = measure_stage(maps, own, bins=8)
    assert all(0 <= ratio.item() <= 1 for ratio in found.ratios.values())


def test_correlation_of_attention_with_edges():
    """Attention that is an affine function of the edges: 1; its reverse: -1; others by numpy."""
    edges = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    assert attention_edge_correlation((1 + 3 * edges).log(), edges).item() == pytest.approx(1)
    assert attention_edge_correlation((4 - 3 * edges).log(), edges).item() == pytest.approx(-1)
    logits = smooth_noise(16, 2)
    other = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    pairs = torch.stack([logits.exp().flatten(), other.flatten()])
    found = attention_edge_correlation(logits, other)
    assert found.item() == pytest.approx(torch.corrcoef(pairs)[0, 1].item())


def test_pixels_can_be_left_out():
    edges = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    logits = (1 + 3 * edges).log()
    logits[..., :2] = 5.0
    counts = torch.ones_like(edges, dtype=torch.bool)
    counts[..., :2] = False
    assert attention_edge_correlation(logits, edges).item() < 0.9
    assert attention_edge_correlation(logits, edges, counts).item() == pytest.approx(1)


def test_correlation_with_nothing_is_nan():
    even, edges = torch.zeros(1, 1, 4, 4), torch.rand(1, 1, 4, 4)
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert attention_edge_correlation(even, edges).isnan().all()
    assert attention_edge_correlation(edges, even).isnan().all()
    assert attention_edge_correlation(edges, edges, nothing).isnan().all()


def test_control_has_the_strength_of_the_model():
    logits = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    arguments = {"fwhm": 3, "radius": 5, "rolls": 1}
    (full,) = control_displacements(logits, **arguments)
    (half,) = control_displacements(logits, strength=0.5, **arguments)
    assert torch.allclose(half, full / 2)
    same = list(control_displacements(logits, **{**arguments, "rolls": 3}))
    again = list(control_displacements(logits, **{**arguments, "rolls": 3}))
    assert all(torch.equal(one, other) for one, other in zip(same, again, strict=True))

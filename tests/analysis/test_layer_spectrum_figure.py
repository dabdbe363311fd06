"""Spectra of layers on the frequencies of the image, and their figure."""

import math

import torch

from freqfusion.analysis import layer_spectrum, layer_spectrum_figure


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_noise_is_even_whatever_its_scale():
    """White noise fills the plane of 1/4 x 1/4 cycles per pixel evenly: density 4 * 4."""
    found = layer_spectrum("noise", 30 * noise(64, 32, 32) + 5, 4)
    assert found.frequencies[-1] < 0.5 / 4
    torch.testing.assert_close(found.density.mean().item(), 16.0, rtol=0.05, atol=0)
    again = layer_spectrum("noise", 0.1 * noise(64, 32, 32), 4)
    torch.testing.assert_close(found.density, again.density)


def test_wave_is_found_at_its_frequency_in_the_image():
    """A period of 8 cells of 4 pixels is 1/32 cycles per pixel."""
    wave = torch.sin(torch.arange(64) * 2 * math.pi / 8).expand(2, 64, 64)
    found = layer_spectrum("wave", wave, 4)
    best = int(found.density.argmax())
    width = float(found.frequencies[1] - found.frequencies[0])
    assert abs(float(found.frequencies[best]) - 1 / 32) <= width / 2 + 1e-9


def test_figure_has_a_line_for_each_layer_and_says_what_is_constant():
    layers = [
        layer_spectrum("coarse", noise(4, 8, 10), 8),
        layer_spectrum("fused", noise(4, 16, 20), 4),
        layer_spectrum("dead", torch.ones(4, 16, 20), 4),
    ]
    (axis,) = layer_spectrum_figure(layers).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["coarse", "fused", "dead (constant)"]
    coarse, fused, dead = axis.get_lines()
    assert len(dead.get_xdata()) == 0
    assert max(coarse.get_xdata()) < 1 / 16 < max(fused.get_xdata()) < 1 / 8
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_figure_of_nothing_but_constants_can_be_drawn(tmp_path):
    figure = layer_spectrum_figure([layer_spectrum("dead", torch.ones(2, 1, 1), 32)])
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000

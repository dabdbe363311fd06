"""Figures hold what they were given: lines, colors by name, ranges, arrows that point right."""

import math

import numpy as np
import pytest
import torch

from freqfusion.analysis import (
    Response,
    Spectrum,
    figures,
    layer_spectrum,
    layer_spectrum_figure,
    maps_figure,
    offsets_figure,
    responses_figure,
    spectra_figure,
)

FREQUENCIES = torch.linspace(0, 0.5, 5, dtype=torch.float64)
IMAGE = np.zeros((40, 60, 3), np.uint8)


def spectrum(power):
    return Spectrum(FREQUENCIES, torch.full((5,), power, dtype=torch.float64))


def response(mean):
    full = torch.full((5,), mean, dtype=torch.float64)
    return Response(FREQUENCIES, full, full / 10, 1)


def test_spectra_figure():
    """A name keeps its color, though one panel lacks another; a power of zero is not drawn."""
    panels = {"p3": {"before": spectrum(1), "after": spectrum(2)}, "p2": {"after": spectrum(0.0)}}
    figure = spectra_figure(panels)
    first, second = figure.axes[:2]
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["p3", "p2"]
    assert first.get_yscale() == "log"
    lines = {line.get_label(): line for line in first.lines}
    np.testing.assert_array_equal(lines["after"].get_ydata(), np.full(5, 2.0))
    (alone,) = second.lines
    assert alone.get_color() == lines["after"].get_color() != lines["before"].get_color()
    assert np.isnan(alone.get_ydata()).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
    assert not first.texts
    limited = spectra_figure(panels, limits={"p3": 0.25, "p2": 0.354})
    assert [axis.texts[0].get_text() for axis in limited.axes] == [
        "folded above 0.25", "folded above 0.354",
    ]  # fmt: skip
    assert any(list(line.get_xdata()) == [0.354, 0.354] for line in limited.axes[1].lines)
    limited.canvas.draw()


def test_responses_figure():
    figure = responses_figure({"p2": {"low-pass": response(0.5)}})
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "low-pass")
    np.testing.assert_array_equal(curve.get_ydata(), np.full(5, 0.5))
    figure.canvas.draw()


def test_maps_figure():
    """All maps have one range of colors, which leaves nan out; a map of one value is drawn too."""
    maps = {"a": torch.linspace(0, 1, 100).view(10, 10), "b": 3 + torch.zeros(5, 7)}
    figure = maps_figure(IMAGE, maps | {"c": torch.full((2, 2), torch.nan)}, label="response")
    pictures = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(pictures) == 4
    assert pictures[1].get_clim() == pictures[2].get_clim()
    assert pictures[1].get_extent() == [-0.5, 59.5, 39.5, -0.5]
    assert maps_figure(IMAGE, {"b": maps["b"]}).axes[1].images[0].get_clim() == (2.5, 3.5)
    figure.canvas.draw()


def test_offsets_figure(monkeypatch):
    """Left half reads two pixels to the right, right half one pixel up: the arrows point there.

    The map is half as large as the image, so that an arrow is twice as long on it, times the
    factor that the title names.
    """
    offsets = torch.zeros(2, 3, 20, 30)
    offsets[0, :, :, :15] = 2
    offsets[1, :, :, 15:] = -1
    monkeypatch.setattr(figures, "_ARROWS", 10)
    figure = offsets_figure(IMAGE, {"p2": offsets})
    (left,) = (axis for axis in figure.axes if axis.images)
    field = left.collections[0]
    factor = 0.9 * 3 / 2
    assert f"× {factor:.2g}" in left.get_title(loc="left")
    is_left = field.X < 29
    assert is_left.any()
    assert not is_left.all()
    np.testing.assert_allclose(field.U[is_left], 2 * 2 * factor, rtol=1e-6)
    np.testing.assert_allclose(field.V[is_left], 0)
    np.testing.assert_allclose(field.V[~is_left], -1 * 2 * factor, rtol=1e-6)
    assert len(field.X) == 7 * 10
    assert left.get_ylim() == (39.5, -0.5)
    figure.canvas.draw()


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2)])
def test_offsets_of_small_maps_and_of_zero(size):
    offsets_figure(IMAGE, {"p5": torch.zeros(2, 1, *size)}).canvas.draw()


def test_nothing_to_draw():
    for call in (
        lambda: spectra_figure({}),
        lambda: responses_figure({"p2": {}}),
        lambda: maps_figure(IMAGE, {}),
        lambda: offsets_figure(IMAGE, {}),
    ):
        with pytest.raises(ValueError, match="nothing to draw"):
            call()
    with pytest.raises(ValueError, match="x first"):
        offsets_figure(IMAGE, {"p2": torch.zeros(2, 4, 4)})


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


def test_layer_spectrum_figure():
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

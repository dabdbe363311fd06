"""What adaptive resampling does to the aliasing of the strided layer behind it.

Three versions of the same map are compared: "plain" (as it came), "modulated" (resampled as the
model does it) and "control" (resampled alike at places that have nothing to do with its content).
Interpolation is a low-pass filter and lowers the ratio wherever it moves samples, detail or not, so
that only what the modulated map gains over the control can be due to where samples were moved.
The control is our design; the method is that of Chen et al., Spatial Frequency Modulation, TPAMI
2025. Features are (B, C, H, W).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqfusion.analysis.spectra import radial_power_spectrum
from freqfusion.layers.sfm import aliasing_ratio, modulate, saliency_to_displacement
from freqfusion.layers.sfm.displacement import spatial_softmax

Version = Literal["plain", "modulated", "control"]
# What a rolled attention map is shifted by at least and at most, in shares of its side.
_ROLL = (0.25, 0.75)


@dataclass(frozen=True)
class Modulation:
    """How a model has resampled one map.

    Attributes:
        displacement: (B, 2, H, W), x then y, in pixels.
        logits: Of the attention, (B, 1, H, W).
        fwhm: Of the Gaussian that draws samples, ``radius`` of its window, and ``strength`` of the
            displacement, as ``AdaptiveResampling`` has them.
    """

    displacement: Tensor
    logits: Tensor
    fwhm: float = 3.0
    radius: int = 5
    strength: float = 1.0


@dataclass(frozen=True)
class StageMeasure:
    """Aliasing ratios (B,) and spectra (B, bins) of the versions of one map, by version.

    The spectra are those of ``radial_power_spectrum`` in rings of squares, whose middles are
    ``frequencies`` (bins,): the ratio is their share above the limit.
    """

    ratios: dict[Version, Tensor]
    spectra: dict[Version, Tensor]
    frequencies: Tensor


def measure_stage(
    features: Tensor,
    modulation: Modulation | None = None,
    *,
    f_nyquist: float = 0.25,
    bins: int | None = None,
    valid: tuple[int, int] | None = None,
) -> StageMeasure:
    """Measure a map that enters a strided layer; each channel's mean is left out.

    Maps are resampled bicubically, which filters less than the bilinear interpolation of models.

    Args:
        features: (B, C, H, W), before any resampling at this stage.
        modulation: What the model did to it; without it there is the version "plain" only.
        f_nyquist: Highest frequency that the layer keeps, in cycles per sample: 1 / (2 * stride).
        bins: Of the spectra, see ``radial_power_spectrum``.
        valid: Height and width of the part that shows the image; the rest, right of and below it,
            is padding and not measured.
    """
    height, width = valid or (features.shape[-2], features.shape[-1])
    ratios: dict[Version, Tensor] = {}
    spectra: dict[Version, Tensor] = {}
    frequencies = features.new_zeros(0)
    for version, maps in _versions(features, modulation, (height, width)):
        ones = list(maps)
        ratios[version] = torch.stack(
            [aliasing_ratio(one, f_nyquist=f_nyquist, remove_dc=True) for one in ones]
        ).mean(dim=0)
        found = [radial_power_spectrum(one, bins=bins) for one in ones]
        frequencies = found[0][0]
        spectra[version] = torch.stack([power for _, power in found]).mean(dim=0)
    return StageMeasure(ratios, spectra, frequencies)


def control_displacements(
    logits: Tensor, *, fwhm: float, radius: int, strength: float = 1.0, rolls: int = 4
) -> Iterator[Tensor]:
    """Yield displacements (B, 2, H, W) that attention of the same kind elsewhere would cause.

    The model's own logits, rolled around the map: by half of it in both directions first, then by
    random shares between a quarter and three quarters, the same for every image. Rolling keeps the
    values and the shapes of their ridges and peaks, and with them how far samples move and how
    strongly interpolation filters; it takes away that they lie on the content they were made for.
    The displacement is computed anew, since a rolled displacement would leave the map at its
    border. Attention that repeats itself over the map (a texture) is its own control, rightly: no
    place is better than another then.
    """
    height, width = logits.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    low, high = _ROLL
    for number in range(rolls):
        shares = torch.rand(2, generator=generator) * (high - low) + low
        down, across = (0.5, 0.5) if number == 0 else shares.tolist()
        rolled = logits.roll((round(down * height), round(across * width)), dims=(2, 3))
        yield strength * saliency_to_displacement(spatial_softmax(rolled), fwhm=fwhm, radius=radius)


def attention_edge_correlation(
    logits: Tensor, edges: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Return Pearson correlation (B,) of the attention of each image with the edges of its labels.

    Args:
        logits: (B, 1, H, W); their spatial softmax is the attention.
        edges: (B, 1, H, W) in the attention's own space, see ``warp_edge_target``.
        counts: (B, 1, H, W), False at pixels to leave out, for example ignored or padded ones.

    Returns:
        In [-1, 1]; nan for an image where the attention or the edges are even.

    Raises:
        ValueError: if the shapes differ.
    """
    counts = torch.ones_like(logits, dtype=torch.bool) if counts is None else counts
    if not logits.shape == edges.shape == counts.shape:
        raise ValueError(
            "logits, edges and counts must have one shape, got "
            f"{', '.join(str(tuple(one.shape)) for one in (logits, edges, counts))}"
        )
    attention = spatial_softmax(logits).double()
    results = [
        _pearson(one[kept], other[kept])
        for one, other, kept in zip(attention, edges.double(), counts, strict=True)
    ]
    return torch.stack(results)


def _versions(
    features: Tensor, modulation: Modulation | None, size: tuple[int, int]
) -> Iterator[tuple[Version, Iterator[Tensor]]]:
    """Return each version, and the maps over which it is averaged, cropped to ``size``."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    shown = _crop(features, size)
    yield "plain", iter([shown])
    if modulation is None:
        return
    resampled = modulate(features, modulation.displacement, mode="bicubic")
    yield "modulated", iter([_crop(resampled, size)])
    displacements = control_displacements(
        _crop(modulation.logits, size),
        fwhm=modulation.fwhm,
        radius=modulation.radius,
        strength=modulation.strength,
    )
    yield "control", (modulate(shown, one, mode="bicubic") for one in displacements)


def _crop(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps[..., : size[0], : size[1]]


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """Return the correlation of two lists; nan where one of them does not vary beyond rounding."""
    one, other = one - one.mean(), other - other.mean()
    lengths = one.norm() * other.norm()
    is_even = (one.abs().max() < 1e-6) | (other.abs().max() < 1e-6) if one.numel() else True
    if is_even:
        return one.new_tensor(float("nan"))
    correlation: Tensor = one @ other / lengths
    return correlation.clamp(-1, 1)

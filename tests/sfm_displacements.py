"""Displacements of bounded attention, as the tests of demodulation need them."""

import torch
import torch.nn.functional as F
from sfm_signals import label_edges, smooth_noise

from freqfusion.layers.sfm.displacement import saliency_to_displacement
from freqfusion.layers.sfm.mapping import Mapping, MappingStack

BOUND = 2.0
KINDS = ("noise", "signs", "lines", "smooth")


def attention_logits(kind, size, *, batch=1, seed=0):
    """Logits (B, 1, H, W) in [-BOUND, BOUND], float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 1, *size, generator=generator, dtype=torch.float64)
    if kind == "noise":
        return BOUND * torch.tanh(noise)
    if kind == "signs":
        return BOUND * noise.sign()
    if kind == "lines":
        return torch.where(noise > 1.5, BOUND, -BOUND).cummax(dim=2).values
    mean = F.avg_pool2d(F.pad(noise, (3,) * 4, mode="replicate"), 7, stride=1)
    return BOUND * torch.tanh(10 * mean)


def displacement_of(kind, size, *, fwhm=3.0, dtype=torch.float64, batch=1, seed=0):
    """(B, 2, H, W), at the strongest bound for which the lattice does not fold."""
    saliency = attention_logits(kind, size, batch=batch, seed=seed).exp()
    return saliency_to_displacement(saliency, fwhm=fwhm, radius=5 if fwhm <= 3 else 9).to(dtype)


def boundary_displacement(size, *, fwhm=3.0, seed=0, dtype=torch.float64):
    """Attention along the borders of regions, as in a segmentation network."""
    labels = label_edges(size, seed=seed).argmax(dim=1, keepdim=True)
    edges = torch.zeros(1, 1, size, size, dtype=torch.float64)
    edges[..., 1:] += labels[..., 1:] != labels[..., :-1]
    edges[..., 1:, :] += labels[..., 1:, :] != labels[..., :-1, :]
    soft = F.avg_pool2d(edges.clamp(max=1), 3, stride=1, padding=1, count_include_pad=False)
    logits = BOUND * (2 * soft / soft.max() - 1)
    return saliency_to_displacement(logits.exp(), fwhm=fwhm, radius=5 if fwhm <= 3 else 9).to(dtype)


def stack_of(size, *, stages=3, phase=0.5, kind="smooth", dtype=torch.float32, batch=1):
    """Stages of stride 2, each on the lattice that the one before has left."""
    stack = MappingStack()
    for stage in range(stages):
        displacement = displacement_of(kind, size, dtype=dtype, batch=batch, seed=stage)
        out_size = tuple(-(-length // 2) for length in size)
        stack.append(Mapping(displacement, False, 2, phase, out_size))
        size = out_size
    return stack


def smooth_image(size, *, channels=3, sigma=6.0, seed=0):
    """Channels of smooth noise, (1, channels, size, size)."""
    return smooth_noise(size, sigma, batch=channels, seed=seed).transpose(0, 1)

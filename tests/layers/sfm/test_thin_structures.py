"""What modulation and demodulation are for: thin structures survive strided layers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sfm_signals import binary_curves, curve_distance, detail_logits, smooth_noise, thin_curves

from freqfusion.layers.sfm.displacement import modulate, saliency_to_displacement
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.upsampling import NonUniformUpsample

POOLS = {0.5: {"kernel_size": 2}, 0.0: {"kernel_size": 3, "padding": 1, "count_include_pad": False}}


def contrast_logits(image):
    """Attention that follows the contrast with the mean of 5 x 5 pixels."""
    box = F.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
    contrast = (image - box).abs()
    return 2 * (2 * (contrast / contrast.max()).sqrt() - 1)


def downsample(image, phase, stages=3):
    """Stages of modulation and pooling by two: the map, its mappings, and the plain map."""
    stack, modulated, plain = MappingStack(), image, image
    for _ in range(stages):
        displacement = saliency_to_displacement(contrast_logits(modulated).exp())
        modulated = F.avg_pool2d(modulate(modulated, displacement), stride=2, **POOLS[phase])
        plain = F.avg_pool2d(plain, stride=2, **POOLS[phase])
        out_size = tuple(modulated.shape[-2:])
        stack.append(Mapping(displacement, False, 2, phase, out_size))
    return modulated, stack, plain


def changed(stack, phase=None, by=1):
    """The same stages with another phase, or their displacement times a number."""
    return MappingStack(
        replace(
            stage,
            displacement=by * stage.displacement,
            phase=stage.phase if phase is None else phase,
        )
        for stage in stack
    )


def best_iou(scores, mask):
    """Intersection over union at the best of 40 thresholds."""
    mask, best = mask > 0.5, 0.0
    for threshold in torch.linspace(scores.min(), scores.max(), 42)[1:-1]:
        found = scores > threshold
        best = max(best, ((found & mask).sum() / (found | mask).sum()).item())
    return best


@pytest.mark.parametrize("seed", [0, 1])
def test_thin_curves_are_segmented_better(seed):
    """Invariant 11: curves of five pixels after three halvings, found by the best threshold.

    The intersection over union is better than the plain path's by 0.15 or more.
    """
    image = binary_curves(256, seed=seed)
    modulated, stack, plain = downsample(image, phase=0.5)
    module = NonUniformUpsample()
    ours = best_iou(module(modulated, stack, (256, 256)), image)
    assert ours - best_iou(module(plain, changed(stack, by=0), (256, 256)), image) >= 0.15


def test_the_phase_matters():
    """Invariant 13: after 3 x 3 layers with padding 1, whose phase is 0, assuming 0.5 costs 0.15.

    It is the phase of 2 x 2 layers, which is wrong by 3.5 pixels after three stages.
    """
    image = binary_curves(256)
    modulated, stack, _ = downsample(image, phase=0.0)
    module = NonUniformUpsample()
    right, wrong = (
        best_iou(module(modulated, changed(stack, phase), (256, 256)), image)
        for phase in (0.0, 0.5)
    )
    assert right - wrong >= 0.15


@pytest.mark.parametrize("fwhm", [3.0, 6.0])
def test_detail_is_kept(fwhm):
    """Invariant 12: after one 2 x 2 pooling, the error on thin curves is at most 0.8 of plain's."""
    image = thin_curves(128)
    near = curve_distance(smooth_noise(128, 10)) < 1
    saliency = detail_logits(image, fwhm=fwhm).exp()
    displacement = saliency_to_displacement(saliency, fwhm=fwhm, radius=5 if fwhm <= 3 else 9)
    stack = MappingStack([Mapping(displacement, False, 2, 0.5, (64, 64))])
    module = NonUniformUpsample()
    ours = module(F.avg_pool2d(modulate(image, displacement), 2), stack, (128, 128))
    plain = module(F.avg_pool2d(image, 2), changed(stack, by=0), (128, 128))
    errors = [(output - image)[near].square().mean().sqrt() for output in (ours, plain)]
    assert errors[0] <= 0.8 * errors[1]

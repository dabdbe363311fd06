"""The attention generator: its formula written another way, its start, its bounds."""

import math

import pytest
import torch
import torch.nn.functional as F

from freqfusion.layers.sfm.attention import LearnableHighPass, SemanticHighFreqAttention


def features(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def trained(**options):
    """A module that does something."""
    torch.manual_seed(0)
    return SemanticHighFreqAttention(zero_init=False, **options)


def test_parameter_count():
    """With C channels, four bins and D = C / 16: 9 C + 4 (C D + 2 D + D) + C + 1."""
    module = SemanticHighFreqAttention(channels=256)
    assert sum(parameter.numel() for parameter in module.parameters()) == 19137


def test_zero_start_can_learn():
    """Invariant 14: the projections get a gradient at once, but for the bin of one, which cannot
    change the shape of the logits, and the bias."""
    module = SemanticHighFreqAttention(channels=8)
    weight = features(2, 1, 12, 15, seed=1)
    logits = module(features(2, 8, 12, 15))
    assert not logits.any()
    (logits * weight).sum().backward()
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None for gradient in grads.values())
    learning = ["project.weight", *(f"context.{index}.project.weight" for index in (1, 2, 3))]
    for name in learning:
        assert grads[name].abs().max() > 1e-3, name
    for name in ("project.bias", "context.0.project.weight"):
        assert grads[name].abs().max() < 1e-4, name


def test_equals_enlarging_concatenating_and_projecting():
    """The formula of the specification, with the pyramid as related code has it."""
    module = trained(channels=8, ratio=2).double()
    image = features(2, 8, 13, 18, dtype=torch.float64)
    ones = torch.ones(8, 1, 3, 3, dtype=torch.float64)
    inside = F.conv2d(torch.ones_like(image), ones, padding=1, groups=8)
    x0 = F.conv2d(image, ones, padding=1, groups=8) / inside
    low = torch.softmax(module.highpass.logits, dim=1).view(8, 1, 3, 3)
    x1 = 2 * x0 - F.conv2d(F.pad(x0, (1, 1, 1, 1), mode="replicate"), low, groups=8)
    maps, weights = [x1], [module.project.weight]
    for size, branch in zip((1, 2, 3, 7), module.context, strict=True):
        pooled = branch.norm(branch.reduce(F.adaptive_avg_pool2d(x1, size))).relu()
        maps.append(F.interpolate(pooled, size=(13, 18), mode="bilinear"))
        weights.append(branch.project.weight)
    z = F.conv2d(torch.cat(maps, dim=1), torch.cat(weights, dim=1), module.project.bias)
    expected = 2 * torch.tanh((z - z.mean(dim=(2, 3), keepdim=True)) / 2)
    torch.testing.assert_close(module(image), expected)


def test_logits_are_bounded():
    """Invariant 18: also where they come from features of 1e4."""
    logits = trained(channels=8, logit_bound=0.5)(features(2, 8, 16, 16) * 1e4)
    assert 0.49 < logits.abs().max() <= 0.5


def test_highpass_by_hand():
    """At the start, the weighted mean has e / (1 + 8 e) at eight taps and 1 / (1 + 8 e) at one."""
    module = LearnableHighPass(1)
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    response = module(impulse)[0, 0]
    share = 1 / (1 + 8 * math.e)
    assert response[2, 2].item() == pytest.approx(2 - share)
    assert response[1, 3].item() == pytest.approx(-math.e * share)
    assert response[0].abs().max() == 0
    # The border is repeated: a constant stays what it is up to the corner.
    torch.testing.assert_close(module(torch.full((1, 1, 1, 3), 7.0)), torch.full((1, 1, 1, 3), 7.0))


def test_parts_can_be_left_out():
    module = trained(channels=6, bins=(), highpass=False, pool=1)
    assert {name for name, _ in module.named_parameters()} == {"project.weight", "project.bias"}
    image = features(1, 6, 4, 5)
    z = module.project(image)
    torch.testing.assert_close(module(image), 2 * torch.tanh((z - z.mean()) / 2))

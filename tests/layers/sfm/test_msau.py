"""Multi-scale adaptive upsampling: its steps, sizes, density, gradients, dtypes, clear errors."""

import pytest
import torch
import torch.nn.functional as F
from sfm_displacements import displacement_of, stack_of

from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.upsampling import (
    MultiScaleAdaptiveUpsampling,
    NonUniformUpsample,
    resize_bilinear,
)


def example(size=(16, 24), *, stages=2, batch=2, classes=5, **options):
    """A module, and logits and a guide two halvings below the first lattice."""
    torch.manual_seed(0)
    module = MultiScaleAdaptiveUpsampling(guide_channels=6, **options)
    stack = stack_of(size, stages=stages, batch=batch)
    low = stack[-1].out_size if stack else size
    return module, torch.randn(batch, classes, *low), torch.randn(batch, 6, *low), stack


def test_is_its_steps():
    """Demodulate both at 1/4, predict the relation, three modules, resize to the image."""
    module, logits, guide, stack = example(dilations=(1, 2, 4))
    output = module(logits, guide, stack, (64, 96))
    upsample = NonUniformUpsample()
    expected, relation = (upsample(tensor, stack, (16, 24)) for tensor in (logits, guide))
    relation = module.guide_conv(F.pad(relation, (1,) * 4, mode="replicate"))
    relation = module.guide_norm(relation).relu()
    for part, dilation in zip(module.relations, (1, 2, 4), strict=True):
        assert part.geometry.dilation == dilation
        relation, expected = part(relation, expected)
    expected = F.interpolate(expected, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("guide_density", [False, True])
@pytest.mark.parametrize("stages", [0, 1, 3])
@pytest.mark.parametrize("image", [(64, 96), (61, 93), (7, 5), (16, 24)])
def test_any_size(image, stages, guide_density):
    """Also sizes that are no multiples of the stride, and none of the stages."""
    module, logits, guide, stack = example(
        stages=stages, guide_density=guide_density, dilations=(1, 16)
    )
    assert module(logits, guide, stack, image).shape == (2, 5, *image)


def test_out_stride():
    """With a stride of 1, the modules see the image's own lattice: no resizing at the end."""
    module, logits, guide, stack = example(out_stride=1, dilations=(1,))
    seen = []
    module.relations[0].register_forward_hook(lambda _, inputs, output: seen.append(output[1]))
    output = module(logits, guide, stack, (32, 40))
    assert torch.equal(output, seen[0])


def test_guide_of_another_size():
    module, logits, guide, stack = example()
    fine = F.interpolate(guide, scale_factor=2, mode="bilinear", align_corners=False)
    assert module(logits, fine, stack, (64, 96)).shape == (2, 5, 64, 96)


def test_density_is_a_channel():
    """The log of the product of the stages' densities: zero without displacement, else not."""
    module, logits, guide, stack = example(guide_density=True, dilations=(1,))
    seen = []
    module.guide_conv.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    module(logits, guide, stack, (64, 96))
    still = MappingStack(
        Mapping(torch.zeros_like(stage.displacement), False, 2, 0.5, stage.out_size)
        for stage in stack
    )
    module(logits, guide, still, (64, 96))
    module(logits, guide, MappingStack(), (64, 96))
    moved, unmoved, none = (tensor[:, 6, 1:-1, 1:-1] for tensor in seen)
    assert moved.shape == (2, 16, 24)
    assert moved.abs().max() > 0.1
    assert unmoved.abs().max() <= 1e-5
    assert none.abs().max() == 0


def test_gated_modules_start_nearly_as_plain_demodulation():
    """Gates of 2 %: five modules change the logits by about a hundredth."""
    module, logits, guide, stack = example(gate=True, out_stride=1)
    output = module(logits, guide, stack, (16, 24))
    plain = NonUniformUpsample()(logits, stack, (16, 24))
    change = (output - plain).square().mean().sqrt() / plain.square().mean().sqrt()
    assert 0 < change <= 0.02


def test_constants_stay():
    module, logits, guide, stack = example()
    output = module(torch.full_like(logits, 2.5), guide, stack, (64, 96))
    torch.testing.assert_close(output, torch.full_like(output, 2.5), atol=1e-5, rtol=0)


def test_gradients_reach_logits_guide_and_parameters_but_not_the_mapping():
    """Invariant 14: the mapping is a constant of the values' gradient, its density too."""
    module, logits, guide, _ = example(guide_density=True)
    displacement = displacement_of("noise", (8, 12), dtype=torch.float32, batch=2).requires_grad_()
    stack = MappingStack([Mapping(displacement, False, 2, 0.5, (4, 6))])
    logits.requires_grad_()
    guide.requires_grad_()
    module(logits, guide, stack, (32, 48)).square().sum().backward()
    for tensor in (logits, guide, *module.parameters()):
        assert tensor.grad.abs().max() > 0
    assert displacement.grad is None


def test_without_a_cascade_features_are_only_demodulated():
    """On a lattice of the image over four, then resized; the guide has nothing to learn from."""
    module, logits, guide, stack = example(dilations=())
    assert not list(module.parameters())
    expected = resize_bilinear(NonUniformUpsample()(logits, stack, (16, 24)), (64, 96))
    torch.testing.assert_close(module(logits, guide, stack, (64, 96)), expected)
    torch.testing.assert_close(module(logits, -guide, stack, (64, 96)), expected)

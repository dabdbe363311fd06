"""The baselines behind FreqFusion's interface."""

import pytest
import torch
import torch.nn.functional as F

from freqfusion.layers import CarafeUpsampling, DySampleUpsampling, InterpolationUpsampling

BUILDERS = {
    "nearest": lambda: InterpolationUpsampling(mode="nearest"),
    "bilinear": lambda: InterpolationUpsampling(mode="bilinear"),
    "carafe": lambda: CarafeUpsampling(lr_channels=8, compressed_channels=4),
    "dysample": lambda: DySampleUpsampling(lr_channels=8, groups=2),
}


@pytest.mark.parametrize("size", [(10, 14), (9, 13), (1, 1), (17, 6)])
@pytest.mark.parametrize("name", BUILDERS)
def test_any_size_and_gradients(name, size):
    module = BUILDERS[name]()
    fine, coarse = torch.randn(2, 3, *size), torch.randn(2, 8, 5, 7, requires_grad=True)
    nothing, same, up = module(hr_feat=fine, lr_feat=coarse)
    assert nothing is None
    assert same is fine
    assert up.shape == (2, 8, *size)
    up.square().sum().backward()
    assert coarse.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolation_is_torchs(mode):
    coarse = torch.randn(1, 2, 5, 7)
    up = InterpolationUpsampling(mode=mode)(torch.zeros(1, 1, 10, 14), coarse)[2]
    torch.testing.assert_close(up, F.interpolate(coarse, scale_factor=2, mode=mode))


def test_carafe_starts_as_a_mean_of_the_neighbourhood():
    """Kernels are nearly uniform at the start: 1 / 25 of each neighbour."""
    torch.manual_seed(0)
    coarse = torch.randn(1, 8, 9, 9)
    up = CarafeUpsampling(lr_channels=8, compressed_channels=4)(torch.zeros(1, 1, 18, 18), coarse)[
        2
    ]
    mean = F.avg_pool2d(coarse, 5, stride=1, padding=2)
    torch.testing.assert_close(up, F.interpolate(mean, scale_factor=2), atol=0.02, rtol=0)


def test_dysample_starts_as_bilinear_interpolation_and_moves_by_its_offsets():
    torch.manual_seed(0)
    coarse, fine = torch.randn(1, 8, 6, 7), torch.zeros(1, 1, 12, 14)
    module = DySampleUpsampling(lr_channels=8, groups=2)
    bilinear = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(fine, coarse)[2], bilinear, atol=0.05, rtol=0)
    with torch.no_grad():  # four units of x offset at a scope of 1/4 are one coarse pixel
        module.offset.weight.zero_()
        module.offset.bias[:8] = 4.0
    moved = module(fine, coarse)[2]
    torch.testing.assert_close(moved[..., :-4], bilinear[..., 2:-2], atol=1e-5, rtol=1e-5)

"""Recording changes nothing, keeps nothing on the modules, and gives what was computed."""

import pytest
import torch
from torch import nn

from freqfusion.analysis import fusion_modules, record_fusions
from freqfusion.layers import (
    CarafeUpsampling,
    DySampleUpsampling,
    FreqFusion,
    InterpolationUpsampling,
    reassemble,
    sample_at_offsets,
)

WIDTHS = {"hr_channels": 8, "lr_channels": 8, "compressed_channels": 8}


class Hop(nn.Module):
    """A model with one hop, called the way pyramids call it, or by position."""

    def __init__(self, fusion, *, named=True):
        super().__init__()
        self.fusion, self.named = fusion, named

    def forward(self, hr, lr):
        if self.named:
            return self.fusion(hr_feat=hr, lr_feat=lr)
        return self.fusion(hr, lr)


def build(fusion, **options):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(std=0.5)
    return Hop(fusion, **options)


def maps(hr=(9, 12), lr=(5, 6)):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, 8, *size, generator=generator) for size in (hr, lr))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("options", [{"feature_resample": True}, {"semi_conv": False}])
def test_freqfusion(options, named):
    """The record says with which kernels and offsets the results come about."""
    model = build(FreqFusion(**WIDTHS, **options), named=named)
    hr, lr = maps()
    plain = model(hr, lr)
    attributes = set(vars(model.fusion))
    with record_fusions(model) as passes:
        recorded = model(hr, lr)
    assert all(torch.equal(one, other) for one, other in zip(plain, recorded, strict=True))
    assert set(vars(model.fusion)) == attributes
    assert not model.fusion._forward_hooks
    one = passes["fusion"]
    assert torch.equal(one.lowpass, plain[0])
    assert torch.equal(one.hr_out, plain[1])
    assert torch.equal(one.lr_out, plain[2])
    assert one.is_sharpening
    smooth = reassemble(hr, one.highpass, kernel_size=3)
    torch.testing.assert_close(one.hr_out, 2 * hr - smooth)
    assert not any(part.requires_grad for part in (one.lowpass, one.highpass, one.hr_out))
    if "feature_resample" not in options:
        assert one.offsets is None
        return
    upsampled = reassemble(lr, one.lowpass, kernel_size=5, scale=2, out_size=(9, 12))
    torch.testing.assert_close(sample_at_offsets(upsampled, one.offsets), one.lr_out)


def test_gradients_stay():
    """The pass itself can be differentiated, with recomputation too."""
    model = build(FreqFusion(**WIDTHS, use_checkpoint=True))
    with record_fusions(model):
        _, hr, lr = model(*maps())
        (hr.sum() + lr.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_carafe():
    model = build(CarafeUpsampling(lr_channels=8, compressed_channels=8))
    hr, lr = maps()
    with record_fusions(model) as passes:
        _, _, out = model(hr, lr)
    one = passes["fusion"]
    expected = reassemble(lr, one.lowpass, kernel_size=5, scale=2, out_size=(9, 12))
    torch.testing.assert_close(out, expected)
    assert one.highpass is None
    assert one.offsets is None


def test_dysample():
    model = build(DySampleUpsampling(lr_channels=8))
    hr, lr = maps()
    with record_fusions(model) as passes:
        _, _, out = model(hr, lr)
    torch.testing.assert_close(out, sample_at_offsets(lr, passes["fusion"].offsets))
    assert passes["fusion"].lowpass is None


def test_interpolation():
    """Nearest interpolation is what a plain pyramid adds."""
    model = Hop(InterpolationUpsampling(mode="nearest"))
    with record_fusions(model) as passes:
        model(*maps())
    assert torch.equal(passes["fusion"].lr_out, passes["fusion"].lr_repeated)


def test_last_pass_stays_and_hooks_go_after_an_error():
    model = build(FreqFusion(**WIDTHS))
    hr, lr = maps()

    def fail_after_two_passes():
        with record_fusions(model) as passes:
            model(hr, lr)
            model(2 * hr, lr)
            assert torch.equal(passes["fusion"].hr_in, 2 * hr)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_after_two_passes()
    assert not model.fusion._forward_hooks


def test_names():
    """By their place in the model; other layers are none."""
    model = nn.ModuleDict({"a": nn.Conv2d(1, 1, 1), "b": Hop(InterpolationUpsampling())})
    assert list(fusion_modules(model)) == ["b.fusion"]
    with record_fusions(nn.Conv2d(1, 1, 1)) as passes:
        assert passes == {}

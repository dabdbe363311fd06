"""Mask2Former's pixel decoder on modulated maps."""

import pytest
import torch
import torch.nn.functional as F
from sfm_models import NAMES, SHAPES, modulated_maps

from freqfusion.layers.sampling import interpolate_at
from freqfusion.layers.sfm import MappingStack, NonUniformUpsample, ThreePointReassembly
from freqfusion.modeling.fpn import fusion_factory
from freqfusion.modeling.mask2former import FreqFusionPixelDecoder
from freqfusion.modeling.sfm import SFMPixelDecoder
from freqfusion.modeling.sfm.demodulation import demodulate_in_place_of
from freqfusion.modeling.sfm.pixel_decoder import step_between


def build(kind, shapes=SHAPES, **keys):
    torch.manual_seed(0)
    return kind(
        input_shape=shapes,
        conv_dim=32,
        mask_dim=16,
        norm="GN",
        transformer_dropout=0.0,
        transformer_nheads=4,
        transformer_enc_layers=1,
        transformer_in_features=["res3", "res4", "res5"],
        transformer_dim_feedforward=32,
        **keys,
    ).eval()


def modulated(**keys):
    """A decoder for modulated maps with the parameters of the original."""
    decoder = build(SFMPixelDecoder, demodulator=NonUniformUpsample(), **keys)
    report = decoder.load_state_dict(build(FreqFusionPixelDecoder).state_dict(), strict=False)
    assert not report.unexpected_keys
    return decoder


def flat(outputs):
    mask_features, coarsest, several = outputs
    return [mask_features, coarsest, *several]


def test_switched_off_it_is_the_original():
    original, decoder = build(FreqFusionPixelDecoder), build(SFMPixelDecoder)
    assert list(decoder.state_dict()) == list(original.state_dict())
    features = dict(modulated_maps())
    for found, expected in zip(flat(decoder(features)), flat(original(features)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(64, 96), (43, 65)], ids=str)
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_a_new_one_is_the_original_where_nothing_moved(size, phase):
    features = modulated_maps(*size, phase=phase)
    decoder = modulated()
    for found, expected in zip(
        flat(decoder(features)), flat(build(FreqFusionPixelDecoder)(dict(features))), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_encoder_gets_demodulated_maps():
    """Level 0: at their own sizes, as at the exit of a backbone."""
    features, decoder = modulated_maps(amplitude=0.5), modulated()
    inputs = []
    decoder.transformer.register_forward_pre_hook(lambda _, args: inputs.extend(args[0]))
    decoder(features)
    for found, name in zip(inputs, ["res5", "res4", "res3"], strict=True):
        projected = decoder.input_proj[5 - int(name[-1])](features[name])
        stack = features.mappings[name]
        assert (projected - found).abs().max() > 0.1
        expected = demodulate_in_place_of(projected, stack, NonUniformUpsample())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hops_are_three_point_demodulations_at_first():
    """Level 1: each hop reads three points through the one stage between its maps."""
    decoder = modulated()
    for hop in decoder.reassemblies:
        assert isinstance(hop, ThreePointReassembly)
        with torch.no_grad():  # the second step averages over the pixel itself only
            hop.generator.weight.zero_()
            hop.generator.bias.zero_()
            hop.generator.bias[12] = 100
        hop.generator.weight.requires_grad_(False)
    torch.nn.init.ones_(decoder.gain)
    stacks = modulated_maps(amplitude=0.3).mappings
    torch.manual_seed(1)
    levels = [torch.randn(1, 32, 2 * 2**i, 3 * 2**i) for i in range(4)]  # coarse to fine
    found = decoder._with_detail(levels, stacks)
    expected = levels[0]
    for fine, stage in zip(levels[1:], reversed(stacks["res5"]), strict=True):
        size = fine.shape[-2:]
        y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        points = (torch.stack([x, y], dim=-1)[None] + 0.5) * 2 / torch.tensor(size[::-1]) - 1
        points = stage.to_downsampled(stage.inverse_points(points))
        expected = fine + interpolate_at(expected, points, interp="barycentric")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_detail_reaches_the_masks_only():
    features, decoder = modulated_maps(amplitude=0.3), modulated()
    before = flat(decoder(features))
    torch.nn.init.ones_(decoder.gain)
    after = flat(decoder(features))
    assert (before[0] - after[0]).abs().max() > 1e-2
    for one, two in zip(before[1:], after[1:], strict=True):
        assert torch.equal(one, two)


def test_every_parameter_learns():
    decoder = modulated().train()
    torch.nn.init.constant_(decoder.gain, 0.1)
    outputs = flat(decoder(modulated_maps(43, 65, amplitude=0.3)))
    sum(output.square().sum() for output in outputs).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_joins_by_freqfusion_too():
    from toy_configs import resnet18_cfg

    make = fusion_factory(resnet18_cfg())
    decoder = build(SFMPixelDecoder, demodulator=NonUniformUpsample(), make_fusion=make)
    original = build(FreqFusionPixelDecoder, make_fusion=make)
    decoder.load_state_dict(original.state_dict(), strict=False)
    features = modulated_maps()
    for found, expected in zip(
        flat(decoder(features)), flat(original(dict(features))), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_step_that_was_not_modulated_is_resized():
    """Between maps of one space the stage moves nothing and has the places that resizing has."""
    fine, coarse = torch.randn(1, 4, 8, 12), torch.randn(1, 4, 4, 6)
    stage = step_between(MappingStack(), MappingStack(), fine, coarse)
    found = NonUniformUpsample()(coarse, MappingStack([stage]), (8, 12))
    expected = F.interpolate(coarse, size=(8, 12), mode="bilinear")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_laterals_there_are_no_hops():
    shapes = {name: SHAPES[name] for name in NAMES[1:]}
    decoder = build(
        SFMPixelDecoder, shapes=shapes, common_stride=8, demodulator=NonUniformUpsample()
    )
    assert not any("reassemblies" in name for name in decoder.state_dict())
    assert decoder(modulated_maps(amplitude=0.3))[0].shape == (1, 16, 8, 12)


def test_refuses_modulated_maps_that_it_was_not_built_for():
    with pytest.raises(ValueError, match="maps are still modulated"):
        build(SFMPixelDecoder)(modulated_maps())


def test_refuses_two_stages_in_a_hop():
    features = modulated_maps()
    features.mappings["res4"] = features.mappings["res3"]
    with pytest.raises(ValueError, match="2 resamplings lie between two maps"):
        modulated()(features)

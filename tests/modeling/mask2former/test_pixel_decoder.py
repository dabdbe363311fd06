"""The pixel decoders: reference runs (set D), and the contract of both.

``tests/tools/test_convert_mask2former.py`` holds published names and shapes at full size.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from golden_data import cases
from torch import nn
from toy_configs import change

from freqfusion import get_freqfusion_cfg
from freqfusion.layers import FreqFusion, InterpolationUpsampling
from freqfusion.modeling.mask2former.deformable_encoder import (
    DeformableEncoder,
    DeformableEncoderLayer,
    pixel_centers,
)
from freqfusion.modeling.mask2former.pixel_decoder import (
    DeformableAttentionPixelDecoder,
    FreqFusionPixelDecoder,
)

KINDS = ["freqfusion", "carafe"]
SHAPES = {f"res{s}": ShapeSpec(channels=c, stride=2**s) for s, c in enumerate((6, 8, 10, 12), 2)}
TOY = {
    "input_shape": SHAPES,
    "conv_dim": 64,
    "mask_dim": 16,
    "norm": "GN",
    "transformer_dropout": 0.0,
    "transformer_nheads": 4,
    "transformer_dim_feedforward": 48,
    "transformer_enc_layers": 2,
    "transformer_in_features": ["res3", "res4", "res5"],
    "common_stride": 4,
}


def toy_fusion(hr_channels, lr_channels):
    return FreqFusion(
        hr_channels=hr_channels,
        lr_channels=lr_channels,
        compressed_channels=8,
        feature_resample=True,
    )


def build(make_fusion=toy_fusion, seed=0, **changes):
    """A FreqFusion pixel decoder in which every parameter has something to say."""
    torch.manual_seed(seed)
    module = FreqFusionPixelDecoder(**(TOY | changes), make_fusion=make_fusion).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def build_plain(seed=0, **changes):
    torch.manual_seed(seed)
    return DeformableAttentionPixelDecoder(**(TOY | changes)).eval()


def make_maps(sizes=((16, 24), (8, 12), (4, 6), (2, 3)), batch=2, seed=0, shapes=None):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, shape.channels, *size, generator=generator)
        for (name, shape), size in zip((shapes or SHAPES).items(), sizes, strict=True)
    }


def named(outputs):
    mask_features, coarsest, multi_scale = outputs
    maps = {f"multi_scale_{index}": feat for index, feat in enumerate(multi_scale)}
    return {"mask_features": mask_features, "transformer_encoder_features": coarsest, **maps}


# Reference runs


def fusion_of(param, prefix="freqfusions.0.", padding_mode="zeros"):
    """How the FreqFusion modules of a state dict in the research code's names were built."""
    shapes = {k.removeprefix(prefix): v.shape for k, v in param.items() if k.startswith(prefix)}
    compressed = shapes["hr_channel_compressor.weight"][0]
    resample = "dysampler.offset.weight" in shapes
    sees_guide = resample and shapes["dysampler.offset.weight"][1] > 8

    def make_fusion(hr_channels, lr_channels):
        return FreqFusion(
            hr_channels=hr_channels,
            lr_channels=lr_channels,
            compressed_channels=compressed,
            lowpass_kernel=math.isqrt(shapes["content_encoder.weight"][0]),
            highpass_kernel=math.isqrt(shapes["content_encoder2.weight"][0]),
            encoder_kernel=shapes["content_encoder.weight"][-1],
            hamming_window=math.prod(shapes["hamming_lowpass"]) > 1,
            feature_resample=resample,
            feature_resample_group=shapes["dysampler.offset.weight"][0] // 8 if resample else 4,
            feature_resample_norm="dysampler.norm_hr.weight" in shapes,
            sampler_features="sim_concat" if sees_guide else "sim",
            padding_mode=padding_mode,
        )

    return make_fusion


def build_reference(case):
    arguments = {k: v for k, v in case.ctor.items() if k not in ("input_shape", "note")}
    shapes = {name: ShapeSpec(**shape) for name, shape in case.ctor["input_shape"].items()}
    param = case.group("param")
    kind = DeformableAttentionPixelDecoder
    if "FreqAware" in case.object:
        kind = FreqFusionPixelDecoder
        padding = {"zero": "zeros", "reflect": "reflect"}[case.entry["padding_mode"]]
        arguments["make_fusion"] = fusion_of(param, padding_mode=padding)
    module = kind(input_shape=shapes, **arguments).eval()
    module.load_state_dict(param)
    return module


@pytest.mark.golden
@pytest.mark.parametrize(
    "case",
    cases("D", "MSDeformAttnPixelDecoder") + cases("D", "FreqAwareMSDeformAttnPixelDecoder"),
    ids=lambda case: case.id,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_outputs(case, dtype):
    module = build_reference(case).to(dtype)
    with torch.no_grad():
        outputs = module({name: feat.to(dtype) for name, feat in case.group("in").items()})
    actual = named(outputs)
    assert len(outputs[2]) == sum(name.startswith("multi_scale") for name in case.outputs)
    for name in case.outputs:
        case.check(name, actual[name], case.group("out")[name])
    exact = case.group("out64") if dtype == torch.float64 else {}
    for name, value in exact.items():
        torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=0)


# The switch, and what meets what


def test_without_a_factory_it_is_the_plain_pixel_decoder():
    """Same keys in the same order, same start, same bits."""
    plain, off = build_plain(), FreqFusionPixelDecoder(**TOY)
    assert list(plain.state_dict()) == list(off.state_dict())
    torch.manual_seed(0)
    off = FreqFusionPixelDecoder(**TOY).eval()
    expected = named(plain(make_maps()))
    for name, value in named(off(make_maps())).items():
        assert torch.equal(value, expected[name]), name


class Silence(nn.Module):
    """A fusion that hears nothing of the coarse map."""

    def forward(self, hr_feat, lr_feat):
        return None, hr_feat, torch.zeros_like(hr_feat)


def test_last_fusion_takes_the_place_of_the_bilinear_sum():
    """Nothing before the encoder and interpolation after it are the plain pixel decoder."""
    fusions = iter([Silence(), Silence(), InterpolationUpsampling(mode="bilinear")])
    module = FreqFusionPixelDecoder(**TOY, make_fusion=lambda hr, lr: next(fusions)).eval()
    plain = build_plain()
    plain.load_state_dict(module.state_dict())
    expected = named(plain(make_maps()))
    for name, value in named(module(make_maps())).items():
        assert torch.equal(value, expected[name]), name


def test_each_fusion_meets_the_map_that_took_in_the_coarser_ones():
    """Fusion 0 joins res5 and res4, fusion 1 the result and res3; each result goes on."""
    module = build()
    maps = [torch.randn(1, 64, *size) for size in ((2, 3), (4, 6), (8, 12))]
    mixed = module.mix(maps)
    assert torch.equal(mixed[0], maps[0])
    _, fine, coarse = module.freqfusions[0](maps[1], maps[0])
    assert torch.equal(mixed[1], fine + coarse)
    _, fine, coarse = module.freqfusions[1](maps[2], fine + coarse)
    assert torch.equal(mixed[2], fine + coarse)


@pytest.mark.parametrize("features", [["res4", "res5"], ["res5", "res3", "res4"], ["res5"]])
@pytest.mark.parametrize("factory", [None, toy_fusion])
def test_any_number_of_encoded_maps(features, factory):
    """What the encoder does not take goes into the pyramid; the order of names is free."""
    module = build(factory, transformer_in_features=features)
    assert module.encoder_features == tuple(sorted(features, reverse=True))
    laterals = 4 - len(features)
    assert [name for name, _ in module.named_children() if name.startswith("adapter")] == [
        f"adapter_{number}" for number in range(laterals, 0, -1)
    ]
    assert module.adapter_1.in_channels == SHAPES["res2"].channels
    if factory is not None:
        assert len(module.freqfusions) == 3
    mask_features, coarsest, multi_scale = module(make_maps())
    assert mask_features.shape == (2, 16, 16, 24)
    assert coarsest is multi_scale[0]
    assert [tuple(feat.shape) for feat in multi_scale] == [
        (2, 64, 2, 3),
        (2, 64, 4, 6),
        (2, 64, 8, 12),
    ]


# Sizes, types, memory


@pytest.mark.parametrize(
    "sizes",
    [
        ((1, 1), (1, 1), (1, 1), (1, 1)),
        ((13, 5), (11, 5), (4, 1), (1, 3)),
    ],
)
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_any_size(kind, sizes):
    cfg = config(
        MODEL__FREQFUSION__ENABLED=kind is not None,
        MODEL__FREQFUSION__FUSE_TYPE=kind or "freqfusion",
    )
    torch.manual_seed(0)
    module = SEM_SEG_HEADS_REGISTRY.get("FreqFusionPixelDecoder")(cfg, SHAPES)
    maps = make_maps(sizes)
    mask_features, _, multi_scale = module(maps)
    assert mask_features.shape == (2, 16, *sizes[0])
    for feat, size in zip(multi_scale, sizes[:0:-1], strict=True):
        assert feat.shape == (2, 32, *size)
    outputs = (mask_features, *multi_scale)
    assert all(feat.isfinite().all() for feat in outputs)
    sum(feat.square().sum() for feat in outputs).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("factory", [None, toy_fusion])
def test_half_precision(factory):
    """Within ten roundings (2 ** -9 each) of float64, both ways to run it."""
    module, maps = build(factory), make_maps()
    expected = named(build(factory).double()({n: feat.double() for n, feat in maps.items()}))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = named(module(maps))
    sum(feat.float().square().sum() for feat in mixed.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    half = {name: feat.to(torch.bfloat16) for name, feat in maps.items()}
    pure = named(build(factory).to(torch.bfloat16)(half))
    for name, value in expected.items():
        assert relative_error(mixed[name], value) < 0.04, name
        assert relative_error(pure[name], value) < 0.04, name
        assert pure[name].dtype == torch.bfloat16
    # What the encoder's layers add up stays in the type of the parameters.
    assert mixed["multi_scale_0"].dtype == torch.float32


def test_checkpointing_changes_no_gradient(monkeypatch):
    """Each layer runs once more in the backward pass, with the same places dropped."""
    calls = []
    forward = DeformableEncoderLayer.forward

    def counted(self, *arguments):
        calls.append(self)
        return forward(self, *arguments)

    monkeypatch.setattr(DeformableEncoderLayer, "forward", counted)

    def gradients(use_checkpoint):
        module = build(transformer_dropout=0.3, use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        sum(feat.square().sum() for feat in named(module(make_maps())).values()).backward()
        return {name: parameter.grad for name, parameter in module.named_parameters()}

    expected = gradients(False)
    assert len(calls) == 2
    actual = gradients(True)
    assert len(calls) == 2 + 4
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-5, rtol=1e-5, msg=name)


# The encoder alone


def test_pixel_centers():
    """A map of 1 x 2 pixels, then one of 2 x 1."""
    expected = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
    assert pixel_centers([(1, 2), (2, 1)]).tolist() == expected


def test_encoder_of_silent_layers_only_normalises():
    """With zeros in both branches a layer is two layer normalisations, each close to the other.

    Levels and rows must come back in their places: the maps differ in size and every value is
    distinct.
    """
    encoder = DeformableEncoder(channels=32, num_levels=2, num_layers=1, dim_feedforward=8)
    layer = encoder.encoder.layers[0]
    for linear in (layer.self_attn.output_proj, layer.linear2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    maps = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 5, 1)]
    for feat, encoded in zip(maps, encoder(maps), strict=True):
        expected = F.layer_norm(feat.permute(0, 2, 3, 1), (32,)).permute(0, 3, 1, 2)
        torch.testing.assert_close(encoded, expected, atol=1e-3, rtol=0)


# Configuration and errors


def config(**keys):
    """``MODEL.MASK2FORMER`` at a size for tests, FreqFusion on."""
    cfg = get_freqfusion_cfg()
    node = cfg.MODEL.MASK2FORMER
    node.CONV_DIM, node.MASK_DIM, node.NHEADS = 32, 16, 4
    node.ENCODER_LAYERS, node.ENCODER_FEEDFORWARD = 1, 48
    cfg.MODEL.FREQFUSION.ENABLED = True
    cfg.MODEL.FREQFUSION.COMPRESSED_CHANNELS = 8
    return change(cfg, keys)


@pytest.mark.parametrize("name", ["DeformableAttentionPixelDecoder", "FreqFusionPixelDecoder"])
def test_every_key_reaches_the_module(name):
    cfg = config(
        MODEL__MASK2FORMER__DROPOUT=0.25,
        MODEL__MASK2FORMER__NHEADS=2,
        MODEL__MASK2FORMER__ENCODER_FEEDFORWARD=40,
        MODEL__MASK2FORMER__ENCODER_LAYERS=3,
        MODEL__MASK2FORMER__ENCODER_POINTS=5,
        MODEL__MASK2FORMER__ENCODER_FEATURES=["res4", "res5"],
        MODEL__MASK2FORMER__CONV_DIM=64,
        MODEL__MASK2FORMER__MASK_DIM=24,
        MODEL__MASK2FORMER__NORM="",
        MODEL__MASK2FORMER__COMMON_STRIDE=8,
        MODEL__MASK2FORMER__IN_FEATURES=["res3", "res4", "res5"],
        MODEL__MASK2FORMER__CHECKPOINT_ENCODER=True,
    )
    module = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, SHAPES)
    layers = module.transformer.encoder.layers
    assert len(layers) == 3
    assert layers[0].dropout.p == 0.25
    assert layers[0].linear1.out_features == 40
    assert layers[0].self_attn.num_heads == 2
    assert layers[0].self_attn.num_points == 5
    assert layers[0].self_attn.num_levels == 2
    assert module.transformer.encoder.use_checkpoint
    assert module.mask_features.weight.shape == (24, 64, 1, 1)
    assert module.adapter_1.in_channels == SHAPES["res3"].channels
    assert module.adapter_1.norm is None
    assert module.adapter_1.bias is not None
    fusions = getattr(module, "freqfusions", None)
    assert (fusions is not None) == (name == "FreqFusionPixelDecoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_dim": 48}, "conv_dim must be a multiple of 32, .*got 48"),
        ({"transformer_in_features": ["res5", "res6"]}, "must name some .*; got res5, res6"),
        ({"common_stride": 2}, r"common_stride must be .*at most 8, .*got 2 for .*\[4, 8, 16, 32"),
        (
            {"transformer_in_features": ["res4", "res5"], "common_stride": 16},
            "takes 3 maps, but transformer_in_features and common_stride leave only res5, res4",
        ),
    ],
)
def test_refused_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        DeformableAttentionPixelDecoder(**(TOY | changes))


def test_refused_maps():
    module, maps = build_plain(), make_maps()
    with pytest.raises(ValueError, match=r"needs the maps res5, .*; res4 is not among res2, res3"):
        module({name: feat for name, feat in maps.items() if name != "res4"})
    with pytest.raises(ValueError, match=r"res3 must have shape \(batch, 8, height, width\), .*7"):
        module(maps | {"res3": maps["res3"][:, :7]})
    with pytest.raises(ValueError, match="built for 1 maps"):
        DeformableEncoder(channels=32, num_levels=1)([maps["res2"]] * 2)

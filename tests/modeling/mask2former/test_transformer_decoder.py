"""The decoder against the reference runs (D03) and a plain implementation.

``tests/tools/test_convert_mask2former.py`` holds published names and shapes at full size.
"""

import pytest
import torch
import torch.nn.functional as F
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from freqfusion.modeling.mask2former.attention_layers import sine_position_encoding
from freqfusion.modeling.mask2former.transformer_decoder import MaskedAttentionDecoder

DECODERS = cases("D", "MultiScaleMaskedTransformerDecoder")
SMALL = {
    "in_channels": 8,
    "num_classes": 3,
    "hidden_dim": 8,
    "num_queries": 5,
    "nheads": 2,
    "dim_feedforward": 16,
    "dec_layers": 4,
    "pre_norm": False,
    "mask_dim": 6,
    "enforce_input_project": False,
}


def small(**changes):
    torch.manual_seed(0)
    decoder = MaskedAttentionDecoder(**(SMALL | changes)).double()
    with torch.no_grad():  # biases and norms that do something
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return decoder


def maps(sizes=((2, 3), (4, 5), (7, 9)), fine=(13, 17), batch=2, channels=8, dtype=torch.float64):
    torch.manual_seed(1)
    features = [torch.randn(batch, channels, *size, dtype=dtype) for size in sizes]
    return features, torch.randn(batch, SMALL["mask_dim"], *fine, dtype=dtype)


def predictions(output):
    return [*output["aux_outputs"], output]


def plain_decoder(decoder, features, mask_features):
    """The same weights in torch's own attention, with masks that are resized and repeated."""
    state = decoder.state_dict()
    heads = decoder.transformer_self_attention_layers[0].self_attn.heads
    pre_norm = decoder.transformer_self_attention_layers[0].pre_norm
    width = state["query_feat.weight"].shape[1]

    def norm(name, x):
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def attend(name, query, key, value, blocked=None):
        module = nn.MultiheadAttention(width, heads, batch_first=True).double()
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        module.load_state_dict(own)
        return module(query, key, value, attn_mask=blocked)[0]

    def residual(name, x, function):
        return x + function(norm(name, x)) if pre_norm else norm(name, x + function(x))

    def predict(x):
        x = norm("decoder_norm", x)
        tokens = linear("mask_embed.layers.0", x).relu()
        tokens = linear("mask_embed.layers.1", tokens).relu()
        tokens = linear("mask_embed.layers.2", tokens)
        masks = torch.einsum("bqc,bchw->bqhw", tokens, mask_features)
        outputs.append((linear("class_embed", x), masks))
        return masks

    outputs, tokens, positions = [], [], []
    for i, feat in enumerate(features):
        if f"input_proj.{i}.weight" in state:
            feat = F.conv2d(feat, state[f"input_proj.{i}.weight"], state[f"input_proj.{i}.bias"])
        pixels = feat.flatten(2).transpose(1, 2) + state["level_embed.weight"][i]
        tokens.append(pixels)
        place = sine_position_encoding(feat.shape[-2:], width).double()
        positions.append(place.flatten(1).T)
    x = state["query_feat.weight"].repeat(len(mask_features), 1, 1)
    placed = state["query_embed.weight"]
    masks = predict(x)
    for i in range(len(decoder.transformer_ffn_layers)):
        level = i % len(features)
        resized = F.interpolate(masks, features[level].shape[-2:], mode="bilinear").flatten(2)
        blocked = resized.sigmoid() < 0.5
        blocked[blocked.all(-1)] = False
        blocked = blocked.repeat_interleave(heads, dim=0)
        name = f"transformer_cross_attention_layers.{i}"
        key, value = tokens[level] + positions[level], tokens[level]
        x = residual(
            f"{name}.norm",
            x,
            lambda y, n=name, k=key, v=value, b=blocked: attend(
                f"{n}.multihead_attn", y + placed, k, v, b
            ),
        )
        name = f"transformer_self_attention_layers.{i}"
        x = residual(
            f"{name}.norm",
            x,
            lambda y, n=name: attend(f"{n}.self_attn", y + placed, y + placed, y),
        )
        name = f"transformer_ffn_layers.{i}"
        x = residual(
            f"{name}.norm",
            x,
            lambda y, n=name: linear(f"{n}.linear2", linear(f"{n}.linear1", y).relu()),
        )
        masks = predict(x)
    return outputs


def assert_same_as_plain(decoder, features, mask_features):
    actual = predictions(decoder(features, mask_features))
    expected = plain_decoder(decoder, features, mask_features)
    assert len(actual) == len(expected)
    for ours, (logits, masks) in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours["pred_logits"], logits, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(ours["pred_masks"], masks, atol=1e-9, rtol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.id)
def test_reference(case, dtype):
    arguments = dict(case.ctor)
    assert arguments.pop("mask_classification", True)
    decoder = MaskedAttentionDecoder(**arguments).to(dtype).eval()
    decoder.load_state_dict(case.group("param"))
    inputs = {name: value.to(dtype) for name, value in case.group("in").items()}
    mask_features = inputs.pop("mask_features")
    features = [inputs[f"multi_scale_{i}"] for i in range(len(inputs))]
    with torch.no_grad():
        output = decoder(features, mask_features)
    actual = {name: output[name] for name in ("pred_logits", "pred_masks")}
    for i, auxiliary in enumerate(output["aux_outputs"]):
        actual |= {f"aux{i}_{name}": value for name, value in auxiliary.items()}
    expected = case.group("out")
    assert set(actual) == set(expected)
    for name, value in expected.items():
        case.check(name, actual[name].to(value.dtype), value)
    if dtype == torch.float64:
        for name, value in case.group("out64").items():
            torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_norm": True},
        {"enforce_input_project": True},
        {"in_channels": 5},
        {"nheads": 1, "num_classes": 1, "num_queries": 1, "dec_layers": 7},
    ],
    ids=str,
)
def test_plain_implementation(changes):
    features, mask_features = maps(channels=changes.get("in_channels", 8))
    assert_same_as_plain(small(**changes), features, mask_features)


@settings(max_examples=15)
@given(st.data())
def test_any_size(data):
    """Sizes of the levels need not have anything to do with each other."""
    side = st.integers(1, 6)
    size = st.tuples(side, side)
    levels = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(size, min_size=levels, max_size=levels))
    features, mask_features = maps(sizes, fine=data.draw(size), batch=data.draw(st.integers(1, 2)))
    assert_same_as_plain(small(num_levels=levels, dec_layers=5), features, mask_features)


def test_without_auxiliary_predictions():
    decoder, (features, mask_features) = small(), maps()
    full = decoder(features, mask_features)
    assert len(full["aux_outputs"]) == SMALL["dec_layers"]
    output = decoder(features, mask_features, auxiliary=False)
    assert output["aux_outputs"] == []
    for name in ("pred_logits", "pred_masks"):
        assert torch.equal(output[name], full[name])


def test_an_empty_mask_sees_everything():
    decoder = small(dec_layers=1)
    with torch.no_grad():
        decoder.mask_embed.layers[2].weight.zero_()
        decoder.mask_embed.layers[2].bias.fill_(1)
    features, mask_features = maps()
    empty = decoder(features, mask_features.abs().neg() - 1)["pred_logits"]
    full = decoder(features, mask_features.abs() + 1)["pred_logits"]
    assert empty.isfinite().all()
    assert torch.equal(empty, full)


@pytest.mark.parametrize(("autocast", "auxiliary"), [(True, True), (False, False)])
def test_every_parameter_learns(autocast, auxiliary):
    decoder = small(enforce_input_project=True).float()
    features, mask_features = maps(dtype=torch.float32)
    mask_features.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = decoder(features, mask_features, auxiliary=auxiliary)
    total = 0
    for one in predictions(output):
        for name in ("pred_logits", "pred_masks"):
            assert one[name].isfinite().all()
            assert one[name].requires_grad  # each set of predictions has losses of its own
            total = total + one[name].float().square().mean()
    total.backward()
    assert mask_features.grad.abs().sum() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    decoder = small(dec_layers=2).to(dtype)
    features, mask_features = maps(dtype=dtype)
    output = decoder(features, mask_features)
    exact = small(dec_layers=2)([feat.double() for feat in features], mask_features.double())
    for name in ("pred_logits", "pred_masks"):
        assert output[name].dtype == dtype
        assert output[name].isfinite().all()
    # The prediction before the first layer has seen no mask that could flip.
    first, expected = output["aux_outputs"][0], exact["aux_outputs"][0]
    torch.testing.assert_close(
        first["pred_masks"].double(), expected["pred_masks"], atol=0.2, rtol=0.05
    )


def test_gradients():
    decoder = small(dec_layers=1, hidden_dim=4, in_channels=4, nheads=2)
    features, mask_features = maps(sizes=((1, 2),) * 3, fine=(2, 2), batch=1, channels=4)
    inputs = [feat.requires_grad_() for feat in features[:1]]

    def logits(feat):
        return decoder([feat, *features[1:]], mask_features)["pred_logits"]

    assert torch.autograd.gradcheck(logits, inputs)


def test_errors():
    decoder, (features, mask_features) = small(), maps()
    with pytest.raises(ValueError, match=r"built for 3 maps \(num_levels\), got 2"):
        decoder(features[:2], mask_features)
    with pytest.raises(ValueError, match=r"features\[1\] must have shape \(batch, 8, .*got \(2, 4"):
        decoder([features[0], features[1][:, :4], features[2]], mask_features)
    with pytest.raises(ValueError, match=r"mask_features must have shape \(batch, 6"):
        decoder(features, mask_features[:, :5])
    with pytest.raises(ValueError, match=r"features\[0\] has 1, mask_features has 2"):
        decoder([features[0][:1], *features[1:]], mask_features)
    with pytest.raises(ValueError, match=r"heads must divide the channels.*got 3 heads for 8"):
        small(nheads=3)
    with pytest.raises(ValueError, match="dec_layers must not be negative, got -1"):
        small(dec_layers=-1)

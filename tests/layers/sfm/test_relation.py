"""Local pixel relation: numbers, bounds, start, gate, any size."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from freqfusion.layers.sfm.relation import LocalPixelRelation


def trained(**options):
    """A module whose weights differ from pixel to pixel and tap to tap."""
    torch.manual_seed(0)
    module = LocalPixelRelation(**options).double().eval()
    torch.nn.init.normal_(module.conv.weight, std=0.3)
    torch.nn.init.normal_(module.norm.weight)
    torch.nn.init.normal_(module.norm.bias)
    return module


def unfolded(module, relation, features):
    """The formula on unfolded maps, one group of channels after another."""
    size, dilation, groups = (
        module.geometry.kernel_size,
        module.geometry.dilation,
        module.geometry.groups,
    )
    reach = dilation * (size // 2)
    pad = (reach,) * 4
    raw = F.conv2d(F.pad(relation, pad, mode="replicate"), module.conv.weight, dilation=dilation)
    norm = module.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    logits = (raw - norm.running_mean[:, None, None]) * scale[:, None, None]
    logits = logits + norm.bias[:, None, None]
    outputs = []
    parts = zip(logits.chunk(groups, 1), features.chunk(groups, 1), strict=True)
    for logit, part in parts:
        taps = F.unfold(F.pad(part, pad, mode="replicate"), size, dilation=dilation)
        taps = taps.view(*part.shape[:2], size**2, *part.shape[2:])
        outputs.append((taps * logit.softmax(1)[:, None]).sum(2))
    return logits, torch.cat(outputs, dim=1)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel_size=st.sampled_from([3, 5]),
    dilation=st.sampled_from([1, 2, 7]),
    groups=st.integers(1, 3),
)
def test_equals_the_unfolded_form(batch, channels, height, width, kernel_size, dilation, groups):
    """Invariant 19."""
    module = trained(relation_channels=4, kernel_size=kernel_size, dilation=dilation, groups=groups)
    relation = torch.randn(batch, 4, height, width, dtype=torch.float64)
    features = torch.randn(batch, channels * groups, height, width, dtype=torch.float64)
    expected = unfolded(module, relation, features)
    for actual, wanted in zip(module(relation, features), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_by_hand():
    """A row 1, 2, 4 under even weights, edges repeated, dilation 1: thirds of 4, 7 and 10.

    With dilation 2, the neighbours of the middle are the repeated edges too: 7 / 3 everywhere but
    at the ends, which read (1, 1, 4) and (1, 4, 4).
    """
    features = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).view(1, 1, 1, 3)
    relation = torch.zeros(1, 9, 1, 3, dtype=torch.float64)
    for dilation, expected in ((1, [4 / 3, 7 / 3, 10 / 3]), (2, [2, 7 / 3, 3])):
        module = LocalPixelRelation(dilation=dilation, center_init=1 / 9).double().eval()
        _, output = module(relation, features)
        torch.testing.assert_close(output.flatten(), torch.tensor(expected).double())


@pytest.mark.parametrize("dilation", [1, 16])
def test_constants_stay_and_the_range_is_kept(dilation):
    """Invariant 19: constants to 1e-5, bounds; dilation 16 on 9 x 7."""
    module = trained(dilation=dilation).float()
    relation, features = torch.randn(2, 9, 9, 7), torch.randn(2, 5, 9, 7)
    _, output = module(relation, torch.full((2, 5, 9, 7), 3.0))
    torch.testing.assert_close(output, torch.full_like(output, 3.0), atol=1e-5, rtol=0)
    _, output = module(relation, features)
    lowest, highest = features.amin((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
    assert ((output >= lowest - 1e-5) & (output <= highest + 1e-5)).all()


def test_start():
    """0.9 at the centre, 0.1 / 8 beside it, in every group: on noise a change of about a tenth.

    In noise of variance 1 the rms of the change is sqrt(0.1^2 + 8 * 0.0125^2) = 0.106; the
    normalised logits move the weights by another tenth of themselves.
    """
    torch.manual_seed(0)
    module = LocalPixelRelation(dilation=2, groups=2)
    logits = module.norm.bias.view(2, 9)
    weights = logits.softmax(1)
    expected = torch.full((2, 9), 0.1 / 8)
    expected[:, 4] = 0.9
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(logits[:, 4], torch.full((2,), math.log(72)))
    features = torch.randn(2, 6, 64, 64)
    _, output = module(torch.randn(2, 9, 64, 64), features)
    change = (output - features).square().mean().sqrt()
    assert 0.09 <= change <= 0.125


def test_parameters():
    """9 * 9 * 9 for the convolution, 2 * 9 for the normalisation, whose bias is the taps'."""
    assert sum(p.numel() for p in LocalPixelRelation().parameters()) == 747
    assert sum(p.numel() for p in LocalPixelRelation(gate=True).parameters()) == 747 + 10


def test_gate():
    """The output moves from the input by a share of the way, one for every image and group."""
    options = {"relation_channels": 4, "groups": 2, "dilation": 2}
    plain, gated = trained(**options), trained(**options, gate=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    relation = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    features = torch.randn(3, 6, 6, 5, dtype=torch.float64)
    _, ungated = plain(relation, features)
    _, start = gated(relation, features)
    share = 1 / (1 + math.exp(4))
    torch.testing.assert_close(start, features + share * (ungated - features))
    torch.nn.init.normal_(gated.gate.weight)
    logits, output = gated(relation, features)
    shares = gated.gate(relation.mean((2, 3))).sigmoid()
    for index in range(2):
        part = slice(3 * index, 3 * index + 3)
        share = shares[:, index, None, None, None]
        expected = features[:, part] + share * (ungated - features)[:, part]
        torch.testing.assert_close(output[:, part], expected)
    assert torch.equal(logits, plain(relation, features)[0])

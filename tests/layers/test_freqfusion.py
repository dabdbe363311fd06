"""FreqFusion beyond the reference runs: sizes, arguments, starts, state dicts, checkpointing."""

import layer_cases
import pytest
import torch
import torch.nn.functional as F
from copies import WAYS
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import unfold

from freqfusion.layers import (
    FreqFusion,
    InterpolationUpsampling,
    reassemble,
    sample_at_offsets,
)
from freqfusion.layers.freqfusion import ORIGINAL_BUFFERS, ORIGINAL_NAMES
from freqfusion.layers.sampler import ORIGINAL_NAMES as SAMPLER_NAMES

SMALL = {"hr_channels": 4, "lr_channels": 8, "compressed_channels": 8}


def build(**options):
    """A small module whose kernels and offsets are far from their nearly uniform start."""
    torch.manual_seed(0)
    module = FreqFusion(**{**SMALL, "feature_resample": True, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def inputs(hr=(8, 10), lr=(4, 5), batch=2, **options):
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(**options)
        for channels, size in ((SMALL["hr_channels"], hr), (SMALL["lr_channels"], lr))
    )


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feature_resample": False, "hamming_window": False},
        {"sampler_features": "sim", "feature_resample_norm": False, "hr_residual": False},
        {"lowpass_kernel": 3, "highpass_kernel": 5, "feature_resample_group": 2},
    ],
)
def test_equals_unfold_form(options, padding_mode):
    module = build(**options, padding_mode=padding_mode).double()
    hr, lr = inputs(hr=(12, 14), lr=(6, 7))
    actual = module(hr, lr)
    for ours, expected in zip(actual, unfold.freqfusion(module, hr, lr), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


@settings(max_examples=25)
@given(
    hr=st.tuples(st.integers(1, 65), st.integers(1, 65)),
    lr=st.tuples(st.integers(1, 65), st.integers(1, 65)),
    semi_conv=st.booleans(),
    comp_feat_upsample=st.booleans(),
    use_low_pass=st.booleans(),
    use_high_pass=st.booleans(),
    padding_mode=st.sampled_from(["zeros", "reflect"]),
)
def test_any_pair_of_sizes(hr, lr, **switches):
    """Any ratio and any switch: the fine size comes out, finite, and gradients flow."""
    module = build(**switches)
    fine, coarse = (t.float().requires_grad_() for t in inputs(hr, lr, batch=1))
    mask, hr_out, lr_out = module(fine, coarse)
    assert mask is None if not switches["use_low_pass"] else mask.shape == (1, 25, *hr)
    assert hr_out.shape == (1, 4, *hr)
    assert lr_out.shape == (1, 8, *hr)
    (hr_out.square().sum() + lr_out.square().sum()).backward()
    for tensor in (mask, hr_out, lr_out, fine.grad, coarse.grad):
        assert tensor is None or tensor.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("height", range(1, 66))
def test_all_sizes_to_65(height):
    """65 x 65 sizes of the fine map, with the coarse map a strided convolution would give."""
    module = build(compressed_channels=8)
    for width in range(1, 66):
        half = ((height + 1) // 2, (width + 1) // 2)
        fine, coarse = (t.float().requires_grad_() for t in inputs((height, width), half, batch=1))
        outputs = module(fine, coarse)
        assert all(t.shape[-2:] == (height, width) for t in outputs)
        sum(t.square().sum() for t in outputs).backward()
        assert fine.grad.isfinite().all()
        assert coarse.grad.isfinite().all()


def test_odd_sizes_equal_the_cropped_double_inside():
    """Away from the cropped edge a 27 x 25 map is fused as a part of the 28 x 26 one."""
    module = build(feature_resample_norm=False).double()
    with torch.no_grad():
        for parameter in module.sampler.parameters():
            parameter.mul_(0.03)  # so that no offset reaches the edge
    hr, lr = inputs(hr=(44, 46), lr=(22, 23))
    whole, odd = module(hr, lr), module(hr[..., :43, :45], lr)
    for expected, actual in zip(whole, odd, strict=True):
        inner = (..., slice(0, 25), slice(0, 25))
        torch.testing.assert_close(actual[inner], expected[inner], atol=1e-9, rtol=0)


FORMS = {
    "sum": {},
    "reflect": {"padding_mode": "reflect"},
    "no window": {"hamming_window": False},
    "joint": {"semi_conv": False},
    "similarities alone": {"sampler_features": "sim"},
    "repeated logits": {"comp_feat_upsample": False},
}


class TestIdentityStart:
    @pytest.mark.parametrize("size", [(16, 20), (13, 9)], ids=str)
    @pytest.mark.parametrize("form", FORMS)
    def test_is_nearest_upsampling_and_an_unchanged_fine_map(self, form, size):
        torch.manual_seed(0)
        module = FreqFusion(
            hr_channels=32, lr_channels=32, feature_resample=True, init="identity", **FORMS[form]
        )
        lr = torch.randn(2, 32, *size)
        hr = torch.randn(2, 32, 2 * size[0], 2 * size[1] - 1)
        _, fine, coarse = module(hr, lr)
        nearest = InterpolationUpsampling(mode="nearest")(hr, lr)[2]
        assert (fine - hr).norm() < 0.01 * hr.norm()
        assert (coarse - nearest).norm() < 0.01 * nearest.norm()

    def test_teaches_all_generators_as_strongly_as_the_published_start(self):
        """Within a factor of ten, so that the same learning rate suits both."""
        hr, lr = torch.randn(2, 32, 32, 40), torch.randn(2, 32, 16, 20)
        sizes = {}
        for init in ("published", "identity"):
            torch.manual_seed(0)
            module = FreqFusion(hr_channels=32, lr_channels=32, feature_resample=True, init=init)
            _, fine, coarse = module(hr, lr)
            (fine + coarse).square().mean().backward()
            weights = (
                module.lowpass_generator.weight,
                module.sampler.lr_offset.weight,
                module.sampler.hr_offset.weight,
            )
            sizes[init] = torch.stack([weight.grad.norm() for weight in weights])
        assert (sizes["identity"] > sizes["published"] / 10).all()


def test_start_is_xavier_with_nearly_uniform_kernels():
    torch.manual_seed(0)
    module = FreqFusion(hr_channels=256, lr_channels=256, feature_resample=True)
    assert module.lowpass_generator.weight.std().item() == pytest.approx(1e-3, rel=0.05)
    assert module.highpass_generator.weight.std().item() == pytest.approx(1e-3, rel=0.05)
    # Xavier uniform: std = sqrt(2 / (fan_in + fan_out)), 72 inputs, 32 or 8 outputs, 3 x 3 taps.
    assert module.sampler.lr_offset.weight.std().item() == pytest.approx(0.046, rel=0.05)
    assert module.sampler.hr_offset.weight.std().item() == pytest.approx(0.053, rel=0.05)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lowpass_kernel", 3),
        ("highpass_kernel", 5),
        ("compressed_channels", 16),
        ("encoder_kernel", 5),
        ("encoder_dilation", 2),
        ("feature_resample", False),
        ("feature_resample_group", 2),
        ("feature_resample_norm", False),
        ("comp_feat_upsample", False),
        ("use_low_pass", False),
        ("use_high_pass", False),
        ("hr_residual", False),
        ("semi_conv", False),
        ("hamming_window", False),
        ("padding_mode", "reflect"),
        ("sampler_features", "sim"),
    ],
)
def test_every_argument_changes_the_result(option, value):
    hr, lr = inputs()
    plain = build().double()(hr, lr)
    changed = build(**{option: value}).double()(hr, lr)
    assert any(
        a.shape != b.shape or (a - b).abs().max() > 1e-6
        for a, b in zip(plain, changed, strict=True)
        if b is not None
    )


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_upsample_mode_counts_without_semi_conv(mode):
    hr, lr = inputs()
    plain = build(semi_conv=False).double()(hr, lr)[2]
    changed = build(semi_conv=False, upsample_mode=mode).double()(hr, lr)[2]
    assert ((plain - changed).abs().max() > 1e-3) == (mode != "nearest")
    if mode != "nearest":
        corners = build(semi_conv=False, upsample_mode=mode, align_corners=True).double()(hr, lr)[2]
        assert (corners - changed).abs().max() > 1e-3


def test_without_high_pass_the_fine_map_is_untouched():
    hr, lr = inputs()
    module = build(use_high_pass=False).double()
    assert module(hr, lr)[1] is hr
    assert not [name for name in module.state_dict() if "highpass" in name]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("semi_conv", [True, False])
def test_without_low_pass_the_coarse_map_is_interpolated(mode, semi_conv):
    """What is left of its filter: the resampling by offsets, which starts from that map."""
    hr, lr = inputs()
    module = build(use_low_pass=False, upsample_mode=mode, semi_conv=semi_conv).double()
    steps = module.steps(hr, lr)
    assert steps.lowpass is None
    corners = None if mode == "nearest" else False
    expected = F.interpolate(lr, hr.shape[-2:], mode=mode, align_corners=corners)
    assert torch.equal(steps.upsampled, expected)
    assert (steps.lr - expected).abs().max() > 1e-6
    assert not [name for name in module.state_dict() if "lowpass" in name]


@pytest.mark.parametrize("inputs_learn", [True, False])
def test_checkpointing_gives_identical_gradients(inputs_learn):
    results = []
    for module in (build(), build(use_checkpoint=True)):
        maps = [t.float().requires_grad_(inputs_learn) for t in inputs()]
        outputs = module(*maps)
        sum(t.square().sum() for t in outputs).backward()
        leaves = [*module.parameters(), *(maps if inputs_learn else [])]
        results.append([*outputs, *(leaf.grad for leaf in leaves)])
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(expected, actual)


def test_checkpointing_keeps_less():
    def bytes_kept(module):
        kept = []
        hr, lr = (t.float().requires_grad_() for t in inputs((32, 32), (16, 16)))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            module(hr, lr)
        return sum(t.numel() for t in kept)

    assert bytes_kept(build(use_checkpoint=True)) < 0.2 * bytes_kept(build())


@pytest.mark.parametrize("options", [{}, {"semi_conv": False}, {"use_high_pass": False}])
def test_steps_are_those_of_the_forward_pass(options):
    """Same numbers; kernels sum to one; sampling the upsampled map by its offsets gives the map."""
    module = build(**options)
    hr, lr = inputs(dtype=torch.float32)
    steps = module.steps(hr, lr)
    for ours, expected in zip((steps.lowpass, steps.hr, steps.lr), module(hr, lr), strict=True):
        assert ours is expected is None or torch.equal(ours, expected)
    offsets = module.sampler.predict_offsets(steps.hr_guide, steps.lr_guide)
    assert torch.equal(sample_at_offsets(steps.upsampled, offsets), steps.lr)
    if steps.highpass is None:
        assert options == {"use_high_pass": False}
        assert torch.equal(steps.hr, hr)
        return
    torch.testing.assert_close(steps.highpass.sum(dim=1), torch.ones(2, 8, 10))
    smooth = reassemble(hr, steps.highpass, kernel_size=3)
    torch.testing.assert_close(steps.hr, 2 * hr - smooth)


@pytest.mark.parametrize("way", WAYS)
def test_copies_load_older_names(way):
    """Those of the research code; the window is compared with the copy's own."""
    module, _ = layer_cases.built("FreqFusionConcat")
    copied = way(module)
    state = {"freqfusions." + key[8:]: value + 1 for key, value in module.state_dict().items()}
    for names in (ORIGINAL_NAMES, SAMPLER_NAMES):
        for old, new in names.items():
            state = {key.replace(f".{new}", f".{old}"): value for key, value in state.items()}
    state |= {f"freqfusions.0.{old}": torch.ones(1) for old in ORIGINAL_BUFFERS}
    copied.load_state_dict(state)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], value + 1)
    copied.fusions[0].lowpass_window = torch.ones(5, 5)
    with pytest.raises(RuntimeError, match="has 1 elements where this module expects 25"):
        copied.load_state_dict(state)
    module.load_state_dict(state)

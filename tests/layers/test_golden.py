"""The layers against the reference runs of sets A and C."""

import pytest
import torch
from golden_data import cases, compare_gradients, compare_outputs, reference_keys

from freqfusion.layers import (
    FreqFusion,
    FreqFusionConcat,
    LocalSimilaritySampler,
    hamming_window,
    local_similarity,
    normalize_kernels,
    reassemble,
)

pytestmark = pytest.mark.golden

PADDING = {"zero": "zeros", "reflect": "reflect"}
FREQFUSION_CASES = [case for case in cases("A", "FreqFusion") if case.object == "FreqFusion"]
# Arguments of the reference that it ignores, or that can only have one value.
IGNORED = ("use_low_pass", "up_group", "scale_factor", "note")


def parametrize(group, name):
    return pytest.mark.parametrize("case", cases(group, name), ids=lambda case: case.id)


def parametrize_parts(name):
    parts = [(case, part) for case in cases("A", name) for part in case.entry["cases"]]
    return pytest.mark.parametrize(
        ("case", "part"), parts, ids=lambda value: getattr(value, "id", value)
    )


def build_freqfusion(case):
    arguments = {k: v for k, v in case.ctor.items() if k not in IGNORED}
    # The copy in the segmentation head differs in this default.
    arguments.setdefault("sampler_features", "sim" if "SegNeXt" in case.path else "sim_concat")
    module = FreqFusion(**arguments, padding_mode=PADDING[case.entry["padding_mode"]])
    module.load_state_dict(case.group("param"))
    return module


def build_sampler(case):
    module = LocalSimilaritySampler(
        channels=case.ctor["in_channels"],
        groups=case.ctor.get("groups", 4),
        kernel_size=case.ctor.get("kernel_size", 3),
        local_window=case.ctor.get("local_window", 3),
        normalize=case.ctor.get("norm", True),
        guide_features=case.ctor.get("direction_feat", "sim_concat"),
        learn_scale=case.ctor.get("use_direct_scale", True),
    )
    module.load_state_dict(case.group("param"))
    return module


def build_concat(case):
    # The research code makes convolutions for high2low_residual, and never uses them.
    others = (*IGNORED, "in_channels", "in_index", "compress_ratio")
    others += ("low2high_residual", "high2low_residual")
    module = FreqFusionConcat(
        in_channels=case.ctor["in_channels"],
        compress_ratio=case.ctor.get("compress_ratio", 8),
        fusion={k: v for k, v in case.ctor.items() if k not in others},
        low2high_residual=case.ctor.get("low2high_residual", False),
    )
    state = case.group("param")
    module.load_state_dict({k: v for k, v in state.items() if not k.startswith("high2low_convs.")})
    return module


@pytest.mark.parametrize("case", FREQFUSION_CASES, ids=lambda case: case.id)
def test_freqfusion_outputs(case):
    def run(dtype):
        inputs = {name: value.to(dtype) for name, value in case.group("in").items()}
        return dict(zip(case.outputs, build_freqfusion(case).to(dtype)(**inputs), strict=True))

    compare_outputs(case, run)


@pytest.mark.parametrize(
    "case",
    [case for case in FREQFUSION_CASES if case.group("grad")],
    ids=lambda case: case.id,
)
def test_freqfusion_gradients(case):
    module = build_freqfusion(case)
    inputs = {name: value.requires_grad_() for name, value in case.group("in").items()}
    outputs = dict(zip(case.outputs, module(**inputs), strict=True))
    parameters = {original_name(name): value for name, value in module.named_parameters()}
    compare_gradients(case, outputs, inputs, parameters)


def original_name(name):
    """The research code's name of one of our parameters."""
    for new, old in {
        "sampler.lr_offset.": "dysampler.offset.",
        "sampler.lr_scale.": "dysampler.direct_scale.",
        "sampler.hr_scale.": "dysampler.hr_direct_scale.",
        "sampler.lr_norm.": "dysampler.norm_lr.",
        "sampler.hr_norm.": "dysampler.norm_hr.",
        "sampler.": "dysampler.",
        "hr_compressor.": "hr_channel_compressor.",
        "lr_compressor.": "lr_channel_compressor.",
        "lowpass_generator.": "content_encoder.",
        "highpass_generator.": "content_encoder2.",
    }.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise LookupError(name)


@parametrize("A", "LocalSimGuidedSampler")
def test_sampler_outputs(case):
    def run(dtype):
        inputs = {name: value.to(dtype) for name, value in case.group("in").items()}
        sampled = build_sampler(case).to(dtype)(
            hr=inputs["hr_x"], lr=inputs["lr_x"], features=inputs["feat2sample"]
        )
        return {"sampled": sampled}

    compare_outputs(case, run)


@parametrize("C", "LightHamHeadFreqAware")
def test_concatenation(case):
    def run(dtype):
        inputs = case.group("in")
        chosen = [inputs[str(index)].to(dtype) for index in case.ctor["in_index"]]
        return {"concat": build_concat(case).to(dtype)(chosen)}

    compare_outputs(case, run)


@parametrize_parts("carafe")
def test_reassembly(case, part):
    arguments = case.entry["cases"][part]
    for dtype, group in ((torch.float32, "out"), (torch.float64, "out64")):
        features = case.group("in")[f"{part}_x"].to(dtype).requires_grad_()
        kernels = case.group("in")[f"{part}_mask"].to(dtype).requires_grad_()
        out = reassemble(
            features,
            kernels,
            kernel_size=arguments["kernel_size"],
            scale=arguments["up"],
            groups=arguments["group"],
            padding_mode=PADDING[arguments["padding"]],
        )
        expected = case.group(group)[part]
        if dtype == torch.float64:
            torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)
            continue
        case.check(part, out, expected)
        (out * case.group("lossw")[part]).sum().backward()
        for name, gradient in (("x", features.grad), ("mask", kernels.grad)):
            expected = case.group("grad")[f"{part}_{name}"]
            case.check(f"grad/{part}_{name}", gradient, expected)


@parametrize_parts("compute_similarity")
def test_similarity(case, part):
    arguments = case.entry["cases"][part]
    measure = {"cos": "cosine", "dot": "dot"}[arguments["sim"]]
    options = {"kernel_size": arguments["k"], "dilation": arguments["dilation"], "measure": measure}
    features = case.group("in")[part]
    case.check(part, local_similarity(features, **options), case.group("out")[part])
    exact = local_similarity(features.double(), **options)
    torch.testing.assert_close(exact, case.group("out64")[part], atol=1e-9, rtol=0)


@parametrize_parts("FreqFusion.kernel_normalizer")
def test_kernel_normalizer(case, part):
    arguments = case.entry["cases"][part]
    size = arguments["kernel"]
    window = hamming_window(size) if arguments["hamming"] else None
    if window is not None:
        expected = case.group("mid")[f"{part}_window"].reshape(size, size)
        torch.testing.assert_close(window, expected, atol=1e-7, rtol=0)
    logits = case.group("in")[part]
    case.check(part, normalize_kernels(logits, window), case.group("out")[part])
    exact = normalize_kernels(logits.double(), window)
    torch.testing.assert_close(exact, case.group("out64")[part], atol=1e-9, rtol=0)


def fusion_groups():
    """The FreqFusion modules in the full-size key lists: (model, prefix, names and shapes)."""
    for model, lists in reference_keys().items():
        shapes = lists["parameters"] | lists["buffers"]
        ends = "hr_channel_compressor.weight"
        for prefix in (name.removesuffix(ends) for name in shapes if name.endswith(ends)):
            own = {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
            yield pytest.param(own, id=f"{model}-{prefix}")


@pytest.mark.parametrize("shapes", list(fusion_groups()))
def test_full_size_checkpoints_load(shapes):
    """Every published name has its place here with the same shape, and nothing is left over."""
    compressed, hr_channels = shapes["hr_channel_compressor.weight"][:2]
    resample = "dysampler.offset.weight" in shapes
    only_similarity = resample and shapes["dysampler.offset.weight"][1] == 8
    module = FreqFusion(
        hr_channels=hr_channels,
        lr_channels=shapes["lr_channel_compressor.weight"][1],
        compressed_channels=compressed,
        lowpass_kernel=round(shapes["content_encoder.weight"][0] ** 0.5),
        highpass_kernel=round(shapes["content_encoder2.weight"][0] ** 0.5),
        feature_resample=resample,
        feature_resample_group=shapes["dysampler.offset.weight"][0] // 8 if resample else 4,
        feature_resample_norm="dysampler.norm_hr.weight" in shapes,
        hamming_window=len(shapes["hamming_lowpass"]) > 1,
        sampler_features="sim" if only_similarity else "sim_concat",
    )
    saved = {name: torch.randn(shape) for name, shape in shapes.items()}
    module.load_state_dict(saved)
    for name, value in module.state_dict().items():
        assert torch.equal(value, saved[original_name(name)])

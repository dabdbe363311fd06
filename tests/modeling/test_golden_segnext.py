"""MSCAN, the factorization and the heads of SegNeXt against the reference runs of set G."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from golden_data import cases_of, compare_gradients, compare_outputs
from torch import nn

from freqfusion.layers import FreqFusionConcat
from freqfusion.modeling import MSCAN, LightHamHead
from freqfusion.modeling.light_ham_head import (
    Hamburger,
    NonNegativeFactorization,
    ResizedConcatenation,
    factorize,
)
from freqfusion.tools._convert_segnext import convert_segnext

pytestmark = pytest.mark.golden

BACKBONES = cases_of("G", "MSCAN")
FACTORIZATIONS = cases_of("G", "NMF2D")
HAMBURGERS = cases_of("G", "Hamburger")
HEADS = cases_of("G", "LightHamHead", "LightHamHeadFreqAware")
WHOLE = cases_of(
    "G",
    "EncoderDecoder (MSCAN, LightHamHead)",
    "EncoderDecoder (MSCAN, LightHamHeadFreqAware)",
)
# Arguments of the factorization, there and here; the temperature of the reference has no effect.
FACTORIZATION_ARGUMENTS = {
    "MD_R": "rank",
    "MD_S": "splits",
    "TRAIN_STEPS": "train_steps",
    "EVAL_STEPS": "eval_steps",
}
WITHOUT_EFFECT = {"INV_T", "SPATIAL", "RAND_INIT"}
# Arguments of the heads that are not those of FreqFusion.
HEAD_ARGUMENTS = {
    "in_channels",
    "in_index",
    "channels",
    "ham_channels",
    "ham_kwargs",
    "num_classes",
    "norm_cfg",
    "align_corners",
    "dropout_ratio",
    "compress_ratio",
    "low2high_residual",
    "high2low_residual",
    "use_low_pass",
}


def parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def with_gradients(cases):
    return parametrize([case for case in cases if case.group("grad")])


def set_mode(module, case):
    return module.train(case.entry["mode"] == "train")


def group_norm(config):
    assert config["type"] == "GN"
    return lambda channels: nn.GroupNorm(config["num_groups"], channels)


def factorization_arguments(arguments):
    assert set(arguments) <= set(FACTORIZATION_ARGUMENTS) | WITHOUT_EFFECT
    return {FACTORIZATION_ARGUMENTS[k]: v for k, v in arguments.items() if k not in WITHOUT_EFFECT}


def build_backbone(arguments):
    assert arguments.get("num_stages", len(arguments["depths"])) == len(arguments["depths"])
    # Dropout is off where no published model has it.
    others = ("norm", "num_stages", "drop_rate")
    arguments = {k: v for k, v in arguments.items() if k not in others}
    return MSCAN(**{"drop_path_rate": 0.0} | arguments, norm="BN")


def build_hamburger(channels, arguments, norm):
    return Hamburger(channels=channels, norm=group_norm(norm), **factorization_arguments(arguments))


def build_head(case, arguments):
    """The head on maps named by their numbers."""
    names, widths = map(str, arguments["in_index"]), arguments["in_channels"]
    if "LightHamHeadFreqAware" in case.object:
        join = FreqFusionConcat(
            in_channels=widths,
            compress_ratio=arguments.get("compress_ratio", 8),
            fusion={k: v for k, v in arguments.items() if k not in HEAD_ARGUMENTS},
            low2high_residual=arguments.get("low2high_residual", False),
        )
    else:
        assert set(arguments) <= HEAD_ARGUMENTS
        join = ResizedConcatenation(
            in_channels=widths, align_corners=arguments.get("align_corners", False)
        )
    norm = arguments["norm_cfg"]
    return LightHamHead(
        input_shape={name: ShapeSpec(channels=c) for name, c in zip(names, widths, strict=True)},
        join=join,
        hamburger=build_hamburger(
            arguments["ham_channels"], arguments.get("ham_kwargs") or {}, norm
        ),
        num_classes=arguments["num_classes"],
        width=arguments["channels"],
        dropout=arguments.get("dropout_ratio", 0.1),
        norm=group_norm(norm),
    )


def renamed(state, prefix=""):
    """Weights by our names; ``prefix`` is that of a part of the head, which they do not have."""
    old = {prefix + name: value for name, value in state.items()}
    head = "decode_head." if any(name.startswith("decode_head.") for name in old) else ""
    result = convert_segnext(old, head=head, our_head=head).state
    return {name.removeprefix(prefix): value for name, value in result.items()}


def published(case, module, prefix=""):
    """The parameters of a module by the reference's names."""
    state = case.group("param")
    ours = renamed(state, prefix)
    names = {id(value): name for name, value in state.items()}
    return {names[id(ours[name])]: value for name, value in module.named_parameters()}


def bases_of(case, dtype, splits=1):
    """Where each image starts; the reference joins images and splits, or knows no images."""
    drawn = case.group("rand")["bases"].to(dtype)
    return drawn if len(drawn) == splits else drawn.unflatten(0, (-1, splits))


class RecordedDropPath(nn.Module):
    """Stochastic depth with recorded numbers: an image stays where one and the rest are over 1."""

    def __init__(self, rate, numbers):
        super().__init__()
        self.rate, self.numbers = rate, numbers

    def forward(self, branch):
        keep = 1 - self.rate
        return branch * (keep + self.numbers.pop(0)).floor().to(branch.dtype) / keep


def record_drop_path(backbone, case):
    """Give each block its numbers; a block that draws none has none."""
    recorded = case.group("rand")
    for name, module in backbone.named_modules():
        if hasattr(module, "drop_path"):
            rate = getattr(module.drop_path, "p", 0)
            kinds = ("attn", "mlp")
            numbers = [recorded.pop(f"{name}.{k}") for k in kinds if f"{name}.{k}" in recorded]
            assert bool(numbers) == (rate > 0)
            if numbers:
                module.drop_path = RecordedDropPath(rate, numbers)
    assert not recorded


@parametrize(BACKBONES)
def test_backbone(case):
    """In training with recorded stochastic depth, and what the normalizations have counted."""

    def run(dtype):
        backbone = build_backbone(case.ctor)
        backbone.load_state_dict(case.group("param"))
        record_drop_path(backbone, case)
        maps = set_mode(backbone.to(dtype), case)(case.group("in")["image"].to(dtype))
        after = backbone.state_dict()
        for name, value in case.group("mid").items():
            if dtype == torch.float32 and name.startswith("after."):
                found = after[name.removeprefix("after.")]
                torch.testing.assert_close(found, value, atol=1e-6, rtol=1e-5)
        return dict(zip(case.outputs, maps.values(), strict=True))

    compare_outputs(case, run)


@parametrize(FACTORIZATIONS)
def test_factorization(case):
    """Matrices of the pixels' channels; of the channels' pixels where ``SPATIAL`` is off."""
    arguments = case.ctor["args"]

    def run(dtype):
        bases = bases_of(case, dtype, arguments.get("MD_S", 1))
        outputs = {}
        for name, maps in case.group("in").items():
            maps = maps.to(dtype)
            if arguments.get("SPATIAL", True):
                module = NonNegativeFactorization(
                    channels=maps.shape[1], **factorization_arguments(arguments)
                )
                outputs[name.replace("x", "y")] = set_mode(module, case)(maps, bases)
                continue
            # One matrix for each image, turned round.
            kind = "TRAIN_STEPS" if case.entry["mode"] == "train" else "EVAL_STEPS"
            steps = arguments.get(kind, 6 if kind == "TRAIN_STEPS" else 7)
            vectors = maps.flatten(2).mT[:, None]
            product = factorize(vectors, bases, steps=steps)
            outputs[name.replace("x", "y")] = product.mT.reshape(maps.shape)
        return outputs

    compare_outputs(case, run)


def run_hamburger(case, inputs, dtype):
    norm, options = case.ctor["norm_cfg"], case.ctor.get("ham_kwargs") or {}
    module = build_hamburger(case.ctor["ham_channels"], options, norm)
    module.load_state_dict(renamed(case.group("param"), "hamburger."))
    module = set_mode(module.to(dtype), case)
    return module, {"y": module(inputs["x"], bases_of(case, dtype, options.get("MD_S", 1)))}


@parametrize(HAMBURGERS)
def test_hamburger(case):
    def run(dtype):
        inputs = {name: value.to(dtype) for name, value in case.group("in").items()}
        return run_hamburger(case, inputs, dtype)[1]

    compare_outputs(case, run)


@with_gradients(HAMBURGERS)
def test_gradients_of_hamburger(case):
    inputs = {name: value.requires_grad_() for name, value in case.group("in").items()}
    module, outputs = run_hamburger(case, inputs, torch.float32)

    compare_gradients(case, outputs, inputs, published(case, module, "hamburger."))


@parametrize(HEADS)
def test_head(case):
    def run(dtype):
        head = build_head(case, case.ctor)
        head.load_state_dict(renamed(case.group("param")))
        head = set_mode(head.to(dtype), case)
        inputs = {name: value.to(dtype) for name, value in case.group("in").items()}
        decoded = head.decode(inputs, bases_of(case, dtype, head.hamburger.ham.splits))
        return {"logits": head.predictor(decoded)}

    compare_outputs(case, run)


def run_whole(case, image, dtype):
    """The model, and its outputs."""
    model = nn.ModuleDict(
        {
            "backbone": build_backbone(case.ctor["backbone"]),
            "decode_head": build_head(case, case.ctor["decode_head"]),
        }
    )
    model.load_state_dict(renamed(case.group("param")))
    backbone, head = set_mode(model.to(dtype), case).values()
    maps = {str(number): m for number, m in enumerate(backbone(image).values())}
    bases = bases_of(case, dtype, head.hamburger.ham.splits)
    logits = head.predictor(head.decode(maps, bases))
    corners = case.ctor["decode_head"].get("align_corners", False)
    full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=corners)
    return model, {"logits": logits, "logits_full": full}


@parametrize(WHOLE)
def test_whole_model(case):
    compare_outputs(
        case, lambda dtype: run_whole(case, case.group("in")["image"].to(dtype), dtype)[1]
    )


@with_gradients(WHOLE)
def test_gradients_of_the_whole_model(case):
    image = case.group("in")["image"].requires_grad_()
    model, outputs = run_whole(case, image, torch.float32)
    compare_gradients(case, outputs, {"image": image}, published(case, model))

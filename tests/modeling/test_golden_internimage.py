"""DCNv3 and InternImage against the reference runs of set H."""

import pytest
import torch
from golden_data import cases_of, compare_gradients, compare_outputs
from torch import nn

from freqfusion.layers import DeformableConvolutionV3, deformable_convolution_v3
from freqfusion.modeling import InternImage
from freqfusion.modeling.internimage import BlockSettings, InternImageBlock, InternImageStage

pytestmark = pytest.mark.golden

CORES = cases_of("H", "dcnv3_core_pytorch")
MODULES = cases_of("H", "DCNv3")
# The reference's layer is our block, its block our stage.
BLOCKS = cases_of("H", "InternImageLayer")
STAGES = cases_of("H", "InternImageBlock")
MODELS = cases_of("H", "InternImage")
# Arguments of the operator's module and of blocks, there and here.
CONVOLUTION = {
    "channels": "channels",
    "group": "groups",
    "kernel_size": "kernel_size",
    "dilation": "dilation",
    "offset_scale": "offset_scale",
    "dw_kernel_size": "depthwise_kernel",
    "norm_layer": "norm",
    "act_layer": "activation",
    "center_feature_scale": "center_feature_scale",
    "remove_center": "remove_center",
}
BLOCK = {
    "mlp_ratio": "mlp_ratio",
    "layer_scale": "layer_scale",
    "post_norm": "post_norm",
    "res_post_norm": "res_post_norm",
    "offset_scale": "offset_scale",
    "dw_kernel_size": "depthwise_kernel",
    "center_feature_scale": "center_feature_scale",
    "norm_layer": "norm",
}
MODEL = BLOCK | {
    "channels": "channels",
    "depths": "depths",
    "groups": "groups",
    "level2_post_norm_block_ids": "post_norm_blocks",
}
# Read apart from these, or without effect on numbers.
OTHERS = {"stride", "pad", "depth", "downsample", "channels", "groups", "post_norm_block_ids"}
OF_MODELS = {"num_classes", "cls_scale", "out_indices", "level2_post_norm"}
WITHOUT_EFFECT = {"core_op", "act_layer", "drop_rate", "drop_path_rate", "drop_path_type"}


def parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def with_gradients(cases):
    return parametrize([case for case in cases if case.group("grad")])


def arguments_of(case, names, others):
    """Our arguments; what the reference sets to None is off."""
    assert set(case.ctor) <= set(names) | others
    assert "act_layer" in names or case.ctor.get("act_layer", "GELU") == "GELU"
    return {names[k]: v for k, v in case.ctor.items() if k in names and v is not None}


def loaded(case, module, *, unused=()):
    """The module with the reference's parameters, but for those that it never uses."""
    state = case.group("param")
    module.load_state_dict({k: v for k, v in state.items() if not any(u in k for u in unused)})
    return module.train(case.entry["mode"] == "train")


def inputs_of(case, dtype=torch.float32):
    return {name: value.to(dtype) for name, value in case.group("in").items()}


def run_core(case, inputs):
    options, groups = dict(case.ctor), case.ctor["group"]
    assert inputs["x"].shape[-1] == groups * options.pop("group_channels")
    pairs = {"kernel_size": "kernel", "stride": "stride", "padding": "pad", "dilation": "dilation"}
    geometry = {
        ours: (options.pop(f"{theirs}_h"), options.pop(f"{theirs}_w"))
        for ours, theirs in pairs.items()
    }
    options["groups"] = options.pop("group")
    return deformable_convolution_v3(
        inputs["x"], inputs["offset"], inputs["mask"], **geometry, **options
    )


@parametrize(CORES)
def test_core(case):
    compare_outputs(case, lambda dtype: {"y": run_core(case, inputs_of(case, dtype))})


@with_gradients(CORES)
def test_gradients_of_the_core(case):
    """In float32 at the tolerance, and in float64 where recorded."""
    inputs = {name: value.requires_grad_() for name, value in inputs_of(case).items()}
    compare_gradients(case, {"y": run_core(case, inputs)}, inputs, {})
    exact = case.group("grad64")
    if exact:
        inputs = {name: v.detach().double().requires_grad_() for name, v in inputs.items()}
        output, signs = run_core(case, inputs), case.group("lossw")["y"]
        ((output * signs).sum() / signs.numel() ** 0.5).backward()
        for name, value in inputs.items():
            torch.testing.assert_close(value.grad, exact[f"in_{name}"], atol=1e-9, rtol=0)


def build_module(case):
    arguments = arguments_of(case, CONVOLUTION, {"stride", "pad"})
    assert case.ctor.get("stride", 1) == 1
    width, dilation = case.ctor.get("kernel_size", 3), case.ctor.get("dilation", 1)
    assert case.ctor.get("pad", 1) == dilation * (width // 2)
    return loaded(case, DeformableConvolutionV3(**arguments))


@parametrize(MODULES)
def test_module(case):
    def run(dtype):
        return {"y": build_module(case).to(dtype)(inputs_of(case, dtype)["x"])}

    compare_outputs(case, run)


def settings_of(case, others=frozenset()):
    return BlockSettings(**arguments_of(case, BLOCK, OTHERS | WITHOUT_EFFECT | others))


def build_block(case):
    settings = settings_of(case)
    block = InternImageBlock(
        channels=case.ctor["channels"],
        groups=case.ctor["groups"],
        drop_path_rate=0.0,
        settings=settings,
    )
    # The reference makes these, and goes without them where branches are scaled.
    unused = ("res_post_norm",) if settings.layer_scale or settings.post_norm else ()
    return loaded(case, block, unused=unused)


@parametrize(BLOCKS)
def test_block(case):
    def run(dtype):
        return {"y": build_block(case).to(dtype)(inputs_of(case, dtype)["x"])}

    compare_outputs(case, run)


@with_gradients(MODULES + BLOCKS)
def test_gradients(case):
    module = (build_block if case in BLOCKS else build_module)(case)
    inputs = {name: value.requires_grad_() for name, value in inputs_of(case).items()}
    parameters = dict(module.named_parameters())
    compare_gradients(case, {"y": module(inputs["x"])}, inputs, parameters)


@parametrize(STAGES)
def test_stage(case):
    settings = settings_of(case)
    stage = InternImageStage(
        channels=case.ctor["channels"],
        groups=case.ctor["groups"],
        drop_path_rates=[0.0] * case.ctor["depth"],
        settings=settings,
        post_norm_blocks=case.ctor.get("post_norm_block_ids") or (),
        downsample=case.ctor.get("downsample", True),
        use_checkpoint=False,
    )
    unused = ("res_post_norm",) if settings.layer_scale or settings.post_norm else ()
    loaded(case, stage, unused=unused)

    def run(dtype):
        maps = stage.to(dtype)(inputs_of(case, dtype)["x"])
        return {
            "before_downsample": maps,
            "y": maps if stage.downsample is None else stage.downsample(maps),
        }

    compare_outputs(case, run)


class Classifier(nn.Module):
    """InternImage with the head of its classifiers, which a dense model has not."""

    def __init__(self, backbone, channels, classes, scale):
        super().__init__()
        self.backbone = backbone
        width = int(channels * scale)
        # The reference normalizes with a BatchNorm2d inside of a sequence.
        norm = nn.Sequential(nn.BatchNorm2d(width))
        self.conv_head = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), norm, nn.GELU())
        self.head = nn.Linear(width, classes)

    def forward(self, image):
        *_, last = self.backbone(image).values()
        return self.head(self.conv_head(last).mean((2, 3)))


def build_model(case):
    arguments = arguments_of(case, MODEL, OF_MODELS | WITHOUT_EFFECT)
    arguments = {"layer_scale": 0.0, "drop_path_rate": 0.0} | arguments
    stages = range(len(arguments["depths"]))
    if not case.ctor.get("level2_post_norm"):
        arguments.pop("post_norm_blocks", None)
    chosen = case.ctor.get("out_indices", stages)
    model = InternImage(**arguments, out_features=[f"res{2 + stage}" for stage in chosen])
    if "num_classes" not in case.ctor:
        unused = ("res_post_norm",) if arguments.get("post_norm") else ()
        return loaded(case, model, unused=unused)
    last = arguments["channels"] * 2 ** stages[-1]
    classifier = Classifier(model, last, case.ctor["num_classes"], case.ctor["cls_scale"])
    heads = ("head.", "conv_head.")
    state = {
        name if name.startswith(heads) else f"backbone.{name}": value
        for name, value in case.group("param").items()
    }
    classifier.load_state_dict(state)
    return classifier.train(case.entry["mode"] == "train")


@parametrize(MODELS)
def test_model(case):
    """The maps of a backbone, the logits of a classifier."""

    def run(dtype):
        outputs = build_model(case).to(dtype)(inputs_of(case, dtype)["image"])
        if isinstance(outputs, torch.Tensor):
            return dict(zip(case.outputs, [outputs], strict=True))
        return dict(zip(case.outputs, outputs.values(), strict=True))

    compare_outputs(case, run)

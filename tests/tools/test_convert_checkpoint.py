"""Weights from elsewhere: the research code's necks, ResNets of torchvision, and clear refusals."""

import re

import pytest
import torch
from golden_data import cases, reference_keys

from freqfusion.tools import convert_checkpoint
from freqfusion.tools._convert_names import (
    Rule,
    convert,
    convert_detector,
    convert_resnet,
    neck_rules,
)
from freqfusion.tools._convert_settings import neck_settings

STAGES = ["res2", "res3", "res4", "res5"]


def config(settings, **keys):
    from freqfusion import get_freqfusion_cfg

    cfg = get_freqfusion_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = STAGES
    settings = settings | {name.replace("__", "."): value for name, value in keys.items()}
    cfg.merge_from_list([part for item in settings.items() for part in item])
    return cfg


def published_neck(case):
    """A pyramid built from what the weights tell, on maps instead of a backbone up to res5."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone

    from freqfusion.modeling import FreqFusionFPN
    from freqfusion.modeling.fpn import fusion_factory

    channels = case.ctor["in_channels"]
    first = 6 - len(channels)

    class Maps(Backbone):
        def forward(self, maps):
            return dict(zip(self.output_shape(), maps, strict=True))

        def output_shape(self):
            return {
                f"res{stage}": ShapeSpec(channels=width, stride=2**stage)
                for stage, width in enumerate(channels, start=first)
            }

    state = case.group("param")
    cfg = config(
        neck_settings(state), MODEL__FREQFUSION__SEMI_CONV=case.ctor.get("semi_conv", True)
    )
    neck = FreqFusionFPN(
        bottom_up=Maps(),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        make_fusion=fusion_factory(cfg),
        fused_top_levels=int(cfg.MODEL.FREQFUSION.FUSED_TOP_LEVEL),
    )
    assert neck.stages[0] == first + case.ctor.get("start_level", 0)
    neck.load_state_dict(convert(state, neck_rules(state)).state)
    return neck


def necks():
    return pytest.mark.parametrize(
        "case", cases("B", "FreqFusionCARAFEFPN"), ids=lambda case: case.id
    )


@pytest.mark.detectron2
@pytest.mark.golden
@necks()
def test_published_neck(case):
    inputs, expected = case.group("in"), case.group("out")
    actual = published_neck(case)([inputs[str(index)] for index in range(len(inputs))])
    for index, value in enumerate(actual.values()):
        case.check(str(index), value, expected[str(index)])
    assert len(actual) == len(expected)


def full_size_neck():
    """Names and shapes of a detector's neck."""
    entry = reference_keys()["mmdet_panoptic_fpn_R50_neck"]
    shapes = entry["parameters"] | entry["buffers"]
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def from_res3(state):
    """The names of a neck whose first level is left out, as ``start_level=1`` makes them."""
    result = {}
    for name, value in state.items():
        kind, level, rest = re.fullmatch(r"(neck\.\w+)\.(\d+)\.(.+)", name).groups()
        if level != "0":
            result[f"{kind}.{int(level) - 1}.{rest}"] = value
    return result


@pytest.mark.detectron2
@pytest.mark.golden
@pytest.mark.parametrize("change", [dict, from_res3])
def test_full_size_neck_has_the_names_and_shapes_of_the_backbone(change):
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    state = change(full_size_neck())
    cfg = config(
        neck_settings(state, source="neck."),
        MODEL__BACKBONE__NAME="build_resnet_freqfusion_fpn_backbone",
    )
    with torch.device("meta"):
        model = build_backbone(cfg, ShapeSpec(channels=3))
    result = convert_detector(state)
    expected = {
        f"backbone.{name}": value.shape
        for name, value in model.state_dict().items()
        if not name.startswith("bottom_up.")
    }
    assert {name: value.shape for name, value in result.state.items()} == expected
    assert list(result.dropped) == ["buffers that are recomputed"]
    counts = [len(names) for part in (result.mapped, result.dropped) for names in part.values()]
    assert sum(counts) == len(state)


def test_settings_of_the_full_size_neck():
    found = neck_settings(full_size_neck(), source="neck.")
    assert {name.rpartition(".")[2]: value for name, value in found.items()} == {
        "IN_FEATURES": STAGES,
        "OUT_CHANNELS": 256,
        "FUSED_TOP_LEVEL": True,
        "ENABLED": True,
        "COMPRESSED_CHANNELS": 64,
        "ENCODER_KERNEL": 3,
        "LOWPASS_KERNEL": 5,
        "USE_HIGH_PASS": True,
        "FEATURE_RESAMPLE": True,
        "HIGHPASS_KERNEL": 3,
        "HAMMING_WINDOW": True,
        "FEATURE_RESAMPLE_GROUP": 4,
        "FEATURE_RESAMPLE_NORM": False,
        "SAMPLER_FEATURES": "sim_concat",
    }


def random_resnet(depth):
    """A classifier of torchvision with statistics that are not those of a start."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(depth)
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            for positive in (module.running_var, module.weight):
                torch.nn.init.uniform_(positive, 0.5, 1.0)
    return model


@pytest.mark.detectron2
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_through_the_command_line(depth, tmp_path, capsys):
    """Every stage of Detectron2's ResNet gives what torchvision's gives."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone

    theirs = random_resnet(depth)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    files = [str(tmp_path / "in.pth"), str(tmp_path / "new" / "out.pth")]
    assert convert_checkpoint.main([*files, "--prefix", ""]) == 0
    printed = capsys.readouterr().out
    assert "dropped 2: classifier" in printed
    assert 'MODEL.RESNETS.STRIDE_IN_1X1 "False" INPUT.FORMAT "RGB"' in printed
    width = 64 if depth == 18 else 256
    assert f'MODEL.RESNETS.DEPTH "{depth}"' in printed
    assert f'MODEL.RESNETS.RES2_OUT_CHANNELS "{width}"' in printed

    keys = {"MODEL__RESNETS__RES2_OUT_CHANNELS": 64} if depth == 18 else {}
    ours = build_resnet_backbone(
        config(
            {},
            MODEL__RESNETS__DEPTH=depth,
            MODEL__RESNETS__STRIDE_IN_1X1=False,
            **keys,
        ),
        ShapeSpec(channels=3),
    ).eval()
    left = DetectionCheckpointer(ours).load(files[1])
    assert left["__author__"] == "freqfusion.convert_checkpoint"
    content = torch.load(files[1], weights_only=True)
    assert set(content["model"]) == set(ours.state_dict())

    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        actual = ours(image)
        for number, name in enumerate(STAGES, start=1):
            x = getattr(theirs, f"layer{number}")(x)
            torch.testing.assert_close(actual[name], x, atol=1e-4, rtol=1e-4)


def detector():
    """A detector in miniature: a neck, a ResNet and a head."""
    neck = {name: torch.zeros(shape.shape) for name, shape in full_size_neck().items()}
    backbone = {
        "backbone.conv1.weight": torch.zeros(4, 3, 7, 7),
        "backbone.bn1.num_batches_tracked": torch.zeros(()),
        "backbone.layer1.0.downsample.1.running_var": torch.ones(4),
    }
    return backbone | neck | {"rpn_head.rpn_conv.weight": torch.zeros(2, 2, 3, 3)}


def test_detector_through_the_command_line(tmp_path, capsys):
    source, output = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"state_dict": detector(), "meta": {"epoch": 12}}, source)
    command = [str(source), str(output)]
    assert convert_checkpoint.main(command) == 0
    printed = capsys.readouterr().out
    assert "mapped 10: lateral convolutions" in printed
    assert "dropped 12: buffers that are recomputed" in printed
    assert "heads, which have no counterpart here (rpn_head.rpn_conv.weight)" in printed
    assert 'MODEL.FREQFUSION.FEATURE_RESAMPLE_NORM "False"' in printed
    model = torch.load(output, weights_only=True)["model"]
    assert "backbone.bottom_up.stem.conv1.weight" in model
    assert "backbone.bottom_up.res2.0.shortcut.norm.running_var" in model
    assert "backbone.fpn_fusion5.sampler.hr_offset.weight" in model

    assert convert_checkpoint.main(command) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert convert_checkpoint.main([*command, "--overwrite"]) == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.pth", "out.pth"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neck.alignment.0.dysampler.ofset.weight", "no rule for 1 names: neck.alignment.0"),
        ("backbone.layer1.0.conv2_offset.weight", "no rule for 1 names: backbone.layer1"),
        ("neck.lateral_convs.6.conv.weight", "both at every level"),
        ("neck.alignment.5.content_encoder.weight", "for the 4 hops between its 5 levels"),
        ("optimizer.weight", "no rule for 1 names: optimizer.weight"),
    ],
)
def test_names_without_a_rule(name, message):
    with pytest.raises(ValueError, match=message):
        convert_detector(full_size_neck() | {name: torch.zeros(1)})


def test_unknown_parts_of_a_resnet_are_refused():
    with pytest.raises(ValueError, match=r"no rule for 1 names: layer1\.0\.se\.fc1\.weight"):
        convert_resnet({"conv1.weight": torch.zeros(1), "layer1.0.se.fc1.weight": torch.zeros(1)})


def test_two_names_that_become_one():
    rule = Rule("all", r"(a|b)\.weight", lambda match: "c.weight")
    with pytest.raises(ValueError, match=r"several entries would become one: c\.weight"):
        convert({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}, [rule])


class Anything:
    """An object that cannot be rebuilt without running code."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(1)}, "meta": Anything()}, "Anything, and only tensors"),
        (b"not a checkpoint", "no checkpoint"),
        ({"model": {"a": torch.zeros(1)}}, "holds a dict under 'model'"),
        ({"cls.weight": torch.zeros(1)}, "neither those of an mmdetection detector"),
    ],
)
def test_files_that_are_refused(content, message, tmp_path, capsys):
    source = tmp_path / "in.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        torch.save(content, source)
    assert convert_checkpoint.main([str(source), str(tmp_path / "out.pth")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("none.pth", "out.pth"), "none.pth is not a file"),
        (("in.pth", "out.pkl"), "must be named *.pth, as Detectron2 expects, or *.safetensors"),
        (("in.pth", "in.pth", "--overwrite"), "is the input"),
        (("in.pth", "out.pth", "--prefix", "x"), "--prefix is for torchvision"),
    ],
)
def test_arguments_that_are_refused(names, message, tmp_path, capsys):
    torch.save({"backbone.conv1.weight": torch.zeros(1)}, tmp_path / "in.pth")
    files = [str(tmp_path / name) for name in names[:2]]
    assert convert_checkpoint.main([*files, *names[2:]]) == 2
    assert message in capsys.readouterr().err

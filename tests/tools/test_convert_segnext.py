"""Published names of SegNeXt: every one has its place, with the settings that the weights tell."""

import shlex

import pytest
import torch
from detectron2.modeling import build_model
from golden_data import cases_of, reference_keys
from toy_configs import change

from freqfusion import get_freqfusion_cfg
from freqfusion.modeling import MSCAN
from freqfusion.tools import convert_checkpoint
from freqfusion.tools._convert_names import detect
from freqfusion.tools._convert_segnext import convert_segnext, segnext_settings
from freqfusion.tools._convert_settings import check_against_model

pytestmark = pytest.mark.golden

WHOLE = cases_of(
    "G",
    "EncoderDecoder (MSCAN, LightHamHead)",
    "EncoderDecoder (MSCAN, LightHamHeadFreqAware)",
)
GATE = "backbone.block1.0.attn.spatial_gating_unit.conv0.weight"
SQUEEZE = "decode_head.squeeze.conv.weight"


def lists(marker):
    """Names and shapes of the full-size models that have a weight."""
    return {
        model: entry["parameters"] | entry["buffers"]
        for model, entry in reference_keys().items()
        if marker in entry["parameters"]
    }


def full_size():
    """Each head, and one that ends its name as a backbone begins it; each backbone alone."""
    backbones, heads = lists(GATE), lists(SQUEEZE)
    for model, shapes in backbones.items():
        yield pytest.param(shapes, id=model)
    for model, shapes in heads.items():
        joined = shapes[SQUEEZE][1]
        for backbone in backbones.values():
            widths = [
                shape[0]
                for name, shape in backbone.items()
                if name.startswith("backbone.norm") and name.endswith(".weight")
            ]
            if any(sum(widths[start:]) == joined for start in range(len(widths))):
                yield pytest.param(backbone | shapes, id=f"whole-{model}")
                break


def state_of(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("shapes", list(full_size()))
def test_full_size_names_are_those_of_the_model(shapes):
    """Nothing is missing or left over, but for buffers of FreqFusion, which are recomputed."""
    state = state_of(shapes)
    assert detect(state) == "segnext"
    result, settings = convert_segnext(state), segnext_settings(state)
    whole = "MODEL.SEM_SEG_HEAD.NAME" in settings
    assert whole == any(name.startswith("decode_head.") for name in state)
    check_against_model(result.state, settings, backbone=None if whole else "backbone.")
    recomputed = ("hamming_lowpass", "hamming_highpass", "dysampler.init_pos")
    dropped = [name for names in result.dropped.values() for name in names]
    assert all(name.endswith(recomputed) for name in dropped)
    assert len(result.state) + len(dropped) == len(state)


@pytest.mark.parametrize("shapes", lists(GATE).values(), ids=lists(GATE))
def test_a_backbone_that_classifies(shapes):
    state = {name.removeprefix("backbone."): value for name, value in state_of(shapes).items()}
    state |= {"head.weight": torch.empty(1000, 256), "head.bias": torch.empty(1000)}
    assert detect(state) == "segnext"
    result = convert_segnext(state, prefix="backbone.bottom_up.")
    assert len(result.state) == len(state) - 2
    assert all(name.startswith("backbone.bottom_up.") for name in result.state)
    assert result.dropped == {"classifier, which a dense model has not": [*state][-2:]}
    settings = segnext_settings(state)
    assert settings == segnext_settings(state_of(shapes))


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
def test_a_converted_model_loads_strictly(case):
    """With the settings of its own weights, but for the number of groups of its norms."""
    state = case.group("param")
    settings = segnext_settings(state) | {"MODEL.DEVICE": "cpu", "MODEL.SEM_SEG_HEAD.NORM": "LN"}
    cfg = get_freqfusion_cfg()
    cfg.merge_from_list([part for item in settings.items() for part in item])
    model = build_model(cfg)
    model.load_state_dict(convert_segnext(state).state)
    head = case.ctor["decode_head"]
    assert model.sem_seg_head.hamburger.channels == head["ham_channels"]
    assert model.sem_seg_head.predictor.in_channels == head["channels"]


def converted(state, folder, capsys):
    """The weights of a file that the command has written, and the configuration that it names."""
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, folder / "in.pth")
    arguments = [str(folder / "in.pth"), str(folder / "out.pth")]
    assert convert_checkpoint.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("names of segnext")
    (line,) = (part.removeprefix("set: ") for part in printed if part.startswith("set: "))
    cfg = get_freqfusion_cfg()
    cfg.merge_from_list(shlex.split(line))
    return torch.load(folder / "out.pth", weights_only=True)["model"], cfg


SMALLEST = min(full_size(), key=lambda case: len(case.values[0]) + 1e9 * ("whole" not in case.id))


def test_a_file_gives_the_model_that_its_keys_name(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.rand(s, generator=generator) for n, s in SMALLEST.values[0].items()}
    weights, cfg = converted(state, tmp_path, capsys)
    model = build_model(change(cfg, {"MODEL__DEVICE": "cpu"}))
    model.load_state_dict(weights)
    squeeze = model.sem_seg_head.squeeze.norm.weight
    assert torch.equal(squeeze, state["decode_head.squeeze.gn.weight"])
    assert cfg.INPUT.FORMAT == "RGB"


def test_a_backbone_alone_from_a_file(tmp_path, capsys):
    backbone = MSCAN(embed_dims=[8, 16], depths=[1, 2], mlp_ratios=[2, 4], out_features=["res3"])
    weights, cfg = converted(backbone.state_dict(), tmp_path, capsys)
    assert cfg.MODEL.MSCAN.DEPTHS == [1, 2]
    assert set(weights) == {f"backbone.{name}" for name in backbone.state_dict()}


def test_unknown_names_are_refused():
    state = state_of(next(iter(lists(GATE).values())))
    with pytest.raises(ValueError, match=r"no rule for 1 names: decode_head\.other"):
        convert_segnext(state | {"decode_head.other.weight": torch.empty(1)})

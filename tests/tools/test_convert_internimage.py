"""InternImage's weights into our backbone: from a classifier and from a segmentor."""

import shlex

import pytest
import torch
from detectron2.modeling import build_backbone
from golden_data import cases_of, reference_keys

from freqfusion import get_freqfusion_cfg
from freqfusion.modeling import InternImage
from freqfusion.tools import convert_checkpoint
from freqfusion.tools._convert_names import convert_internimage, detect
from freqfusion.tools._convert_settings import check_against_model, internimage_settings

MODELS = cases_of("H", "InternImage")
SIZES = {"channels": 16, "depths": (1, 2, 1, 1), "groups": (1, 2, 2, 4), "mlp_ratio": 2.0}
CLASSIFIER = {
    "conv_head.0.weight": torch.zeros(5, 128, 1, 1),
    "conv_head.1.0.weight": torch.ones(5),
    "conv_head.1.0.running_var": torch.ones(5),
    "conv_head.1.0.num_batches_tracked": torch.tensor(3),
    "head.weight": torch.zeros(7, 5),
    "head.bias": torch.zeros(7),
}
SEGMENTOR = {
    "decode_head.conv_seg.weight": torch.zeros(7, 5, 1, 1),
    "auxiliary_head.convs.0.bn.num_batches_tracked": torch.tensor(3),
}


def weights(**others):
    torch.manual_seed(0)
    state = InternImage(**SIZES, **others).state_dict()
    return {name: torch.randn_like(value) for name, value in state.items()}


def convert(state, folder, *arguments, under="model"):
    torch.save({under: state, "epoch": 3}, folder / "in.pth")
    return convert_checkpoint.main([str(folder / "in.pth"), str(folder / "out.pth"), *arguments])


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("layer_scale", [0.0, 1.0])
@pytest.mark.parametrize("inside", ["a classifier", "a segmentor"])
def test_the_backbone_arrives_bit_by_bit_in_the_model_that_is_named(
    post_norm, layer_scale, inside, tmp_path, capsys
):
    state = weights(post_norm=post_norm, layer_scale=layer_scale)
    alone = inside == "a classifier"
    file = state | CLASSIFIER if alone else prefixed(state, "backbone.") | SEGMENTOR
    assert convert(file, tmp_path, under="model" if alone else "state_dict") == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"all {len(state)} names and shapes are those of the model" in printed
    assert any(
        "do not tell MODEL.INTERNIMAGE.OFFSET_SCALE, which is set to that" in p for p in printed
    )
    assert printed[0].endswith("names of internimage")
    dropped = [line for line in printed if line.startswith("dropped")]
    assert [line.split(":")[0] for line in dropped] == ["dropped 6" if alone else "dropped 2"]

    found = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert set(found) == {f"backbone.{name}" for name in state}
    (line,) = (part for part in printed if part.startswith("set: "))
    cfg = get_freqfusion_cfg()
    cfg.merge_from_list(shlex.split(line.removeprefix("set: ")))
    assert cfg.MODEL.INTERNIMAGE.GROUPS == [1, 2, 2, 4]
    assert cfg.MODEL.INTERNIMAGE.POST_NORM is post_norm
    model = build_backbone(cfg)
    model.load_state_dict({name.removeprefix("backbone."): v for name, v in found.items()})
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


OFFSET = "levels.0.blocks.0.dcn.offset.weight"
FULL_SIZE = {
    model: entry["parameters"] | entry["buffers"]
    for model, entry in reference_keys().items()
    if {OFFSET, f"backbone.{OFFSET}"} & set(entry["parameters"])
}


@pytest.mark.golden
@pytest.mark.parametrize("shapes", FULL_SIZE.values(), ids=FULL_SIZE)
def test_full_size_names_are_those_of_the_model(shapes):
    """Of segmentors and classifiers: nothing is left over, and only classifiers are dropped."""
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert detect(state) == "internimage"
    result = convert_internimage(state)
    check_against_model(
        result.state, internimage_settings(result.state, "backbone."), backbone="backbone."
    )
    dropped = [name for names in result.dropped.values() for name in names]
    assert len(result.state) + len(dropped) == len(state)
    assert all(name.startswith(("head.", "conv_head.")) for name in dropped)


# What the table of the published sizes says, under the names of the arguments.
PUBLISHED = {
    "T": {"channels": 64, "depths": [4, 4, 18, 4], "groups": [4, 8, 16, 32]},
    "L": {
        "channels": 160,
        "depths": [5, 5, 22, 5],
        "groups": [10, 20, 40, 80],
        "post_norm": True,
        "offset_scale": 2.0,
    },
    "XL": {
        "channels": 192,
        "depths": [5, 5, 24, 5],
        "groups": [12, 24, 48, 96],
        "post_norm": True,
        "offset_scale": 2.0,
    },
    "H": {
        "channels": 320,
        "depths": [6, 6, 32, 6],
        "groups": [10, 20, 40, 80],
        "layer_scale": 0.0,
        "depthwise_kernel": 5,
        "center_feature_scale": True,
        "res_post_norm": True,
        "post_norm_blocks": [5, 11, 17, 23, 29],
    },
    "G": {
        "channels": 512,
        "depths": [2, 2, 48, 4],
        "groups": [16, 32, 64, 128],
        "layer_scale": 0.0,
        "post_norm": True,
        "depthwise_kernel": 5,
        "center_feature_scale": True,
        "post_norm_blocks": [5, 11, 17, 23, 29, 35, 41, 47],
    },
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_settings_of_the_published_sizes(size):
    """From the weights alone, with the scale of the offsets, which they do not tell."""
    with torch.device("meta"):
        state = InternImage(**PUBLISHED[size]).state_dict()
    converted = convert_internimage(prefixed(state, "backbone.")).state
    settings = internimage_settings(converted, "backbone.")
    check_against_model(converted, settings, backbone="backbone.")
    defaults = {
        name.lower(): value for name, value in get_freqfusion_cfg().MODEL.INTERNIMAGE.items()
    }
    found = {
        name.removeprefix("MODEL.INTERNIMAGE.").lower(): value
        for name, value in settings.items()
        if name.startswith("MODEL.INTERNIMAGE.")
    }
    assert found == {name: (defaults | PUBLISHED[size])[name] for name in found}
    assert set(PUBLISHED[size]) | {"offset_scale"} <= set(found)


@pytest.mark.golden
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.id)
def test_settings_of_the_recorded_models(case):
    """Their names are the published ones; some have further norms where no published one has."""
    state = {name: value for name, value in case.group("param").items() if "post_norms" not in name}
    found = internimage_settings(convert_internimage(state).state, "backbone.")
    for theirs, ours in {
        "channels": "CHANNELS",
        "depths": "DEPTHS",
        "groups": "GROUPS",
        "post_norm": "POST_NORM",
        "res_post_norm": "RES_POST_NORM",
        "center_feature_scale": "CENTER_FEATURE_SCALE",
        "dw_kernel_size": "DEPTHWISE_KERNEL",
    }.items():
        if case.ctor.get(theirs) is not None:
            assert found[f"MODEL.INTERNIMAGE.{ours}"] == case.ctor[theirs]


def test_another_prefix(tmp_path, capsys):
    assert convert(weights(), tmp_path, "--prefix", "backbone.bottom_up") == 0
    found = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert all(name.startswith("backbone.bottom_up.") for name in found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("levels.2.post_norms.0.0.weight", torch.zeros(64), "1 further norms (post_norms) for 1"),
        ("clip_projector.norm.weight", torch.zeros(8), "no rule for 1 names: clip_projector.norm"),
        ("levels.0.blocks.0.dcn.gate", torch.zeros(1), "1 weights are left over for the mod"),
        ("levels.0.blocks.0.mlp.fc1.weight", None, "missing, which every InternImage has"),
        ("levels.2.blocks.0.dcn.offset.weight", None, "missing, which every InternImage has"),
        ("levels.1.blocks.1.norm1.0.bias", torch.zeros(3), "norm1.0.bias has (3,) in place of (3"),
        ("levels.3.blocks.0.gamma2", None, "1 weights are missing for the model"),
    ],
)
def test_what_is_refused(name, value, message, tmp_path, capsys):
    state = weights()
    state.pop(name, None)
    if value is not None:
        state[name] = value
    assert convert(state, tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()

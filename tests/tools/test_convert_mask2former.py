"""Mask2Former's checkpoints and its FreqFusion fork's: into our models and back, bit by bit."""

import pickle
import shlex

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from golden_data import cases, reference_keys
from mask2former_models import seeded_model, things_registered

from freqfusion import get_freqfusion_cfg
from freqfusion.modeling import SwinTransformer
from freqfusion.tools import convert_checkpoint
from freqfusion.tools._convert_mask2former import (
    convert_published,
    mask2former_settings,
    publish,
    windows,
)
from freqfusion.tools._convert_settings import check_against_model

PIXEL, QUERIES = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.query_feat."
BUFFERS = ("hamming_lowpass", "hamming_highpass", "init_pos")
INDEX = "relative_position_index"
WHOLE = cases("D", "MaskFormer (eval)")
FULL_SIZE = {
    name: entry["parameters"] | entry["buffers"]
    for name, entry in reference_keys().items()
    if "pixel_decoder" in entry
}


def whole_models():
    return pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)


def full_size(name):
    """A published checkpoint of full size with random values; class weights as published."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.empty(shape).uniform_(generator=generator)
        for key, shape in FULL_SIZE[name].items()
    }
    state["criterion.empty_weight"].fill_(1)[-1] = 0.1
    for key, value in state.items():
        if "hamming" in key:
            value.fill_(1)
    return state


def first_release(state):
    """The names that Mask2Former's first release had."""
    return {
        name.replace(PIXEL, "sem_seg_head.").replace(
            QUERIES, QUERIES.replace("query_feat", "static_query")
        ): value
        for name, value in state.items()
    }


def same(first, second):
    return set(first) == set(second) and all(
        torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype
        for name in first
    )


def model_of(settings, **keys):
    cfg = get_freqfusion_cfg()
    cfg.MODEL.DEVICE = "cpu"
    settings = settings | {name.replace("__", "."): value for name, value in keys.items()}
    cfg.merge_from_list([part for item in settings.items() for part in item])
    return build_model(cfg)


@pytest.mark.golden
@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_weight_of_full_size_has_its_place(name):
    published = full_size(name)
    state = first_release(published)
    result = convert_published(state)
    counts = [len(names) for part in (result.mapped, result.dropped) for names in part.values()]
    assert sum(counts) == len(state)
    dropped = [key for names in result.dropped.values() for key in names]
    assert all(key.endswith((*BUFFERS, INDEX)) for key in dropped)

    settings = mask2former_settings(result.state, windows(state))
    check_against_model(result.state, settings)
    with torch.device("meta"):
        model = model_of(settings, MODEL__DEVICE="meta")
    model.load_state_dict(result.state, strict=True, assign=True)
    ours = model.state_dict()
    del ours["criterion.empty_weight"]  # computed by the model
    assert same(ours, {key: result.state[key] for key in ours})
    kept = {key: value for key, value in published.items() if key in ours}
    assert all(ours[key] is not None and torch.equal(ours[key], kept[key]) for key in kept)

    back = publish(result.state).state
    # Random in this test.
    positions = {key for key in published if key.endswith(("init_pos", INDEX))}
    assert same(
        {key: value for key, value in back.items() if key not in positions},
        {key: value for key, value in published.items() if key not in positions},
    )
    assert all(back[key].shape == published[key].shape for key in positions)


def write_published(path, state):
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9}, path)
    return str(path)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("suffix", "names"), [(".pkl", first_release), (".pth", dict)], ids=["pkl", "pth"]
)
@whole_models()
def test_published_file_gives_the_published_results(case, suffix, names, tmp_path, capsys):
    """Converted, built from the printed keys, loaded by Detectron2: the reference's numbers."""
    published = case.group("param")
    source = write_published(tmp_path / f"in{suffix}", names(published))
    output = str(tmp_path / "out.pth")
    assert convert_checkpoint.main([source, output]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("names of mask2former")
    assert any("names and shapes are those of the model" in line for line in printed)
    (keys,) = (line.removeprefix("set: ") for line in printed if line.startswith("set: "))

    cfg = get_freqfusion_cfg()
    cfg.merge_from_list(shlex.split(keys))
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.INPUT.FORMAT == "RGB"
    cfg.MODEL.MASK2FORMER.SIZE_DIVISIBILITY = case.ctor["size_divisibility"]
    cfg.DATASETS.TRAIN = (things_registered(case.ctor["thing_contiguous_ids"]),)
    model = build_model(cfg).eval()
    left = DetectionCheckpointer(model).load(output)
    assert left["matching_heuristics"] is False
    size = {name: int(case.entry["inputs"][name]) for name in ("height", "width")}
    image = {"image": case.group("in")["image"], **size}
    with torch.no_grad():
        raw = model.sem_seg_head(model.backbone(model.preprocess([image]).tensor))
        (result,) = model([image])
    expected = case.group("out")
    for name in ("pred_logits", "pred_masks"):
        case.check(name, raw[name], expected[name])
    case.check("sem_seg", result["sem_seg"], expected["sem_seg"])


def variant(*, fusion=False, **keys):
    """Keys of a small model that published code could have."""
    return {
        "MODEL__FREQFUSION__ENABLED": fusion,
        "MODEL__FREQFUSION__HAMMING_WINDOW": False,
        **{f"MODEL__{name}": value for name, value in keys.items()},
    }


VARIANTS = {
    "original": variant(),
    "fork": variant(fusion=True),
    "no norm": variant(MASK2FORMER__NORM="", RESNETS__NORM="FrozenBN"),
    "other widths": variant(MASK2FORMER__HIDDEN_DIM=48, MASK2FORMER__MASK_DIM=16),
    "projection": variant(MASK2FORMER__ENFORCE_INPUT_PROJ=True),
    "two encoded maps": variant(
        MASK2FORMER__ENCODER_FEATURES=["res4", "res5"], fusion=True, MASK2FORMER__NHEADS=8
    ),
    "coarse masks": variant(MASK2FORMER__COMMON_STRIDE=8),
    "plain fusion": variant(
        fusion=True, FREQFUSION__FEATURE_RESAMPLE=False, FREQFUSION__USE_HIGH_PASS=False
    ),
    "two groups": variant(
        fusion=True,
        FREQFUSION__FEATURE_RESAMPLE_GROUP=2,
        FREQFUSION__COMPRESSED_CHANNELS=16,
        FREQFUSION__SAMPLER_FEATURES="sim",
    ),
}


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_models_of_ours_go_out_and_come_home(keys, tmp_path, capsys):
    model = seeded_model(**keys)
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "ours.pth")
    files = [str(tmp_path / name) for name in ("ours.pth", "out.pth", "home.pth")]
    code = convert_checkpoint.main([*files[:2], "--to", "mask2former"])
    assert (code, capsys.readouterr().err) == (0, "")
    assert convert_checkpoint.main(files[1:]) == 0
    home = torch.load(files[2], weights_only=True)["model"]
    assert same(home, model.state_dict())
    published = torch.load(files[1], weights_only=True)["model"]
    for part in ("sem_seg_head", "sem_seg_head.predictor"):
        assert published._metadata[part]["version"] >= 2
    fused = keys.get("MODEL__FREQFUSION__ENABLED", False)
    resampled = keys.get("MODEL__FREQFUSION__FEATURE_RESAMPLE", True)
    expected = (3 if resampled else 2) * 3 if fused else 0
    assert sum(name.endswith(BUFFERS) for name in published) == expected
    assert any("content_encoder." in name for name in published) == fused


SWIN = {
    "BACKBONE__NAME": "build_swin_backbone",
    "SWIN__EMBED_DIM": 8,
    "SWIN__DEPTHS": [1, 2, 1, 2],
    "SWIN__NUM_HEADS": [1, 2, 2, 4],
    "SWIN__WINDOW_SIZE": 3,
}
SWINS = {
    "original": variant(**SWIN),
    "fork": variant(fusion=True, **SWIN),
    "other widths": variant(
        **SWIN | {"SWIN__MLP_RATIO": 2.5, "SWIN__QKV_BIAS": False, "SWIN__PATCH_NORM": False}
    ),
    "three maps": variant(
        **SWIN | {"SWIN__OUT_FEATURES": ["res3", "res4", "res5"]},
        MASK2FORMER__IN_FEATURES=["res3", "res4", "res5"],
        MASK2FORMER__COMMON_STRIDE=8,
    ),
}


@pytest.mark.parametrize("keys", SWINS.values(), ids=SWINS)
def test_published_swins_come_in_and_go_out(keys, tmp_path, capsys):
    """The file of a Mask2Former has each window's index, which ours need not have."""
    state = seeded_model(**keys).state_dict()
    published = publish(state).state
    tables = [name for name in state if name.endswith("bias_table")]
    # 3 x 3 pixels; 5 x 5 displacements of -2..2.
    index = torch.tensor(
        [[5 * (a // 3 - b // 3 + 2) + a % 3 - b % 3 + 2 for b in range(9)] for a in range(9)]
    )
    added = {name for name in published if name.endswith(INDEX)}
    assert added == {name.replace("bias_table", "index") for name in tables}
    assert len(added) == 6
    assert all(torch.equal(published[name], index) for name in added)

    source = write_published(tmp_path / "in.pkl", first_release(published))
    ours, back = str(tmp_path / "ours.pth"), str(tmp_path / "back.pth")
    code = convert_checkpoint.main([source, ours])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert "dropped 6: places of pixels, which are recomputed" in printed.out
    assert same(torch.load(ours, weights_only=True)["model"], state)
    assert convert_checkpoint.main([ours, back, "--to", "mask2former"]) == 0
    assert same(torch.load(back, weights_only=True)["model"], published)

    (line,) = (part for part in printed.out.splitlines() if part.startswith("set: "))
    cfg = get_freqfusion_cfg()
    cfg.merge_from_list(shlex.split(line.removeprefix("set: ")))
    wanted = {"MODEL.BACKBONE.NAME": cfg.MODEL.BACKBONE.NAME, "INPUT.FORMAT": cfg.INPUT.FORMAT}
    assert wanted == {"MODEL.BACKBONE.NAME": "build_swin_backbone", "INPUT.FORMAT": "RGB"}
    swin = {name: value for name, value in keys.items() if "SWIN__" in name}
    assert {name: cfg.MODEL.SWIN[name.removeprefix("MODEL__SWIN__")] for name in swin} == swin


def swin_classifier(timms):
    """A Swin with the names of its original release, or of timm, and our backbone's weights."""
    torch.manual_seed(0)
    backbone = SwinTransformer(embed_dim=8, depths=(1, 2, 1, 2), num_heads=(1, 2, 2, 4))
    weights = {
        name: torch.randn_like(value)
        for name, value in backbone.state_dict().items()
        if not name.startswith("norm")
    }
    state = {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    for name, value in weights.items():
        if timms and "downsample" in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage + 1}.")
        state[name] = value
        if name.endswith("bias_table") and not timms:
            state[name.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    head = "head.fc." if timms else "head."
    state |= {f"{head}weight": torch.zeros(7, 64), f"{head}bias": torch.zeros(7)}
    if not timms:
        state["layers.1.blocks.1.attn_mask"] = torch.zeros(1, 49, 49)
    return weights, state


@pytest.mark.parametrize("timms", [False, True], ids=["release", "timm"])
def test_swins_of_imagenet(timms, tmp_path, capsys):
    weights, state = swin_classifier(timms)
    torch.save(state if timms else {"model": state, "epoch": 3}, tmp_path / "in.pth")
    files = [str(tmp_path / name) for name in ("in.pth", "out.pth")]
    code = convert_checkpoint.main(files)
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    expected = {
        "mapped 9: steps between stages",
        "dropped 2: last norm; here each stage has its own (norm.weight, norm.bias)",
        # 4 of the patches, 13 of each of 6 blocks, 3 of each of 3 steps.
        "all 91 names and shapes are those of the model",
    }
    assert expected <= set(printed.out.splitlines())
    assert ("dropped 1: masks of moved windows" in printed.out) is not timms
    found = torch.load(files[1], weights_only=True)["model"]
    assert same(found, {f"backbone.{name}": value for name, value in weights.items()})

    (line,) = (part for part in printed.out.splitlines() if part.startswith("set: "))
    cfg = get_freqfusion_cfg()
    cfg.merge_from_list(shlex.split(line.removeprefix("set: ")))
    model = build_backbone(cfg)
    report = model.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in found.items()}, strict=False
    )
    assert report.unexpected_keys == []
    assert sorted(report.missing_keys) == sorted(
        f"norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")
    )


def test_weights_of_timm_give_timms_numbers(tmp_path, capsys):
    """A classifier of timm, converted: its last map before its last norm is ours before ours."""
    timm = pytest.importorskip("timm", reason="needs the extra 'timm'")
    torch.manual_seed(0)
    sizes = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", always_partition=True, **sizes)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    files = [str(tmp_path / name) for name in ("in.pth", "out.pth")]
    assert convert_checkpoint.main([*files, "--prefix", ""]) == 0
    capsys.readouterr()
    ours = SwinTransformer(**sizes).eval()
    ours.load_state_dict(torch.load(files[1], weights_only=True)["model"], strict=False)
    ours.norm3.load_state_dict(theirs.norm.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.eval().forward_features(image).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours(image)["res5"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.0.blocks.0.attn.gate", torch.zeros(1), "1 weights are left over for the model"),
        ("absolute_pos_embed", torch.zeros(1), "no rule for 1 names: absolute_pos_embed"),
        ("layers.1.blocks.1.norm1.bias", torch.zeros(3), "norm1.bias has (3,) in place of (16,)"),
        ("layers.2.blocks.0.attn.relative_position_bias_table", None, "is missing, which every Sw"),
        (
            "layers.0.blocks.0.attn.relative_position_bias_table",
            torch.zeros(168, 1),
            "has 168",
        ),
        ("layers.3.blocks.0.attn.relative_position_bias_table", torch.zeros(169, 3), "3 heads for"),
    ],
)
def test_swins_that_are_refused(name, value, message, tmp_path, capsys):
    _, state = swin_classifier(False)
    state.pop(name, None)
    if value is not None:
        state[name] = value
    torch.save({"model": state}, tmp_path / "in.pth")
    assert convert_checkpoint.main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_other_fusions_have_no_published_form(tmp_path, capsys):
    model = seeded_model(MODEL__FREQFUSION__ENABLED=True, MODEL__FREQFUSION__FUSE_TYPE="dysample")
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    files = [str(tmp_path / "ours.pth"), str(tmp_path / "out.pth")]
    assert convert_checkpoint.main([*files, "--to", "mask2former"]) == 2
    assert "only FreqFusion has a form in published code" in capsys.readouterr().err


def test_a_checkpoint_of_ours_needs_no_conversion():
    with pytest.raises(ValueError, match="have the names of this project already"):
        convert_published(seeded_model(**VARIANTS["fork"]).state_dict())


ENCODER = f"{PIXEL}transformer.encoder.layers.1."


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (f"{PIXEL}pyramid.weight", torch.zeros(1), "1 weights are left over for the model"),
        ("sem_seg_head.pyramid.weight", torch.zeros(1), "1 weights are left over for the model"),
        ("teacher.weight", torch.zeros(1), "no rule for 1 names: teacher.weight"),
        (f"{ENCODER}norm1.weight", None, "1 weights are missing for the model"),
        (f"{ENCODER}norm1.bias", torch.zeros(3), "norm1.bias has (3,) in place of ("),
        (f"{QUERIES}weight", None, "query_feat.weight is missing, which every Mask2Former has"),
        ("backbone.res4.7.conv2.weight", torch.zeros(3), "the backbone has (3, 4, 8, 3)"),
        (QUERIES.replace("query_feat", "static_query") + "weight", torch.zeros(1), "become one"),
        ("sem_seg_head.mask_features.bias", torch.zeros(1), "several entries would become one"),
        ("backbone.patch_embed.proj.weight", torch.zeros(1), "1 weights are left over for the mod"),
    ],
)
def test_what_does_not_fit_is_refused(name, value, message, tmp_path, capsys):
    (case, *_) = (case for case in WHOLE if case.ctor["backbone"]["depth"] == 50)
    state = dict(case.group("param"))
    assert value is not None or name in state
    state.pop(name, None)
    if value is not None:
        state[name] = value
    source = write_published(tmp_path / "in.pth", state)
    assert convert_checkpoint.main([source, str(tmp_path / "out.pth")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_without_detectron2_the_file_is_written_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert_checkpoint.importlib.util, "find_spec", lambda name: None)
    source = write_published(tmp_path / "in.pth", seeded_model(**VARIANTS["original"]).state_dict())
    assert convert_checkpoint.main([source, str(tmp_path / "out.pth")]) == 0
    assert "detectron2 is not installed" in capsys.readouterr().out

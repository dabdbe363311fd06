"""The analyze tool: every family of models, its table and file, parameters by formula, messages."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from freqfusion.tools import analyze
from freqfusion.tools.analyze import render

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SEMANTIC = str(CONFIGS / "synthetic/semantic-segmentation/freqfusion_semantic_fpn_r18.yaml")
CPU = ["MODEL.DEVICE", "cpu"]
DETECTORS = {"panoptic"}
FEW_PROPOSALS = [
    "MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
]  # fmt: skip
INTERNIMAGE = [
    "MODEL.BACKBONE.NAME", "build_internimage_backbone",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2', 'res3', 'res4', 'res5')",
    "MODEL.INTERNIMAGE.CHANNELS", "16", "MODEL.INTERNIMAGE.DEPTHS", "(1, 1, 1, 1)",
    "MODEL.INTERNIMAGE.GROUPS", "(1, 2, 4, 8)", "MODEL.FREQFUSION.ENABLED", "False",
]  # fmt: skip
FAMILIES = {
    "semantic": ("synthetic/semantic-segmentation/freqfusion_semantic_fpn_r18", []),
    "panoptic": ("synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18", FEW_PROPOSALS),
    "mask2former": ("synthetic/panoptic-segmentation/freqfusion_mask2former_r18", []),
    "sfm": ("synthetic/semantic-segmentation/sfm_semantic_fpn_r18", []),
    "timm": (
        "cityscapes/semantic-segmentation/freqfusion_concat_convnext_t",
        ["MODEL.TIMM.NAME", "convnext_atto", "MODEL.FREQFUSION.FEATURE_RESAMPLE_NORM", "False"],
    ),
    "internimage": ("synthetic/semantic-segmentation/semantic_fpn_r18", INTERNIMAGE),
}
# Operators that a family must have been seen to use.
CHARACTERISTIC = {
    "semantic": {"freqfusion::gather", "freqfusion::correlate", "freqfusion::sample_at_offsets"},
    "panoptic": {"freqfusion::gather", "torchvision::roi_align"},
    "mask2former": {"freqfusion::deformable_attention", "freqfusion::gather", "aten::bmm"},
    "sfm": {"aten::grid_sampler_2d"},
    "timm": {"aten::convolution", "freqfusion::gather"},
    "internimage": {"freqfusion::deformable_attention"},
}


def measured(tmp_path, *arguments):
    file = tmp_path / "deep" / "analysis.json"
    assert analyze.main([*arguments, "--output", str(file)]) == 0
    return json.loads(file.read_text())


@pytest.mark.detectron2
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path, capsys):
    config, opts = FAMILIES[family]
    given = ["--config-file", str(CONFIGS / f"{config}.yaml"), "--size", "50x64", "--runs", "0"]
    result = measured(tmp_path, *given, *CPU, *opts)
    parts = {part["name"]: part for part in result["modules"]}
    model = parts[""]
    assert result["operators"]["unknown"] == {}
    assert CHARACTERISTIC[family] <= set(result["operators"]["by_operator"])
    assert sum(result["operators"]["by_operator"].values()) == model["flops"]
    assert model["trainable"] > 1e5
    assert model["saved_bytes"] > 0, result["notes"]
    assert parts["backbone"]["flops"] > 0
    # Parts never exceed the whole, and the parts of the model make up all of what it learns.
    children = [part for name, part in parts.items() if name and "." not in name]
    for key in ("flops", "saved_bytes"):
        assert sum(part[key] for part in children) <= model[key]
    assert sum(part["trainable"] for part in children) == model["trainable"]
    assert result["padded_size"][0] >= 50
    assert any("proposals" in note for note in result["notes"]) == (family in DETECTORS)
    assert "Unknown" not in capsys.readouterr().out


@pytest.mark.detectron2
def test_table_file_and_weights(tmp_path, capsys):
    """Weights are loaded; an image of 50x70 is padded to 64x96; times are there."""
    from freqfusion.predictor import load_model

    overrides = [*CPU, "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    cfg, model = load_model(SEMANTIC, "", overrides)
    assert not cfg.MODEL.WEIGHTS
    weights = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, weights)
    torch.manual_seed(7)
    same = load_model(SEMANTIC, str(weights), overrides)[1].state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in model.state_dict().items())
    capsys.readouterr()
    result = measured(
        tmp_path, "--config-file", SEMANTIC, "--weights", str(weights), "--size", "50x70",
        "--depth", "1", "--runs", "2", *overrides,
    )  # fmt: skip
    assert result["modules"][0]["trainable"] == sum(p.numel() for p in model.parameters())
    assert (result["size"], result["padded_size"]) == ([50, 70], [64, 96])
    assert (result["device"], result["runs"]) == ("cpu", 2)
    assert result["threads"] == torch.get_num_threads()
    times = result["milliseconds"]
    assert 0 < times["fastest"] <= times["median"] <= times["slowest"]
    text = capsys.readouterr().out
    assert f"{SEMANTIC}, {weights}" in text
    assert "50x70, padded to 64x96, float32, CPU, " in text
    lines = text.splitlines()
    tree = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    assert [line.split()[0] for line in tree] == [
        "module", "SemanticSegmentor", "backbone", "sem_seg_head",
    ]  # fmt: skip
    assert len({len(line) for line in tree}) == 1, "columns are aligned"
    assert "a multiply-add counts once" in text
    assert "Not counted: " in text


@pytest.mark.detectron2
def test_parameters_of_a_resnet50_pyramid():
    """By formula, without counting any module.

    ResNet-50: a stem of 3 * 64 * 49; a block of width w, 4w out and c in has c w + 9 w w + 4 w w,
    the first of a stage 4 w c more for its shortcut. FPN of 256: 1x1 from each stage and 3x3, with
    biases. Batch normalization is frozen: buffers. FREEZE_AT 2 freezes stem and first stage.
    """
    from detectron2.modeling import build_backbone

    from freqfusion.analysis import count_parameters
    from freqfusion.predictor import read_config

    stages, into = [], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        first = into * width + 13 * width**2 + 4 * width * into
        stages.append(first + (blocks - 1) * (4 * width * width + 13 * width**2))
        into = 4 * width
    stem = 3 * 64 * 49
    assert stem + sum(stages) == 23_454_912  # torchvision's 25,557,032 without norms and classifier
    pyramid = 256 * (256 + 512 + 1024 + 2048 + 4) + 4 * (9 * 256 * 256 + 256)
    cfg = read_config(str(CONFIGS / "coco/detection/faster_rcnn_r50_1x.yaml"), "", CPU)
    counted = count_parameters(build_backbone(cfg))[""]
    assert counted.frozen == stem + stages[0]
    assert counted.trainable == sum(stages[1:]) + pyramid


def test_numbers_have_units_and_gaps_are_named():
    text = render(example(), 1)
    row = next(line for line in text.splitlines() if line.startswith("  part"))
    cells = [cell.strip() for cell in row.strip().split("  ") if cell.strip()]
    assert cells == ["part", "1.50 k", "2", "25.00 G", "50.0%", "3.0 KiB"]
    assert "inference 120 ms, median of 2 runs (110 to 130)" in text
    assert "idle" not in text, "a part without numbers fills no line"
    assert "deeper" not in text
    result = example()
    result["modules"][0]["saved_bytes"] = None
    result["notes"] = ["memory of training was not measured: too small"]
    result["operators"]["unknown"] = {"mine::secret": 3}
    text = render(result, 1)
    assert "kept for backward -" in text
    assert "Note: memory of training was not measured: too small." in text
    assert "Unknown, so their work is missing here: mine::secret (3 calls)." in text


def part(name, **numbers):
    nothing = {"trainable": 0, "frozen": 0, "buffers": 0, "flops": 0, "saved_bytes": 0}
    return {"name": name, "class": "Model"} | nothing | numbers


def example():
    whole = part("", trainable=3000, flops=50 * 10**9, saved_bytes=5 << 20)
    small = part("part", trainable=1000, frozen=500, buffers=2, flops=25 * 10**9, saved_bytes=3072)
    groups = ("by_operator", "uncounted", "unknown")
    return {
        "config": "c.yaml", "weights": "", "size": [8, 8], "padded_size": [8, 8], "device": "cpu",
        "threads": 1, "dtype": "float32", "runs": 2, "flops_convention": "once", "notes": [],
        "milliseconds": {"median": 120.0, "fastest": 110.0, "slowest": 130.0},
        "operators": {group: {} for group in groups},
        "modules": [whole, small, part("idle"), part("part.deeper", flops=1)],
    }  # fmt: skip


@pytest.mark.detectron2
def test_training_that_fails_leaves_the_rest():
    """A model that learns nothing from one image: its other numbers are there, and a note."""
    from freqfusion import get_freqfusion_cfg
    from freqfusion.tools.analyze import analyze as measure

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, inputs):
            if self.training:
                raise ValueError("one image is too few")
            return self.layer(torch.zeros(1, 4))

    result = measure(get_freqfusion_cfg(), Model(), (8, 8), 0)
    assert result["modules"][0]["flops"] == 8
    assert result["modules"][0]["saved_bytes"] is None
    assert result["modules"][1]["saved_bytes"] is None
    assert result["notes"] == ["memory of training was not measured: one image is too few"]
    assert "kept for backward -" in render({"config": "", "weights": ""} | result, 1)

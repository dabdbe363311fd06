"""The exporter: files that agree with their models at several sizes, the example, messages.

The whole command runs on one small model in the default suite, which takes a quarter of
a minute; the other kinds of models are slow tests.
"""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqfusion.tools import export

pytest.importorskip("detectron2")
onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")

from mask2former_models import small_cfg  # noqa: E402
from segnext_models import segnext_cfg  # noqa: E402
from sfm_models import built, plain_cfg, semantic_cfg, sfm_cfg, shake_attention  # noqa: E402
from toy_configs import change, resnet18_cfg  # noqa: E402

from freqfusion.model_zoo import get_config  # noqa: E402
from freqfusion.tools._onnx import (  # noqa: E402
    ExportedPart,
    Output,
    SemanticPart,
    _explicit_padding,
    foreign_domains,
    part_of,
    to_onnx,
)
from freqfusion.tools.export import compare, sizes_around  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "infer_onnx.py"
SEMANTIC = {
    "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 64,
    "MODEL__FREQFUSION__LOWPASS_KERNEL": 3,
}
FUSED = {"MODEL__FREQFUSION__ENABLED": True, "MODEL__FREQFUSION__LOWPASS_KERNEL": 3}
TWO_MAPS_OF_RETINANET = {
    "MODEL__FPN__IN_FEATURES": ["res4", "res5"],
    "MODEL__RETINANET__IN_FEATURES": ["p4", "p5", "p6", "p7"],
    "MODEL__ANCHOR_GENERATOR__SIZES": [[32], [64], [128], [256]],
}
CONCATENATION = {
    "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "FreqFusionSemSegHead",
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
# An odd one, one block of 32 pixels, and one of a long side.
SIZES = [(64, 96), (57, 83), (31, 21), (40, 170)]


def semantic_model_cfg():
    """The smallest model with FreqFusion: two maps, one hop; the sampler is in slow tests."""
    maps = {"MODEL__FPN__IN_FEATURES": ["res4", "res5"], "MODEL__FPN__OUT_CHANNELS": 32}
    maps["MODEL__FREQFUSION__FEATURE_RESAMPLE"] = False
    heads = {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p4", "p5"], "INPUT__MIN_SIZE_TEST": 48}
    return change(resnet18_cfg(), SEMANTIC | maps | heads | {"INPUT__MAX_SIZE_TEST": 64})


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """Configuration and random weights of a model as a user has them."""
    folder = tmp_path_factory.mktemp("model")
    cfg = semantic_model_cfg()
    torch.save({"model": built(cfg).state_dict()}, folder / "weights.pth")
    (folder / "model.yaml").write_text(cfg.dump(), encoding="utf-8")
    return ["--config-file", str(folder / "model.yaml"), "--weights", str(folder / "weights.pth")]


@pytest.fixture(scope="module")
def exported(model_files, tmp_path_factory):
    """What the command returned, and the file that it wrote, for images of any size."""
    file = tmp_path_factory.mktemp("exported") / "new" / "model.onnx"
    options = ["--output", str(file), "--size", "64x96", "--dynamic"]
    return export.main([*model_files, *options]), file


@pytest.fixture(scope="module")
def fixed(model_files, tmp_path_factory):
    """A file for one size, smaller than a block of 32 pixels on one side."""
    file = tmp_path_factory.mktemp("fixed") / "model.onnx"
    assert export.main([*model_files, "--output", str(file), "--size", "40x21"]) == 0
    return file


def test_the_command_writes_a_file_that_agrees(exported, model_files):
    """Against Detectron2's own inference too, whose preparation and cropping it must repeat."""
    code, file = exported
    assert code == 0
    model = onnx.load(file)
    assert not foreign_domains(model)
    assert {entry.domain for entry in model.opset_import} == {""}
    dims = [
        dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert dims == ["batch", 3, "height", "width"]
    cfg = semantic_model_cfg()
    detectron2_model = built(cfg).eval()
    session = onnxruntime.InferenceSession(file)
    generator = torch.Generator().manual_seed(1)
    for size in SIZES:
        image = 255 * torch.rand(3, *size, generator=generator)
        with torch.no_grad():
            expected = detectron2_model([{"image": image}])[0]["sem_seg"]
        (found,) = session.run(None, {"image": image.numpy()[None]})
        assert found.shape == (1, 5, *size)
        torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=1e-3, rtol=0)


def test_a_file_for_one_size(fixed):
    model = onnx.load(fixed)
    assert not foreign_domains(model)
    for value, expected in (
        (model.graph.input[0], [1, 3, 40, 21]),
        (model.graph.output[0], [1, 5, 40, 21]),
    ):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == expected
    assert "Shape" not in {node.op_type for node in model.graph.node}
    image = 255 * torch.rand(3, 40, 21, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = built(semantic_model_cfg()).eval()([{"image": image}])[0]["sem_seg"]
    (found,) = onnxruntime.InferenceSession(fixed).run(None, {"image": image.numpy()[None]})
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=1e-3, rtol=0)


def test_stages_and_times_are_printed(exported, model_files, tmp_path, capsys, monkeypatch):
    ready = onnx.load(exported[1])
    monkeypatch.setattr("freqfusion.tools._onnx.to_onnx", lambda *_: ready)
    options = ["--output", str(tmp_path / "x.onnx"), "--size", "32x48"]
    assert export.main([*model_files, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"build the model +\d+\.\d s", lines[0])
    assert re.fullmatch(r"compare it with the model +\d+\.\d s", lines[-2])
    assert re.fullmatch(
        r" *32 x 48 +largest difference \S+ \(sem_seg\); onnxruntime \d+ ms, torch \d+ ms",
        lines[-1],
    )


def test_the_example_fits_images_into_a_fixed_size(fixed, tmp_path):
    """A square of 30 becomes 21 x 21; the rows below it are of the mean color, hence zeros."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    example = runpy.run_path(str(EXAMPLE))
    session, notes = example["load"](fixed)
    image = Image.fromarray(pixels)
    planes, size = example["model_input"](session, notes, image)
    assert planes.shape == (1, 3, 40, 21)
    assert size == (21, 21)
    resized = np.asarray(image.resize((21, 21), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(planes[0, :, :21], resized[..., ::-1].transpose(2, 0, 1))
    mean = semantic_model_cfg().MODEL.PIXEL_MEAN
    np.testing.assert_allclose(
        planes[0, :, 21:], np.broadcast_to(np.reshape(mean, (3, 1, 1)), (3, 19, 21)), rtol=1e-6
    )
    assert example["segment"](session, notes, image).shape == (30, 30)


def test_images_of_a_batch_do_not_know_each_other(exported):
    session = onnxruntime.InferenceSession(exported[1])
    images = 255 * np.random.default_rng(0).random((3, 3, 50, 70), dtype=np.float32)
    (together,) = session.run(None, {"image": images})
    alone = [session.run(None, {"image": images[i : i + 1]})[0][0] for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)


def test_the_file_says_what_it_needs(exported):
    notes = onnxruntime.InferenceSession(exported[1]).get_modelmeta().custom_metadata_map
    assert notes["task"] == "semantic"
    assert notes["input_format"] == "BGR"
    assert json.loads(notes["resize"]) == [48, 64]
    assert len(json.loads(notes["classes"])) == len(json.loads(notes["colors"])) >= 5


def test_the_example_needs_neither_torch_nor_freqfusion(exported, tmp_path):
    """It resizes as Detectron2 does, swaps the channels, and colors the classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    arguments = [str(exported[1]), str(tmp_path / "image.png"), str(tmp_path / "out.png")]
    code = f"""
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "freqfusion", "detectron2", "cv2", "onnx"):
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Block())
sys.argv = ["infer_onnx.py", *{arguments!r}, "--blend", "1"]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    assert answer.returncode == 0, answer.stderr
    session = onnxruntime.InferenceSession(exported[1])
    # 60 x 100: the longer side limits, so 38 x 64.
    resized = np.asarray(Image.fromarray(pixels).resize((64, 38), Image.Resampling.BILINEAR))
    planes = resized[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    labels = session.run(None, {"image": planes})[0][0].argmax(0).astype(np.int32)
    labels = np.asarray(Image.fromarray(labels).resize((100, 60), Image.Resampling.NEAREST))
    colors = np.array(json.loads(session.get_modelmeta().custom_metadata_map["colors"]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), colors[labels])
    assert answer.stdout.count("%") == len(np.unique(labels))


def test_a_file_that_differs_is_an_exit_code(exported, model_files, tmp_path, capsys, monkeypatch):
    """The model is given other weights after the file was written."""
    part = part_of(built(semantic_model_cfg()).eval()).eval()
    assert [one.size for one in compare(part, exported[1], sizes_around((64, 96)))] == [
        (64, 96), (49, 49), (81, 96),
    ]  # fmt: skip
    ready = onnx.load(exported[1])
    monkeypatch.setattr("freqfusion.tools._onnx.to_onnx", lambda *_: ready)
    monkeypatch.setattr(export, "build_model", lambda cfg: built(cfg, seed=5).eval())
    file = tmp_path / "other.onnx"
    assert export.main([*model_files, "--output", str(file), "--size", "64x96", "--dynamic"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("largest difference") == 3
    assert "differs from the model by" in captured.err
    assert "tolerance of 0.001" in captured.err


def test_not_a_number_differs(exported):
    part = part_of(built(semantic_model_cfg()).eval()).eval()
    with torch.no_grad():
        next(iter(part.parameters())).fill_(float("nan"))
    (found,) = compare(part, exported[1], [(64, 96)])
    assert np.isnan(found.value)


FAMILIES = {
    "semantic": lambda: change(resnet18_cfg(), SEMANTIC),
    "panoptic": lambda: change(plain_cfg("PanopticFPN"), FUSED),
    "proposals": lambda: change(plain_cfg("GeneralizedRCNN"), FUSED),
    "retinanet": lambda: change(plain_cfg("RetinaNet"), FUSED | TWO_MAPS_OF_RETINANET),
    "mask2former": lambda: small_cfg(**FUSED),
    "concatenation": lambda: change(resnet18_cfg(), SEMANTIC | CONCATENATION),
    "segnext": lambda: segnext_cfg(**FUSED),
    "sfm at the exit": lambda: sfm_cfg("SemanticSegmentor"),
    "sfm with Mask2Former": lambda: sfm_cfg("Mask2Former"),
    "sfm with FCN": lambda: semantic_cfg("FCNHead", ["res5"]),
    "timm with the padding of TensorFlow": lambda: get_config(
        "camvid/semantic-segmentation/freqfusion_semantic_fpn_lite0"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_agrees(family, is_dynamic, tmp_path):
    part = part_of(shake_attention(built(FAMILIES[family]())).eval()).eval()
    exported = to_onnx(part, 18, {}, None if is_dynamic else SIZES[2])
    assert not foreign_domains(exported)
    file = tmp_path / "model.onnx"
    onnx.save(exported, file)
    for one in compare(part, file, SIZES if is_dynamic else SIZES[2:3]):
        assert one.value < 1e-3, (one.size, one.output)


class Convolutions(torch.nn.Module):
    """Three strided convolutions as TensorFlow pads them; the last has maps of odd sides."""

    def __init__(self):
        super().__init__()
        same = pytest.importorskip("timm.layers").Conv2dSame
        self.layers = torch.nn.Sequential(
            same(3, 4, 3, stride=2),
            same(4, 4, (5, 2), stride=(2, 1), dilation=(1, 3)),
            same(4, 4, 4, stride=2),
        )
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))


class ConvolutionPart(ExportedPart):
    def compute(self, images):
        return (self.model.layers(images),)


def test_padding_that_sizes_decide_becomes_constant():
    """On blocks of 4 pixels; on 12 x 16 the maps have sides of 6 x 8, then 3 x 8, then 2 x 4."""
    part = ConvolutionPart(Convolutions(), "test", 4, [Output("y")])
    given = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    blocks = given.unflatten(3, (4, 4)).unflatten(2, (3, 4))
    expected = part.compute(given)[0]
    with _explicit_padding(part, blocks):
        replaced = ["forward" in vars(layer) for layer in part.model.layers]
        torch.testing.assert_close(part.compute(given)[0], expected, atol=0, rtol=0)
    assert replaced == [True, True, False]
    assert not any("forward" in vars(layer) for layer in part.model.layers)


@pytest.mark.slow
def test_semantic_scores_of_queries_are_those_of_mask2former():
    model = built(small_cfg(MODEL__FREQFUSION__ENABLED=False)).eval()
    image = 255 * torch.rand(3, 57, 83, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model([{"image": image}])[0]["sem_seg"]
    found = part_of(model).reference(image[None])
    torch.testing.assert_close(found[2][0], expected, atol=1e-5, rtol=1e-5)
    assert found[1].shape[-2:] == (16, 24)


def test_missing_packages_are_named(model_files, tmp_path, capsys, monkeypatch):
    output = ["--output", str(tmp_path / "x.onnx")]
    monkeypatch.setattr(export, "PACKAGES", ("onnx", "absent_package"))
    assert export.main([*model_files, *output]) == 2
    assert "pip install 'freqfusion[onnx]'" in capsys.readouterr().err


def test_models_without_such_a_part():
    model = built(semantic_model_cfg())
    assert isinstance(part_of(model), SemanticPart)
    model.backbone._square_pad = 64
    with pytest.raises(ValueError, match="square"):
        part_of(model)
    other = torch.nn.Sequential()
    other.backbone = None
    with pytest.raises(ValueError, match="gave Sequential"):
        part_of(other)

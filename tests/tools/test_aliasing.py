"""The aliasing tool: models with and without modulation, attention that is known, and messages."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqfusion.predictor import load_model
from freqfusion.tools import aliasing

pytestmark = pytest.mark.detectron2

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/synthetic/semantic-segmentation"
SFM, BASELINE = str(CONFIGS / "sfm_semantic_fpn_r18.yaml"), str(CONFIGS / "semantic_fpn_r18.yaml")
DATASET = "synthetic_panoptic_val_separated"
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "80", "MODEL.DEVICE", "cpu"]
STEPS = [("res2", "res3"), ("res3", "res4"), ("res4", "res5")]


@pytest.fixture(scope="module")
def weights(weights_of, tmp_path_factory):
    """A modulated model whose attention says something at random, and the same without."""
    import torch
    from sfm_models import shake_attention

    path = tmp_path_factory.mktemp("weights") / "shaken.pth"
    model = load_model(SFM, weights_of[SFM], ["MODEL.DEVICE", "cpu"])[1]
    torch.save({"model": shake_attention(model).state_dict()}, path)
    return {"shaken": str(path), "even": weights_of[SFM], "plain": weights_of[BASELINE]}


@pytest.fixture
def noise(tmp_path):
    """An image that is detail all over, of a size that the model pads."""
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def run(config, weights, *arguments):
    return aliasing.main(["--config-file", config, "--weights", weights, *arguments])


def read_json(folder):
    return json.loads((folder / "aliasing.json").read_text(encoding="utf-8"))


def test_data_set(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--dataset", DATASET, "--output", str(out), "--figures", "2", *SMALL]
    assert run(SFM, weights["shaken"], *arguments) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].startswith("res2 → res3  16x20")
    assert all(head in text for head in ("plain", "mod / control", "attention-edges", "rolls", "±"))
    assert "images: 3; " in text
    found = read_json(out)
    assert found["images"] == 3
    assert [(stage["feature"], stage["becomes"]) for stage in found["stages"]] == STEPS
    assert [stage["sizes"] for stage in found["stages"]] == [[[16, 20]], [[8, 10]], [[4, 5]]]
    for stage in found["stages"]:
        assert stage["is_modulated"]
        assert stage["f_nyquist"] == 0.25
        assert 0.01 < stage["largest_displacement"] <= 5
        assert -1 <= stage["attention_edge_correlation"]["mean"] <= 1
        assert stage["attention_edge_correlation"]["images"] == 3
        for version in ("plain", "modulated", "control"):
            assert 0 < stage[version]["mean"] < 1
            assert stage[version]["images"] == 3
            assert len(stage["spectrum"][version]) == len(stage["spectrum"]["frequencies"])
        assert stage["plain"]["mean"] != stage["modulated"]["mean"] != stage["control"]["mean"]
    pictures = sorted(path.name.split("_")[-1] for path in out.glob("*.png"))
    assert pictures == ["attention.png"] * 2 + ["lattice.png"] * 2 + ["spectra.png"]
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 5


def test_baseline_has_the_same_places(noise, weights, tmp_path, capsys):
    """Even attention leaves the maps as they are, so both models have the same ratios."""
    outs = tmp_path / "baseline", tmp_path / "modulated"
    assert run(BASELINE, weights["plain"], "--input", noise, "--output", str(outs[0])) == 0
    text = capsys.readouterr().out
    assert "does not modulate" in text
    assert "control" not in text
    assert run(SFM, weights["plain"], "--input", noise, "--output", str(outs[1])) == 0
    assert [path.name for path in outs[0].glob("*.png")] == ["spectra.png"]
    text = " ".join(capsys.readouterr().out.split())
    assert "moves no sample: it is untrained" in text
    assert "attention-edges" not in text
    for bare, modulated in zip(*(read_json(out)["stages"] for out in outs), strict=True):
        assert (bare["feature"], bare["module"]) == (modulated["feature"], modulated["module"])
        assert not bare["is_modulated"]
        assert bare["plain"]["mean"] == pytest.approx(modulated["plain"]["mean"], rel=1e-3)
        assert list(bare["spectrum"]) == ["frequencies", "plain"]


def test_nothing_stays_on_the_model(weights):
    import torch

    from freqfusion.tools._aliasing import find_downsampling, record_downsampling

    model = load_model(SFM, weights["even"], ["MODEL.DEVICE", "cpu"])[1]
    places = find_downsampling(model)
    image = {"image": torch.rand(3, 64, 96) * 255, "height": 64, "width": 96}
    hooks = [len(step.module._forward_pre_hooks) for step in places.steps]
    with record_downsampling(model, places) as seen, torch.no_grad():
        expected = model([image])[0]["sem_seg"]
    assert [len(step.module._forward_pre_hooks) for step in places.steps] == hooks
    assert not model._forward_pre_hooks
    assert (seen.size, seen.covered) == ((64, 96), (64, 96))
    assert list(seen.maps) == list(seen.own) == ["res2", "res3", "res4"]
    assert [len(seen.stacks[name]) for name in seen.own] == [0, 1, 2]
    with torch.no_grad():
        assert torch.equal(model([image])[0]["sem_seg"], expected)


def test_known_attention_is_measured(data, weights):
    """Attention made of the label edges themselves: its correlation with them is one.

    Images of 64 x 80 are padded to 64 x 96, where the attention says something else.
    """
    from torch import nn

    from freqfusion.layers.sfm import aliasing_ratio, warp_edge_target
    from freqfusion.predictor import Predictor, read_config
    from freqfusion.tools._images import from_dataset
    from freqfusion.tools.aliasing import AliasingMeter, edges_of

    class Taught(nn.Module):
        """Logits whose softmax is affine in the target, but in the padding."""

        def __init__(self, target):
            super().__init__()
            self.logits = (1 + 3 * target).log()
            self.logits[..., -(target.shape[-1] // 6) :] = 1.3

        def forward(self, features):
            assert features.shape[-2:] == self.logits.shape[-2:]
            return self.logits

    cfg = read_config(SFM, weights["even"], SMALL)
    predictor = Predictor(cfg)
    (source,), _ = from_dataset(DATASET, 1)
    first = AliasingMeter(cfg, predictor)
    edges, ignored = edges_of(first._ground_truth(source), (64, 96), 255)
    assert edges.shape == ignored.shape == (1, 1, 64, 96)
    assert ignored[..., 80:].all(), "padding"
    assert 0.02 < edges.mean() < 0.9

    def measured():
        meter = AliasingMeter(cfg, predictor)
        return meter, meter(source)[1]

    heads = first.places.modulated.sfm
    heads["res2"].attention = Taught(warp_edge_target(edges, (16, 24)))
    meter, seen = measured()
    assert (seen.size, seen.covered) == ((64, 80), (64, 96))
    assert meter.stages["res2"].values["attention_edge_correlation"].mean.item() == pytest.approx(
        1, abs=1e-4
    )
    assert meter.stages["res3"].values["attention_edge_correlation"].mean.isnan(), (
        "even attention has none"
    )
    assert not meter.is_still
    assert seen.maps["res2"].shape[-2:] == (16, 24)
    assert meter.stages["res2"].sizes == {(16, 20)}
    shown = aliasing_ratio(seen.maps["res2"][..., :20], remove_dc=True).item()
    assert meter.stages["res2"].values["plain"].mean.item() == pytest.approx(shown)
    # The second map lies in the space that the first step has made.
    there = warp_edge_target(edges, (8, 12), seen.stacks["res3"])
    assert (there - warp_edge_target(edges, (8, 12))).abs().max() > 0.05
    heads["res3"].attention = Taught(there)
    assert measured()[0].stages["res3"].values[
        "attention_edge_correlation"
    ].mean.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["timm_swin", "internimage"])
def test_other_backbones(kind, noise):
    """Maps come to the steps in several layouts; each is measured with and without modulation."""
    import torch
    from sfm_backbones import build_pair, disturb

    from freqfusion import get_freqfusion_cfg
    from freqfusion.tools._images import ImageSource
    from freqfusion.tools.aliasing import AliasingMeter

    class Model(torch.nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def forward(self, inputs):
            return self.backbone(inputs[0]["image"][None])

    class Predictor:
        """Shows the model one image, whatever it is given."""

        def __init__(self, model):
            self.model = model

        def __call__(self, picture):
            image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
            return self.model([{"image": image}])

    modulated, bare = build_pair(kind)
    cfg, plain = get_freqfusion_cfg(), []
    for backbone in (bare, disturb(modulated)):
        meter = AliasingMeter(cfg, Predictor(Model(backbone)))
        meter(ImageSource(Path(noise)))
        assert [stage.step.title for stage in meter.stages.values()] == [
            f"{one} → {other}" for one, other in STEPS
        ]
        assert [stage.sizes for stage in meter.stages.values()] == [{(16, 24)}, {(8, 12)}, {(4, 6)}]
        plain.append(meter.stages["res2"].values["plain"].mean.item())
        versions = 3 if backbone is modulated else 1
        assert all(len(stage.spectra) == versions for stage in meter.stages.values())
    assert plain[0] == pytest.approx(plain[1], rel=1e-5), "the first map is not modulated yet"


def test_padding_of_tensorflow_has_a_phase():
    """A window of 3 or 5 pixels, padded on the right first, lies around pixel 2 j + 1."""
    pytest.importorskip("timm")
    from freqfusion.tools._aliasing import find_downsampling

    config = "camvid/semantic-segmentation/semantic_fpn_lite0"
    model = load_model(config, "", ["MODEL.DEVICE", "cpu"])[1]
    steps = find_downsampling(model).steps
    assert [step.title for step in steps] == ["res2 → res3", "res3 → res4", "res4 → res5"]
    assert [(step.point.geometry.stride, step.point.geometry.phase) for step in steps] == [
        (2, 1)
    ] * 3


def test_backbone_without_steps_is_one_sentence(noise, weights, tmp_path, capsys):
    """A backbone that returns stride 4 only has nothing to measure."""
    settings = [
        "MODEL.RESNETS.OUT_FEATURES", "['res2']",
        "MODEL.FPN.IN_FEATURES", "['res2']", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2']",
    ]  # fmt: skip
    out = str(tmp_path / "out")
    assert run(BASELINE, weights["plain"], "--input", noise, "--output", out, *settings) == 2
    assert "returns no map coarser than stride 4" in capsys.readouterr().err

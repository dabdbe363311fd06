"""The tool that measures features: layers, padding, ground truth, a whole run, and its messages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from freqfusion.analysis import FeatureSimilarity, similarity_maps
from freqfusion.drawing import PanopticMap, PanopticSegment
from freqfusion.tools import feature_similarity
from freqfusion.tools._layers import Layer, default_layers, find_layers, pick, record_maps
from freqfusion.tools.feature_similarity import categories

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
DATASET = "synthetic_panoptic_val_separated"
JOINT = "synthetic_panoptic_val"
SMALL = ["INPUT.MIN_SIZE_TEST", "60", "INPUT.MAX_SIZE_TEST", "75", "MODEL.DEVICE", "cpu"]
DECODER = "sem_seg_head.pixel_decoder."


class Pooling(nn.Module):
    """A backbone whose maps are means of the image: at stride 4, 8 and 16."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList(nn.AvgPool2d(stride, ceil_mode=True) for stride in (4, 8, 16))
        self.after = nn.ReLU(inplace=True)

    def output_shape(self):
        return {"c2": None, "c3": None, "c4": None}

    def forward(self, image):
        maps = [pool(image) for pool in self.body]
        return {"c2": self.after(-maps[0]), "c3": maps[1], "c4": maps[2], "all": maps}


class Padded(nn.Module):
    """A model in Detectron2's manner: pads the image to a multiple of 32."""

    def __init__(self, divisor=32):
        super().__init__()
        self.backbone, self.head, self.divisor = Pooling(), nn.Identity(), divisor

    def forward(self, inputs):
        image = inputs[0]["image"].float()
        more = [-size % self.divisor for size in image.shape[-2:]]
        padded = nn.functional.pad(image, (0, more[1], 0, more[0]))
        maps = self.backbone(padded[None])
        return self.head(maps["all"][0])


class Direct:
    """In place of a predictor: hands (3, height, width) to the model as it is."""

    def __init__(self, model):
        self.model = model

    def __call__(self, image):
        with torch.no_grad():
            return self.model([{"image": image}])


def record(*texts, size=(40, 72), model=None):
    model = model or Padded()
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    return record_maps(Direct(model), image, find_layers(model, texts)), image


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("", {"a": 1, "b": 2}, "x is a dict of a, b, not a tensor; choose a part"),
        ("2", [1, 2], "no part '2'; output is a list of 2"),
        ("0", [None], "x:0 is a NoneType, not a tensor"),
    ],
)
def test_wrong_parts(part, value, message):
    with pytest.raises(ValueError, match=message):
        pick(Layer("x", "x", part=part), value)


def test_names():
    texts = ["c3", "backbone.body.1", "backbone:all", "backbone@image", "c3"]
    assert [str(one) for one in find_layers(Padded(), texts)] == [
        "backbone:c3", "backbone.body.1", "backbone:all", "backbone@image",
    ]  # fmt: skip
    for text, message in (
        ("c5", r"no module 'c5' .* \(it has c2, c3, c4\)"),
        ("backbone.bodie.1", "did you mean backbone.body.1"),
        ("c3:0", "c3 is an output of the backbone, which has no parts"),
        ("a:b@c", "cannot read the layer"),
        ("a:", "cannot read the layer"),
        ("", "cannot read the layer"),
    ):
        with pytest.raises(ValueError, match=message):
            find_layers(Padded(), [text])


def test_recording():
    """Outputs, parts, and inputs by name and index."""
    model = Padded()
    maps, image = record(
        "c3", "backbone.body.2", "backbone@image", "backbone@0", "backbone:c3", "head", model=model
    )
    assert {name: tuple(one.features.shape) for name, one in maps.items()} == {
        "c3": (3, 8, 12), "backbone.body.2": (3, 4, 6), "backbone@image": (3, 64, 96),
        "backbone@0": (3, 64, 96), "backbone:c3": (3, 8, 12), "head": (3, 16, 24),
    }  # fmt: skip
    assert torch.equal(maps["backbone@image"].features[:, :40, :72], image)
    assert maps["c3"].covered == (40 / 64, 72 / 96)
    for module in (model, model.backbone):
        assert not module._forward_hooks, "hooks are removed"
        assert not module._forward_pre_hooks


def test_what_is_changed_in_place_later_is_recorded_as_it_was():
    maps, _ = record("backbone.after@0", "backbone.after")
    assert maps["backbone.after@0"].features.min() < 0
    assert maps["backbone.after"].features.min() == 0


@pytest.mark.parametrize("size", [(40, 72), (61, 77)])
@pytest.mark.parametrize("divisor", [1, 32])
def test_covered_part(size, divisor):
    """Cells that show padding, or lie across the border, are known by the stride: 4, 8 and 16."""
    maps, _ = record("c2", "c3", "c4", size=size, model=Padded(divisor))
    for stride, one in zip((4, 8, 16), maps.values(), strict=True):
        cells = one.features.shape[-2:]
        assert one.covered == tuple(s / (c * stride) for s, c in zip(size, cells, strict=True))


def test_features_lie_on_their_labels():
    """The pooled colors of a two-colored image are right but for a cell around the boundary."""
    labels = np.zeros((61, 90), dtype=int)
    labels[:, 41:] = 1
    image = torch.zeros(3, 61, 90)
    image[0], image[1] = torch.from_numpy(labels == 0), torch.from_numpy(labels == 1)
    model = Padded()
    one = record_maps(Direct(model), image, find_layers(model, ["c3"]))["c3"]
    maps = similarity_maps(one.features, labels, covered=one.covered)
    assert set(np.flatnonzero(maps.nearer_to_another.any(0)).tolist()) <= set(range(37, 45))
    wrong = similarity_maps(one.features, labels)
    assert wrong.nearer_to_another.mean() > 3 * maps.nearer_to_another.mean()


def test_crowds_are_void():
    """Of a panoptic ground truth: things are 0.., stuff comes after them."""
    red = (255, 0, 0)
    segments = (
        PanopticSegment(1, 1, "cat", red), PanopticSegment(2, 1, "cat", red, is_crowd=True),
        PanopticSegment(3, 2, "sky", red, is_thing=False),
    )  # fmt: skip
    metadata = {"thing_classes": ["dog", "cat"], "stuff_classes": ["sky"]}
    found = categories(PanopticMap(np.array([[0, 1, 2, 3]]), segments), metadata)
    assert found.labels.tolist() == [[-1, 1, -1, 2]]
    assert found.names == ("dog", "cat", "sky")


def test_recording_what_is_no_map():
    class Flat(Padded):
        def forward(self, inputs):
            return self.head(torch.zeros(100, 7))

    with pytest.raises(ValueError, match=r"head has the shape \(100, 7\); a map of one image is 1"):
        record("head", model=Flat())
    with pytest.raises(ValueError, match="the model does not run backbone@0 on an image"):
        record("backbone@0", model=Flat())


def run(weights, out, *arguments, dataset=DATASET):
    given = ["--config-file", CONFIG, "--weights", weights, "--dataset", dataset]
    code = feature_similarity.main([*given, "--output", str(out), *arguments, "--", *SMALL])
    assert code == 0
    return json.loads((out / "similarity.json").read_text(encoding="utf-8"))


@pytest.mark.detectron2
def test_data_set(data, weights_of, tmp_path, capsys):
    """Before and after the finest hop, on all pixels and on a band; a figure of the first image."""
    scores = run(weights_of[CONFIG], tmp_path, "--figures", "1", "--limit", "2")
    rows = {(row["layer"], row["edge_width"]): row for row in scores["rows"]}
    layers = ("coarse", "fused", "p2")
    assert set(rows) == {(layer, width) for layer in layers for width in (0, 3)}
    files = sorted((data / "panoptic_stuff_val").iterdir())[:2]
    labelled = sum(int((np.asarray(Image.open(path)) != 255).sum()) for path in files)
    for (_, width), row in rows.items():
        assert row["images"] == 2
        assert row["pixels"] == labelled if not width else 0 < row["pixels"] < labelled
        assert -1 <= row["overall"]["intra"] <= 1
        counts = [one["pixels"] for one in row["per_class"].values()]
        assert sum(counts) == row["pixels"]
    assert scores["classes"][0] == "things"
    (figure,) = tmp_path.glob("*.png")
    assert figure.name == "similarity_00000_000000000001.png"
    with Image.open(figure) as picture:
        assert picture.width > 1000
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    intra = rows["fused", 0]["overall"]["intra"]
    assert ["fused", "all", f"{intra:.3f}"] in [line[:3] for line in lines]
    assert ["fused", "band", "3"] in [line[:3] for line in lines]


@pytest.mark.detectron2
def test_layer_is_what_the_model_gives(data, weights_of, tmp_path):
    """The scores of p2 and of res4 are those of the maps taken by hand."""
    from freqfusion.predictor import Predictor, load_model
    from freqfusion.tools._images import read_image

    settings = ["--limit", "1", "--figures", "0", "--layers", "p2", "res4"]
    scores = run(weights_of[CONFIG], tmp_path, *settings)
    found = {row["layer"]: row["overall"] for row in scores["rows"] if not row["edge_width"]}
    cfg, model = load_model(CONFIG, weights_of[CONFIG], SMALL)
    inputs = Predictor(cfg, model=model).inputs(read_image(sorted((data / "val").iterdir())[0]))
    image = model.preprocess_image([inputs]).tensor
    assert inputs["image"].shape[-2:] == (60, 75)
    with torch.no_grad():
        maps = {"res4": model.backbone.bottom_up(image)["res4"], "p2": model.backbone(image)["p2"]}
    label = np.asarray(Image.open(sorted((data / "panoptic_stuff_val").iterdir())[0]))
    for name, stride in (("p2", 4), ("res4", 16)):
        covered = tuple(
            s / (c * stride) for s, c in zip((60, 75), maps[name].shape[-2:], strict=True)
        )
        own = FeatureSimilarity(len(scores["classes"]))
        own.update(maps[name][0], label, covered)
        assert found[name]["intra"] == pytest.approx(own.result().intra.overall)
        assert found[name]["pixel_error_rate"] == pytest.approx(own.result().pixel_error_rate)


@pytest.mark.detectron2
def test_labels_from_panoptic_pictures(data, weights_of, tmp_path):
    """Things get classes of their own, where the semantic labels of the data set have but one."""
    one = ["--figures", "0", "--limit", "1", "--layers", "p2"]
    semantic = run(weights_of[CONFIG], tmp_path, *one)
    joint = run(weights_of[CONFIG], tmp_path, *one, dataset=JOINT)
    by_class = joint["rows"][0]["per_class"]
    stuff = set(semantic["classes"]) - {"things"}
    count = sum(one["pixels"] for name, one in by_class.items() if name not in stuff)
    assert count == semantic["rows"][0]["per_class"]["things"]["pixels"] > 0


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("panoptic-segmentation/freqfusion_panoptic_fpn_r18",
         ["backbone.fpn_output3@0", "backbone.fpn_output2@0", "backbone.fpn_output2"]),
        ("semantic-segmentation/sfm_semantic_fpn_r18",
         ["backbone.fpn_output3@0", "backbone.fpn_output2@0", "backbone.fpn_output2"]),
        ("panoptic-segmentation/freqfusion_mask2former_r18",
         [DECODER + "transformer:-1", DECODER + "layer_1@0", DECODER + "mask_features"]),
        ("semantic-segmentation/fcn_r18",
         ["backbone:res5", "backbone:res4", "backbone:res3", "backbone:res2"]),
    ],
)  # fmt: skip
def test_default_layers_run(config, wanted, data):
    """They are those of the design, run, and get finer; a head that concatenates has its own."""
    from detectron2.data import DatasetCatalog
    from detectron2.modeling import build_model

    from freqfusion.engine.setup import load_config
    from freqfusion.predictor import Predictor

    cfg = load_config(str(ROOT / f"configs/synthetic/{config}.yaml"), SMALL)
    for name in cfg.DATASETS.TEST:
        DatasetCatalog.get(name)  # fills the metadata, which Mask2Former reads
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST
    model = build_model(cfg).eval()
    layers = default_layers(model)
    assert [str(layer) for layer in layers] == wanted
    maps = record_maps(Predictor(cfg, model=model), np.zeros((64, 96, 3), np.uint8), layers)
    sizes = [one.features.shape[-1] for one in maps.values()]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_default_layers_of_a_concatenation():
    from freqfusion.layers import FreqFusionConcat

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            fusion = {"feature_resample": False}
            self.join = FreqFusionConcat(in_channels=[8, 8, 8], compress_ratio=2, fusion=fusion)

        def forward(self, inputs):
            return self.join([torch.rand(1, 8, size, size) for size in (16, 8, 4)])

    model = nn.ModuleDict({"sem_seg_head": Head()})
    layers = default_layers(model)
    assert [str(layer) for layer in layers] == [
        "sem_seg_head.join.fusions.1@lr_feat", "sem_seg_head.join",
    ]  # fmt: skip
    alone = Head()
    maps = record_maps(Direct(alone), torch.zeros(3, 64, 64), default_layers(alone))
    assert [tuple(one.features.shape) for one in maps.values()] == [(16, 8, 8), (24, 16, 16)]


@pytest.mark.detectron2
def test_messages(data, weights_of, tmp_path, capsys):
    model = ["--config-file", CONFIG, "--weights", weights_of[CONFIG]]
    model += ["--output", str(tmp_path / "out")]
    for arguments, message in (
        (["--dataset", "synthetic_panoptic_vall"], "is registered; did you mean synthetic"),
        (["--dataset", DATASET, "--layers", "p9"], "no module 'p9'"),
        (["--dataset", DATASET, "--layers", "a:"], "cannot read the layer 'a:'"),
        (["--dataset", "synthetic_instances_val"], "has no semantic or panoptic ground truth"),
    ):
        assert feature_similarity.main([*model, *arguments, "--", *SMALL]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("feature_similarity: ")
    gt = sorted((data / "panoptic_stuff_val").iterdir())[0]
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(gt)
    assert feature_similarity.main([*model, "--dataset", DATASET, *SMALL]) == 2
    assert "is 64 x 80 (height x width), but its ground truth is 5 x 5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

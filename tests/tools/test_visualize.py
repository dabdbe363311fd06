"""The visualize tool: a tiny model and a data set end to end, its page, and its messages."""

import math
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from html_pages import Page
from PIL import Image

from freqfusion.drawing import Instance, LabelMap, PanopticMap, PanopticSegment
from freqfusion.tools import visualize
from freqfusion.tools._images import from_files, read_image
from freqfusion.tools.visualize import (
    Card,
    instance_score,
    panoptic_score,
    render_page,
    semantic_score,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
DATASET = "synthetic_panoptic_val_separated"
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "80", "MODEL.DEVICE", "cpu"]


def open_page(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    files = [unquote(address) for address in page.addresses if address != "data:,"]
    assert files
    assert all((folder / file).is_file() for file in files)
    return page


@pytest.mark.detectron2
def test_data_set(data, weights_of, tmp_path, capsys):
    """All tasks of three images, with scores; no address leaves the folder."""
    out = tmp_path / "out"
    arguments = ["--config-file", CONFIG, "--weights", weights_of[CONFIG], "--dataset", DATASET]
    assert visualize.main([*arguments, "--output", str(out), *SMALL]) == 0
    assert "drew 3 images (9 pictures)" in capsys.readouterr().out
    page = open_page(out)
    assert [card["data-name"] for card in page.cards] == [f"00000000000{n}.jpg" for n in (1, 2, 3)]
    for card in page.cards:
        assert 0 <= float(card["data-semantic"]) < 60, "it has learnt nothing"
        assert {"data-panoptic", "data-instance"} & set(card)
    assert all(name in page.text for name in ("things", "sky", "wrong inside", "spurious"))
    assert len(list((out / "images").glob("*_semantic.png"))) == 3
    with Image.open(next((out / "images").glob("*_panoptic.png"))) as picture:
        assert 2 * 480 < picture.width < 3 * 480
        assert picture.height > 2 * 384
        assert picture.height > 384


@pytest.mark.detectron2
def test_files_of_any_size_and_kind(data, weights_of, tmp_path, capsys):
    """A palette PNG of odd size, a gray one, one with transparency; a broken one is skipped."""
    folder = tmp_path / "my images & <more>"
    folder.mkdir()
    scene = Image.open(next((data / "val").glob("*.jpg")))
    scene.resize((37, 91)).convert("P").save(folder / "palette #1.png")
    scene.convert("L").save(folder / "gray.png")
    scene.convert("RGBA").save(folder / "alpha.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    out = tmp_path / "out"
    arguments = ["--config-file", CONFIG, "--weights", weights_of[CONFIG], "--input", str(folder)]
    assert visualize.main([*arguments, "--output", str(out), "--", *SMALL]) == 0
    assert "drew 3 images (9 pictures); 1 skipped" in capsys.readouterr().out
    page = open_page(out)
    assert [card["data-name"] for card in page.cards] == ["alpha.png", "gray.png", "palette #1.png"]
    assert all(set(card) == {"data-number", "data-name"} for card in page.cards), "no ground truth"


@pytest.mark.detectron2
def test_channel_order_and_size(data, weights_of):
    """The model sees what Detectron2's own predictor shows it, which reads BGR with OpenCV."""
    from detectron2.engine import DefaultPredictor

    from freqfusion.engine.setup import load_config
    from freqfusion.predictor import Predictor

    image = read_image(next((data / "val").glob("*.jpg")))[:61, :77]
    for order in ("BGR", "RGB"):
        settings = ["MODEL.WEIGHTS", weights_of[CONFIG], "INPUT.FORMAT", order, *SMALL]
        cfg = load_config(CONFIG, settings)
        expected = DefaultPredictor(cfg)(image[:, :, ::-1])
        found = Predictor(cfg)(image)
        assert found["sem_seg"].shape[1:] == (61, 77)
        assert (found["sem_seg"] == expected["sem_seg"]).all()


@pytest.mark.detectron2
def test_truth_only_needs_no_model(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--truth-only", "--dataset", DATASET, "--output", str(out), "--limit", "2"]
    assert visualize.main(arguments) == 0
    assert "drew 2 images (6 pictures)" in capsys.readouterr().out
    page = open_page(out)
    assert "Ground truth of synthetic_panoptic_val_separated" in page.text
    assert "matched" not in page.text, "no errors without a prediction"
    with Image.open(next((out / "images").glob("*_panoptic.png"))) as picture:
        assert 2 * 480 < picture.width < 3 * 480, "image and ground truth"


@pytest.mark.detectron2
def test_nothing_to_draw(data, tmp_path, capsys):
    arguments = ["--truth-only", "--dataset", "synthetic_semantic_val"]
    for image in (data / "val").glob("*.jpg"):
        image.write_bytes(b"")
    assert visualize.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "nothing was drawn: none of the 3 images could be used" in capsys.readouterr().err


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth-only", "--dataset", "synthetic_panoptic_val_seperated"],
         "no data set 'synthetic_panoptic_val_seperated' is registered; did you mean synthetic"),
        (["--truth-only", "--dataset", DATASET], "cannot be loaded"),
        (["--truth-only", "--input", "x.jpg"], "--truth-only needs a data set"),
        (["--input", "x.jpg"], "a model needs --config-file"),
    ],
)  # fmt: skip
def test_messages(arguments, message, tmp_path, monkeypatch, capsys):
    from rehearsed import registered_at

    with registered_at(tmp_path, monkeypatch):
        assert visualize.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.detectron2
def test_weights_of_another_model(tmp_path, capsys):
    import torch

    weights, image = tmp_path / "other.pth", tmp_path / "a.png"
    torch.save({"x.weight": torch.ones(3)}, weights)
    Image.new("RGB", (32, 32)).save(image)
    arguments = ["--config-file", CONFIG, "--input", str(image), "--weights", str(weights)]
    assert visualize.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert f"no parameter of the model is in {weights}" in capsys.readouterr().err


def test_sources(tmp_path):
    for name in ("b.png", "a.JPG", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.png").write_bytes(b"")

    def names(*inputs, limit=None):
        return [one.path.name for one in from_files([str(i) for i in inputs], limit)]

    assert names(tmp_path) == ["a.JPG", "b.png"]
    assert names(tmp_path / "*.png") == ["b.png"]
    assert names(f"{tmp_path}/**/*.png") == ["b.png", "d.png"]
    assert names(tmp_path / "c.txt", tmp_path, tmp_path / "b.png") == ["c.txt", "a.JPG", "b.png"]
    assert names(tmp_path, limit=1) == ["a.JPG"]
    with pytest.raises(
        ValueError, match=r"no images found in .*; looked for files ending in \.jpg"
    ):
        names(tmp_path / "*.gif")
    with pytest.raises(ValueError, match="there is no file or folder"):
        names(tmp_path / "absent")


def test_scores_by_hand():
    """3 of 4 pixels right: IoU 2/3 and 1/2; one of two instances; one segment of two matches."""
    red = (255, 0, 0)
    maps = [
        LabelMap(np.array([row]), ("a", "b"), (red, red)) for row in ([0, 0, 0, 1], [0, 0, 1, 1])
    ]
    assert semantic_score(*maps) == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    mask = np.ones((2, 2), dtype=np.bool_)
    gt = (Instance(0, "a", mask), Instance(1, "b", mask))
    assert instance_score((Instance(0, "a", mask, score=0.9),), gt) == pytest.approx(200 / 3)
    assert math.isnan(instance_score((), ()))
    segments = PanopticSegment(1, 0, "a", red), PanopticSegment(2, 1, "b", red)
    ids = np.array([[1, 1, 2, 2]])
    guess = PanopticMap(np.array([[1, 1, 0, 0]]), segments[:1])
    assert panoptic_score(guess, PanopticMap(ids, segments)) == 50


def test_page_escapes_and_keeps_nan_out_of_the_order():
    cards = [
        Card('a"b<i>.jpg', {"semantic": "images/a #1.png"}, {"semantic": math.nan}),
        Card("c.jpg", {"semantic": "images/c.png"}, {"semantic": 12.345}),
    ]
    text = render_page("a <b> & c", ["1 < 2"], cards, {"<sky>": (1, 2, 3)})
    page = Page(text)
    assert [card["data-name"] for card in page.cards] == ['a"b<i>.jpg', "c.jpg"]
    assert "data-semantic" not in page.cards[0]
    assert page.cards[1]["data-semantic"] == "12.3450"
    assert "images/a%20%231.png" in page.addresses
    assert "worst mIoU first" in page.text
    assert "–" in page.text
    assert "<sky>" in page.text
    assert "1 < 2" in page.text

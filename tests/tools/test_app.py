"""The viewer: what it draws, which uploads it refuses, and its page, where gradio is installed."""

import io
import re
import urllib.request
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from freqfusion.drawing import Instance, draw_image
from freqfusion.predictor import read_config
from freqfusion.tools import _viewer, app
from freqfusion.tools._viewer import (
    Viewer,
    caption,
    confidence_map,
    found_at,
    marked,
    read_upload,
)

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).resolve().parents[2] / "configs/synthetic"
PANOPTIC = str(CONFIGS / "panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
SFM = str(CONFIGS / "semantic-segmentation/sfm_semantic_fpn_r18.yaml")
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96", "MODEL.DEVICE", "cpu"]
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Models that have learnt nothing; the attention of the second says something at random."""
    from detectron2.modeling import build_model
    from sfm_models import shake_attention

    from freqfusion.engine.setup import load_config

    folder, files = tmp_path_factory.mktemp("weights"), {}
    for name, config in (("panoptic", PANOPTIC), ("sfm", SFM)):
        torch.manual_seed(0)
        model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
        model = shake_attention(model) if name == "sfm" else model
        files[name] = str(folder / f"{name}.pth")
        torch.save({"model": model.state_dict()}, files[name])
    return files


def parsed(config, weights, *more):
    return app._parser().parse_args(["--config-file", config, "--weights", weights, *more, *SMALL])


def viewer_of(config, weights):
    return Viewer(read_config(config, weights, SMALL))


@pytest.fixture(scope="module")
def viewer(weights):
    return viewer_of(PANOPTIC, weights["panoptic"])


@pytest.fixture(scope="module")
def viewed(viewer):
    from freqfusion.data.synthetic import make_scene

    return viewer.view(make_scene(0, 3, (256, 320), detail="simple").image)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def test_panoptic_model_shows_everything_but_modulation(viewer, viewed):
    """Similarity is 1 in the cell of the point; pictures over the image are all of one size."""
    assert viewed.content.tasks() == ("semantic", "instance", "panoptic")
    shown = ["image", "prediction", "confidence", "similarity", "before", "spectrum"]
    assert viewer.panels == shown
    assert viewer.layers[:2] == ["coarse", "fused"]
    height, width, _ = draw_image(viewed.image).shape
    for task in viewed.content.tasks():
        for panel in ("prediction", "confidence"):
            picture, below = viewer.draw(panel, viewed, task, "", (0.5, 0.5))
            assert picture.shape == (height, width, 3)
            assert ("class=scale" in below) == (panel == "confidence")
    yellow = 255 * np.array(colormaps[_viewer.COLORMAP](1.0)[:3])
    for layer in ("fused", "res4", "backbone.fpn_output2"):
        cells = viewer._maps(viewed, {"x": viewer._layer(layer)})["x"].features.shape[1:]
        y, x = (0.5 + cells[0] // 2) / cells[0], (0.5 + cells[1] // 4) / cells[1]
        picture, below = viewer.draw("similarity", viewed, "", layer, (x, y))
        assert "1.00</div>" in below
        assert np.abs(picture[int(y * height), int(x * width)] - 0.82 * yellow).max() < 50
    assert viewer.draw("spectrum", viewed, "", "", (0.5, 0.5))[0].shape[0] > 400


def test_modulated_model_shows_lattice_and_attention(weights):
    viewer = viewer_of(SFM, weights["sfm"])
    viewed = viewer.view(PHOTO)
    assert viewed.content.tasks() == ("semantic",)
    assert viewer.panels[-2:] == ["lattice", "attention"]
    for panel in viewer.panels[-2:]:
        picture, _ = viewer.draw(panel, viewed, "semantic", "", (0.5, 0.5))
        assert picture.shape[1] > 2 * picture.shape[0], "several maps side by side"
        assert picture.std() > 20


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("backbone.rse4", "no module 'backbone.rse4'"),
        (":::", "cannot read the layer"),
        ("backbone", "is a dict of p2"),
        ("proposal_generator.anchor_generator", "not a tensor|does not run"),
    ],
)
def test_layers_that_have_no_map(viewer, viewed, layer, message):
    with pytest.raises(ValueError, match=message):
        viewer.draw("similarity", viewed, "", layer, (0.5, 0.5))


def test_threshold_opacity_and_what_lies_at_the_point(viewer, viewed):
    half = np.zeros(viewed.image.shape[:2], np.bool_)
    half[:, : half.shape[1] // 2] = True
    objects = Instance(0, "disc", half, None, 0.3), Instance(1, "box", half, None, 0.6)
    shown = replace(viewed, content=replace(viewed.content, instance=objects))

    def drawn(threshold, opacity, point=(0.25, 0.5)):
        return viewer.draw("prediction", shown, "instance", "", point, threshold, opacity)

    both, one, none = (drawn(threshold, 1.0) for threshold in (0.1, 0.5, 0.9))
    assert "at the point: box, 0.60; 2 objects with a score of 0.1 or more" in both[1]
    assert "at the point: box, 0.60; 1 object " in one[1]
    assert "at the point: nothing; 0 objects" in none[1]
    assert "at the point: nothing; 1 object " in drawn(0.5, 1.0, (0.75, 0.5))[1]
    np.testing.assert_array_equal(drawn(0.1, 0.0)[0], none[0])
    faint, full = (abs(one[0] - none[0].astype(int)).sum() for one in (drawn(0.1, 0.5), both))
    assert 0.4 * full < faint < 0.6 * full


def test_point_of_labels_and_segments(viewed):
    content, confidence = viewed.content, np.full((2, 2), 0.25, np.float32)
    label = content.semantic.names[content.semantic.labels[-1, 0]]
    assert found_at(content, "semantic", (0.0, 1.0), confidence) == f"{label}, 0.25"
    ids = content.panoptic.ids
    names = {one.id: one.name for one in content.panoptic.segments}
    assert found_at(content, "panoptic", (0.0, 0.0)) == names.get(ids[0, 0], "nothing")


def test_baseline_beside_it(weights):
    """A model without the task says so."""
    config = read_config(PANOPTIC, weights["panoptic"], SMALL)
    viewer = Viewer(config, baseline=read_config(SFM, weights["sfm"], SMALL))
    assert viewer.panels[:3] == ["image", "prediction", "baseline"]
    viewed, names = viewer.view(PHOTO), viewer.panels[1:3]
    own, other = (viewer.draw(name, viewed, "semantic", "", (0.5, 0.5)) for name in names)
    assert own[0].shape == other[0].shape
    assert (own[0] != other[0]).any()
    assert "no such task" in viewer.draw("baseline", viewed, "panoptic", "", (0.5, 0.5))[1]


def test_old_maps_are_forgotten(viewer, viewed, monkeypatch):
    monkeypatch.setattr(_viewer, "_NUM_KEPT_MAPS", 3)
    for layer in ("res2", "res3", "res4", "res5", "p2"):
        viewer.draw("similarity", viewed, "", layer, (0.5, 0.5))
    assert len(viewed.maps) == _viewer._NUM_KEPT_MAPS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_formats(kind, tmp_path):
    (tmp_path / "any").write_bytes(encoded(PHOTO, kind))
    assert read_upload(str(tmp_path / "any"), 100_000).shape == PHOTO.shape


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot read my.png: it is no image of a known format; known are JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (encoded(PHOTO, "GIF"), "no image"),
        (encoded(PHOTO)[:2000], "cannot read the image my.png"),
        (encoded(np.zeros((400, 300, 3), np.uint8)), "300 and 400 pixels, but .* 0.1 million"),
        (encoded(np.zeros((4, 40, 3), np.uint8)), "8 pixels or more"),
        (encoded(np.zeros((10, 201, 3), np.uint8)), "at most 20 times"),
    ],
)
def test_uploads_that_are_no_good_image(data, message, tmp_path):
    (tmp_path / "my.png").write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read_upload(str(tmp_path / "my.png"), 100_000)
    assert str(tmp_path) not in str(raised.value), "where it lies is nobody's business"


def test_size_is_checked_before_pixels(monkeypatch, tmp_path):
    """A header may promise any size; a picture of a small file that is huge is never made."""
    bomb = bytearray(encoded(PHOTO))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="exceeds limit of"):
        read_upload(str(tmp_path / "bomb.png"), 100_000)


def test_confidence_by_hand():
    """Logits 0 and log 3 are 1/4 and 3/4; scores 0.2 and 0.2 are one half each."""
    from freqfusion.evaluation.overlays import Content

    scores = torch.tensor([[[0.0, 5.0]], [[3.0, 5.0]]])
    logits = torch.tensor([[[0.0, 0.2]], [[np.log(3), 0.2]]])
    output = {"sem_seg": logits}
    found, _ = confidence_map("semantic", output, Content(), (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.75, 0.5]], rtol=1e-6)
    found, _ = confidence_map("semantic", {"sem_seg": scores}, Content(), (1, 2), "scores")
    np.testing.assert_allclose(found, [[1, 0.5]])
    output["panoptic_seg"] = (
        torch.tensor([[1, 2]]),
        [{"id": 1, "category_id": 0, "isthing": False}, {"id": 2, "category_id": 0, "score": 0.9}],
    )
    found, _ = confidence_map("panoptic", output, Content(), (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.75, 0.9]], rtol=1e-6)
    both = np.array([[True, True]])
    content = Content(
        instance=(
            Instance(0, "a", both, None, 0.6),
            Instance(0, "b", np.array([[False, True]]), None, 0.8),
            Instance(0, "c", both, None, 0.7),
            Instance(0, "box only", None, (0, 0, 1, 1), 0.9),
        )
    )
    found, _ = confidence_map("instance", {}, content, (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.7, 0.8]], rtol=1e-6)


def test_mark_is_a_ring_around_its_place():
    picture = np.full((100, 200, 3), 128, np.uint8)
    found = marked(picture, (0.25, 0.5))
    rows, columns = np.nonzero((found != picture).any(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((50, 50), abs=0.6)
    assert (found[50, 50] == 128).all(), "what is marked can be seen"
    assert (picture == 128).all()


def test_captions_cannot_be_code():
    said = caption("<b>note", (0.0, 1.0), {"<i>sky": (1, 2, 3)})
    assert "&lt;b&gt;note" in said
    assert "rgb(1, 2, 3)" in said
    assert "&lt;i&gt;sky" in said


def test_mistakes_are_one_sentence(weights, capsys, monkeypatch):
    assert app.main(["--config-file", SFM]) == 2
    assert "no weights" in capsys.readouterr().err
    assert app.main(["--config-file", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "app: nowhere.yaml does not exist\n"
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    assert app.main(["--config-file", SFM, "--weights", weights["sfm"]]) == 2
    assert "pip install 'gradio" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_address_is_printed_with_a_warning_where_others_can_reach_it(host, monkeypatch, capsys):
    page = SimpleNamespace(block_thread=lambda: None)
    monkeypatch.setattr(app, "make_page", lambda options: page)
    monkeypatch.setattr(app, "launch", lambda page, options: f"http://{options.host}:7860/")
    assert app.main(["--config-file", SFM, "--host", host]) == 0
    said = capsys.readouterr()
    assert said.out == f"open http://{host}:7860/ in a browser; end with Ctrl-C\n"
    assert ("whoever can reach this machine" in said.err) == (host == "0.0.0.0")


@pytest.fixture(scope="module")
def page(weights, tmp_path_factory):
    """The page of a panoptic model, listening."""
    pytest.importorskip("gradio", reason="gradio (the extra app) is not installed")
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**app.OFFLINE, "GRADIO_TEMP_DIR": str(folder)}.items():
            patch.setenv(name, value)
        options = parsed(PANOPTIC, weights["panoptic"])
        page = app.make_page(options)
        app.launch(page, options)
        yield page
        page.close()


@pytest.mark.e2e
def test_page_asks_nobody_else(page):
    """It names no other address but those of links and metadata, which are not loaded."""
    with urllib.request.urlopen(page.local_url) as answer:
        text = answer.read().decode()
    assert "127.0.0.1" in page.local_url
    loaded = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(https?://[^\"')\s]+)", text)
    assert not [one for one in loaded if not one.startswith(page.local_url)]
    config = page.get_config_file()
    assert config["analytics_enabled"] is False
    assert not config.get("stylesheets")


@pytest.mark.e2e
def test_page_answers_and_refuses(page, tmp_path):
    """An upload gives all pictures, and a bad one the reader's sentence; the page goes on."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(page.local_url, verbose=False)
    (tmp_path / "my.png").write_bytes(encoded(PHOTO))
    deep = Image.fromarray(np.zeros((16, 20), np.uint16))
    deep.save(tmp_path / "deep.png")
    look = (None, "fused", 0.5, 1)
    with pytest.raises(AppError, match=r"deep.png is an image of mode I;16, whose values"):
        client.predict(handle_file(tmp_path / "deep.png"), *look, api_name="/upload")
    answer = client.predict(handle_file(tmp_path / "my.png"), *look, api_name="/upload")
    pictures = [one for one in answer if isinstance(one, str) and one.endswith(".png")]
    assert len(pictures) == 6
    assert Image.open(pictures[0]).size == draw_image(PHOTO).shape[1::-1]

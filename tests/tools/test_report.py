"""The report: all sections of a tiny model, those that a model has not, the page, its messages."""

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from html_pages import Page
from PIL import Image

from freqfusion.tools import _page, report
from freqfusion.tools._page import ReportSection, paragraphs, table
from freqfusion.tools.report import SECTIONS, render_report, results

pytestmark = pytest.mark.detectron2
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/synthetic"
FREQFUSION = str(CONFIGS / "panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
PLAIN = str(CONFIGS / "panoptic-segmentation/panoptic_fpn_r18.yaml")
SFM = str(CONFIGS / "semantic-segmentation/sfm_fcn_r18.yaml")
SMALL = ["INPUT.MIN_SIZE_TEST", "60", "INPUT.MAX_SIZE_TEST", "75", "MODEL.DEVICE", "cpu"]
SEMANTIC = {"mIoU": 12.34, "pACC": None, "mIoU-thin": 3.21, "IoU-<sky>": 56.78}
PANOPTIC = {"PQ": 9.87, "PQ-<sky>": 43.21, "PQ-disc": 1.0, "PQ-box": None}
SCORES = {
    "config": "x.yaml",
    "iteration": 7,
    "datasets": {"val": {"sem_seg": SEMANTIC, "panoptic_seg": PANOPTIC}},
}


@pytest.fixture(scope="module")
def data(scenes):
    """The scenes, registered as the synthetic data sets for this module."""
    pytest.importorskip("detectron2")
    from rehearsed import registered_at

    with pytest.MonkeyPatch.context() as patch, registered_at(scenes.parent, patch):
        yield scenes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a training leaves."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "results.json").write_text(json.dumps(SCORES))
    lines = [json.dumps({"iteration": at, "total_loss": 3 / at}) for at in range(1, 8)]
    (folder / "metrics.json").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def whole(data, weights_of, trained, tmp_path_factory):
    """The page with all sections."""
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    arguments = ["--config-file", FREQFUSION, "--weights", weights_of[FREQFUSION]]
    arguments += ["--run", str(trained), "--examples", "1", "--output", str(path)]
    arguments += ["--limit", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_page, "_PNG_DPI", 40)
        assert report.main([*arguments, *SMALL]) == 0
    return path


def make(config, weights_of, path, *arguments):
    given = ["--config-file", config, "--weights", weights_of[config], "--output", str(path)]
    return report.main([*given, "--examples", "1", *arguments, *SMALL])


def test_all_sections(whole):
    """Each has its article; contents lead to them; all pictures are inside and what they say."""
    text = whole.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?://", text)
    assert len(page.ids) == len(set(page.ids))
    assert set(SECTIONS) <= set(page.ids)
    assert "left-out" not in page.ids
    outside = [one for one in page.addresses if not one.startswith(("#", "data:"))]
    assert outside == []
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
    names = [identity.rpartition("-")[0] for identity in page.ids]
    for name in set(SECTIONS) - {"results", "costs"}:
        assert name in names, f"{name} has no figure"
    assert len(page.images) > 10
    for image in page.images:
        assert image["alt"]
        kind, _, encoded = image["src"].removeprefix("data:image/").partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert picture.format == kind.upper()
            assert [str(side) for side in picture.size] == [image["width"], image["height"]]
    for said in ("12.3", "56.8", "<sky>", "After 7 iterations", "fpn_fusion2", "1 image of"):
        assert said in page.text, said
    assert not whole.with_name("report.html.part").exists()


def test_scores_of_classes_stand_side_by_side(trained):
    """A row for each class that has a score, PQ first; a mean over some classes is a mean."""
    text = Page(results(SimpleNamespace(run=trained)).body).text
    assert text.endswith("classPQIoU<sky>43.256.8disc1.0–")
    assert "mIoUmIoU-thinall12.33.2" in text, "what has no value is left out of the means"


def test_numbers_are_those_of_the_tools(whole, data, weights_of, tmp_path, capsys):
    """Feature similarity and parameters, as the tools for them alone give them."""
    from freqfusion.tools import analyze, feature_similarity

    text = Page(whole.read_text(encoding="utf-8")).text
    arguments = ["--config-file", FREQFUSION, "--weights", weights_of[FREQFUSION]]
    out = ["--output", str(tmp_path / "out")]
    dataset = ["--dataset", "synthetic_panoptic_val_separated", "--limit", "1"]
    assert feature_similarity.main([*arguments, *dataset, *out, *SMALL]) == 0
    row = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("fused ")
    ).split()
    assert f"fusedall{''.join(row[2:5])}" in text
    arguments += ["--size", "60x75", "--runs", "0", "--output", str(tmp_path / "a.json")]
    assert analyze.main([*arguments, *SMALL]) == 0
    line = next(one for one in capsys.readouterr().out.splitlines() if one.startswith("parameters"))
    assert line in text


def test_plain_model(data, weights_of, tmp_path, capsys):
    """What the baseline has not is left out with a reason; so is a run that was not given."""
    path = tmp_path / "report.html"
    wanted = ["results", "kernels", "similarity", "offsets", "aliasing"]
    assert make(PLAIN, weights_of, path, "--limit", "1", "--sections", *wanted, "--") == 0
    page = Page(path.read_text(encoding="utf-8"))
    assert {"similarity", "similarity-1", "aliasing", "left-out"} <= set(page.ids)
    assert "fused is backbone.fpn_output2@0" in page.text
    assert not {"results", "kernels", "offsets"} & set(page.ids)
    assert "results: no run is given" in page.text
    assert page.text.count(": the model has no fusion module") == 2
    said = capsys.readouterr().out
    assert "2 sections: similarity, aliasing" in said
    assert "left out: offsets: the model has no fusion module" in said


@pytest.mark.parametrize(
    ("kind", "there", "reason"),
    [
        ("dysample", {"spectra", "offsets"}, "predicts no kernels"),
        ("carafe", {"spectra", "kernels"}, "no sampler"),
    ],
)
def test_other_fusions(data, weights_of, tmp_path, kind, there, reason):
    path = tmp_path / "report.html"
    sections = ["--sections", "spectra", "kernels", "offsets", "--", "MODEL.FREQFUSION.FUSE_TYPE"]
    assert make(FREQFUSION, weights_of, path, "--limit", "1", *sections, kind) == 0
    page = Page(path.read_text(encoding="utf-8"))
    assert {"spectra", "kernels", "offsets"} & set(page.ids) == there
    assert reason in page.text


def test_modulated_model(data, weights_of, tmp_path):
    """Its aliasing is compared with the control, its attention and lattice are drawn."""
    path = tmp_path / "report.html"
    assert make(SFM, weights_of, path, "--limit", "1", "--sections", "aliasing", "--") == 0
    page = Page(path.read_text(encoding="utf-8"))
    assert "mod / control" in page.text
    assert [image["alt"].partition(",")[0] for image in page.images][1:] == ["attention", "lattice"]


def test_measuring_leaves_the_model_as_it_was(data, weights_of, trained):
    """Weights, running statistics and the mode; and the order of the sections does not matter."""
    from freqfusion.predictor import Predictor
    from freqfusion.tools._images import from_dataset
    from freqfusion.tools.report import ReportContext

    cfg, model = report.load_model(FREQFUSION, weights_of[FREQFUSION], SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sources, metadata = from_dataset(cfg.DATASETS.TEST[0], 1)
    context = ReportContext(
        FREQFUSION, cfg, Predictor(cfg, model=model), trained, "d", sources, metadata, examples=1
    )
    sections, left_out = report.make(context, ["costs", "spectra", "aliasing"])
    assert left_out == {}
    assert not model.training
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again, _ = report.make(context, ["spectra"])
    assert again["spectra"].images[0].data == sections["spectra"].images[0].data


def test_padding_is_cut_off(data, weights_of):
    """60 x 75 is padded to 64 x 96; of 16 x 24 pixels at stride 4, 15 x 19 show the image."""
    from freqfusion.predictor import Predictor
    from freqfusion.tools._report_fusion import fusions_of

    cfg, model = report.load_model(FREQFUSION, weights_of[FREQFUSION], SMALL)
    picture = np.zeros((60, 75, 3), np.uint8)
    passes = fusions_of(Predictor(cfg, model=model), picture)
    sizes = {name.rpartition(".")[2]: one.hr_in.shape[-2:] for name, one in passes.items()}
    assert sizes == {"fpn_fusion2": (15, 19), "fpn_fusion3": (8, 10), "fpn_fusion4": (4, 5)}
    finest = passes["backbone.fpn_fusion2"]
    assert finest.lr_in.shape[-2:] == (8, 10)
    assert finest.lr_repeated.shape[-2:] == finest.lr_out.shape[-2:] == (15, 19)
    assert finest.offsets.shape[-2:] == finest.lowpass.shape[-2:] == (15, 19)


def test_data_set_elsewhere(weights_of, tmp_path, capsys, monkeypatch):
    """Without images there are still the costs; a data set that was asked for must be there."""
    pytest.importorskip("detectron2")
    from rehearsed import registered_at

    path = tmp_path / "report.html"
    monkeypatch.setattr(report, "_SIZE", (64, 64))
    with registered_at(tmp_path / "nothing", monkeypatch):
        sections = ["--sections", "predictions", "spectra", "costs", "--"]
        assert make(FREQFUSION, weights_of, path, *sections) == 0
        page = Page(path.read_text(encoding="utf-8"))
        assert "costs" in page.ids
        assert page.text.count("Do its files lie under DETECTRON2_DATASETS?") == 2
        capsys.readouterr()
        assert make(FREQFUSION, weights_of, path, "--dataset", "synthetic_nothing") == 2
        assert "no data set 'synthetic_nothing' is registered" in capsys.readouterr().err
        wrong = ["--sections", "results", "predictions", "--"]
        assert make(FREQFUSION, weights_of, tmp_path / "no.html", *wrong) == 2
    said = capsys.readouterr().err
    assert "\nreport: there is nothing to report. results: no run is given" in said
    assert not (tmp_path / "no.html").exists()


def test_broken_image(data, weights_of, tmp_path, capsys):
    """One that cannot be read is left out everywhere, and the page counts the others."""
    from freqfusion.tools._images import from_dataset

    path, broken = tmp_path / "report.html", from_dataset("synthetic_panoptic_val", 1)[0][0].path
    content = broken.read_bytes()
    try:
        broken.write_bytes(b"no image")
        sections = ["--sections", "spectra", "--"]
        assert make(FREQFUSION, weights_of, path, *sections) == 0
        assert make(FREQFUSION, weights_of, path, "--limit", "1", *sections) == 2
    finally:
        broken.write_bytes(content)
    page = Page(path.read_text(encoding="utf-8"))
    assert "spectra" in page.ids
    assert "2 images of" in page.text
    assert "none of the 1 images can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no results.json"),
        ("{", "cannot be read"),
        ('{"datasets": {"val": {"bbox": {"AP": "x"}}}}', "cannot be read"),
    ],
)
def test_broken_results(content, reason, tmp_path):

    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=reason):
        results(SimpleNamespace(run=tmp_path))


def test_page_escapes():
    """Texts are text, whatever is in them; leading spaces indent."""
    rows = [["<a>", "n"], ["  b & c", "<1>"]]
    body = paragraphs("1 < 2") + table(rows, title='"t"')
    sections = {"one": ReportSection("A <b> & c", body)}
    page = Page(render_report("<t>", ["n < m"], sections, {"x": "a <i>"}))
    for said in ("A <b> & c", "1 < 2", "<a>", "b & c", "<1>", '"t"', "<t>", "n < m", "a <i>"):
        assert said in page.text, said
    assert "padding-left:1.6em" in table(rows)

"""Probes of frozen maps, and the part of docs/evidence.md that shows them."""

import pytest
import torch
from ablations import ROOT

pytest.importorskip("scipy")

from benchmarks import probe
from benchmarks.documents import read_json, read_marked


@pytest.fixture
def stripes():
    """Eight images whose columns are class 0 or 1; one map shows that, one is constant."""
    columns = torch.arange(16) % 4 < 1
    labels = columns.long().expand(8, 16, 16).contiguous()
    shown = labels[:, None].float() + 0.01 * torch.arange(8.0).view(8, 1, 1, 1)
    return {"res2": shown, "res3": torch.zeros(8, 3, 4, 4)}, labels


def test_a_probe_reads_what_its_map_has_and_no_more(stripes):
    torch.manual_seed(0)
    for stages, expected in ((["res2"], 100.0), (["res3"], 37.5), (["res2", "res3"], 100.0)):
        fitted = probe.fit(stripes, stages, 2)
        # Without detail the larger class is everywhere: IoU 75 and 0.
        assert probe.thin_iou(fitted, stripes, stages, [0, 1]) == pytest.approx(expected, abs=0.1)


def test_the_table_and_figure_show_paired_differences():
    scores = {
        "nearest": {name: [10.0, 20.0, 30.0] for name in probe.MAPS},
        "sfm_pyramid": {name: [12.0, 23.0, 34.0] for name in probe.MAPS},
    }
    lines = probe.render({"thin_iou": scores}).splitlines()
    assert lines[0] == "| map | without SFM | with SFM | difference, paired by seed |"
    assert lines[2] == "| res2 | 20.0 ± 24.8 | 23.0 ± 27.3 | **+3.0 (+0.5 to +5.5)** |"
    (axis,) = probe.draw({"thin_iou": scores}).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [*probe.METHODS.values()]


def test_missing_weights_are_told(tmp_path, capsys):
    assert probe.main(["--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "nearest-s0/model_final.pth is not there" in said
    assert "python -m benchmarks.ablation --only semantic_fpn --keep-weights" in said


def test_the_document_shows_the_results():
    """``python -m benchmarks.probe --write-docs`` has been run."""
    shown = read_marked(ROOT / "docs/evidence.md", probe.COMMAND)
    assert shown == probe.render(read_json(probe.RESULTS))

"""Tables and figures of rows, and the document that must show those of the project."""

import math
import re

import pytest
from ablations import ROOT, row, write_matrix, write_rows

from benchmarks import ablation
from benchmarks import ablation_page as page
from benchmarks.ablation_matrix import plan, read_matrix
from benchmarks.ablation_page import ExperimentScores as Scores
from benchmarks.ablation_page import are_apart, estimate, paired, t_quantile
from benchmarks.documents import END, NOT_MEASURED, begin_mark, read_marked

pytest.importorskip("scipy")

# Differences 2, 3, 4 from bilinear; the mean's half is 4.303 / sqrt(3) = 2.484.
ROWS = [
    *(row(method="bilinear", seed=s, mIoU=v) for s, v in enumerate((10.0, 20.0, 30.0))),
    *(row(method="freqfusion", seed=s, mIoU=v) for s, v in enumerate((12.0, 23.0, 34.0))),
    row(method="carafe", seed=1, mIoU=50.0),
]
CURVE = [
    row("curve", method, seed, {"line_thickness": thickness}, mIoU=score)
    for thickness, gain in ((1, 4.0), (5, 1.0))
    for method, first in (("bilinear", 10.0), ("freqfusion", 10.0 + gain))
    for seed, score in enumerate((first, first + 1))
]
BEGIN = begin_mark(page.COMMAND)
MARKED = f"before\n{BEGIN}\nold\n{END}\nafter\n"


@pytest.fixture
def matrix(tmp_path):
    return read_matrix(write_matrix(tmp_path))


def section(matrix, name, rows):
    return page.render_section(Scores(matrix.experiments[name], rows), None)


def test_tables_show_means_and_paired_differences(matrix):
    lines = section(matrix, "fpn", ROWS).splitlines()
    assert lines[0] == "### Semantic FPN"
    assert lines[2].startswith("`python -m benchmarks.ablation --only fpn`: ")
    assert "; learning rate x1 for all." in lines[2]
    assert lines[2].endswith("Measured on cpu with torch 2.15.0 at revision 01234567.")
    assert "| FreqFusion | 3 | 23.0 ± 27.3 | not measured | 12.34 M |" in lines
    assert "| carafe | 1 | 50.0 | not measured | 12.34 M |" in lines
    assert "| FreqFusion − bilinear | **+3.0 (+0.5 to +5.5)** | not measured |" in lines
    assert "| FreqFusion − carafe | -27.0 | not measured |" in lines


def test_learning_rates_are_told_where_they_differ(matrix):
    rows = [row(method="bilinear", mIoU=1.0), row(mIoU=1.0)]
    rows[0]["learning_rate"] = {"factor": 0.5, "chosen_on_tune": True}
    assert "; learning rate x0.5 for bilinear; x1 for FreqFusion." in section(matrix, "fpn", rows)


def test_a_method_without_rows_is_left_out(matrix):
    rows = [one for one in ROWS if one["method"] != "carafe"]
    text = section(matrix, "fpn", rows)
    assert "carafe" not in text
    assert "| FreqFusion − bilinear |" in text


@pytest.mark.parametrize(
    ("gains", "answer"),
    [
        ((2.0, 3.0, 4.0), "**+3.0 (+0.5 to +5.5)** | **yes** (3 seeds)"),
        ((-2.0, -3.0, -4.0), "**-3.0 (-5.5 to -0.5)** | **no**, it is worse (3 seeds)"),
        ((-1.0, 0.0, 1.0), "+0.0 (-2.5 to +2.5) | not settled (3 seeds)"),
        ((5.0,), "+5.0 | not settled (1 seed)"),
        ((), "not measured | not settled"),
    ],
)
def test_questions_are_answered_by_the_interval(matrix, gains, answer, tmp_path):
    rows = [row(method="bilinear", seed=seed, mIoU=10.0) for seed in range(3)]
    rows += [row(seed=seed, mIoU=10.0 + gain) for seed, gain in enumerate(gains)]
    lines = page.render_page(matrix, rows, tmp_path / "evidence.md").splitlines()
    asked = "| [Does it help?](#semantic-fpn) | FreqFusion − bilinear | mIoU |"
    assert f"{asked} {answer} |" in lines


def test_intervals_that_do_not_touch_are_marked(matrix):
    rows = [row(method="bilinear", seed=s, mIoU=10.0 + s) for s in range(3)]
    rows += [row(method="freqfusion", seed=s, mIoU=20.0 + s) for s in range(3)]
    assert "| **+10.0 (+10.0 to +10.0)** † |" in section(matrix, "fpn", rows)


def test_rows_of_other_seeds_and_methods_do_not_count(matrix):
    other = [row(seed=9, mIoU=1.0), row(method="nearest", mIoU=1.0), row("curve", mIoU=1.0)]
    assert section(matrix, "fpn", [*ROWS, *other]) == section(matrix, "fpn", ROWS)


def test_a_curve_has_a_line_for_each_value(matrix):
    lines = section(matrix, "curve", CURVE).splitlines()
    assert "| 1 | FreqFusion − bilinear | **+4.0 (+4.0 to +4.0)** |" in lines
    assert "| 3 | FreqFusion − bilinear | not measured |" in lines


def test_figures_show_the_differences(matrix):
    figure = page.draw(Scores(matrix.experiments["fpn"], ROWS))
    (axis,) = figure.axes  # thin IoU is not measured
    assert axis.get_title(loc="left") == "mIoU"
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "FreqFusion −\nbilinear", "FreqFusion −\ncarafe",
    ]  # fmt: skip
    drawn = [container.lines[0].get_xdata()[0] for container in axis.containers]
    assert drawn == [3.0, -27.0]
    (axis,) = page.draw(Scores(matrix.experiments["curve"], CURVE)).axes
    (curve,) = axis.containers
    assert curve.lines[0].get_xydata().tolist() == [[1, 4], [5, 1]]
    assert page.draw(Scores(matrix.experiments["fpn"], [])) is None


def test_the_document_and_its_figures_are_written(matrix, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows", [*ROWS, *CURVE])
    path = tmp_path / "evidence.md"
    path.write_text(MARKED)
    given = [
        "--matrix",
        str(tmp_path / "ablation.yaml"),
        "--results",
        str(rows),
        "--document",
        str(path),
    ]
    assert ablation.main([*given, "--write-docs"]) == 0
    figures = [tmp_path / f"evidence-{name}.png" for name in ("fpn", "curve")]
    assert capsys.readouterr().out.split() == [str(path), *map(str, figures)]
    text = path.read_text()
    assert text.startswith(f"before\n{BEGIN}\n## Answers")
    assert text.endswith(f"{END}\nafter\n")
    assert "(evidence-fpn.png)" in text
    assert ablation.main([*given, "--write-docs"]) == 0
    assert path.read_text() == text
    for old in (rows / "fpn").iterdir():
        old.unlink()
    assert ablation.main([*given, "--write-docs"]) == 0
    assert not figures[0].exists()
    assert "evidence-fpn.png" not in path.read_text()


def test_a_document_without_marks_is_left_alone(matrix, tmp_path, capsys):
    path = tmp_path / "evidence.md"
    path.write_text("mine")
    given = [
        "--matrix",
        str(tmp_path / "ablation.yaml"),
        "--results",
        str(tmp_path),
        "--document",
        str(path),
    ]
    assert ablation.main([*given, "--write-docs"]) == 2
    assert "lacks the lines" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_the_document_shows_the_results():
    """``python -m benchmarks.ablation --write-docs`` has been run."""
    matrix = read_matrix(ROOT / "benchmarks/ablation.yaml")
    path = ROOT / "docs" / "evidence.md"
    shown = page.render_page(matrix, page.read_rows(ROOT / "results" / "ablation"), path)
    assert read_marked(path, page.COMMAND) == shown
    there = {file.name for file in path.parent.glob("evidence-*.png")} - {"evidence-probe.png"}
    assert set(re.findall(r"\]\((evidence-[^)]*)\)", shown)) == there
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-")
        for t in re.findall("### (.*)", shown)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", shown)) <= anchors


def test_every_declared_run_is_measured():
    """No cell of the page is empty, and the command of a section finds its work done."""
    runs = plan(read_matrix(ROOT / "benchmarks/ablation.yaml"), ROOT / "results" / "ablation")
    assert [run.name for run in runs if not run.is_done()] == []
    assert NOT_MEASURED not in (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")


def test_titles_of_methods_differ_within_an_experiment():
    for one in read_matrix(ROOT / "benchmarks/ablation.yaml").experiments.values():
        titles = [method.title for method in one.methods.values()]
        assert len(set(titles)) == len(titles), one.name


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042)]
)
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_mean_and_interval():
    """1, 2, 3: mean 2, deviation 1, half 4.303 / sqrt(3)."""
    one = estimate([1.0, 2.0, 3.0])
    assert (one.n, one.mean) == (3, 2.0)
    assert one.half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert not one.is_clear


def test_a_single_value_has_no_interval():
    one = estimate([3.0])
    assert (one.n, one.mean, one.half) == (1, 3, None)
    assert not one.is_clear
    assert estimate([]) is None


def test_pairs_are_those_of_the_same_seed():
    """Differences 1, 2, 3 of the shared seeds 0, 1, 4, whatever the seeds' own level."""
    ours = {0: 11.0, 1: 52.0, 4: 33.0, 7: 99.0}
    reference = {4: 30.0, 1: 50.0, 0: 10.0, 5: 1.0}
    assert paired(ours, reference) == estimate([1.0, 2.0, 3.0])
    assert paired(ours, {5: 1.0}) is None


@pytest.mark.parametrize(("shift", "clear"), [(2.4, False), (2.6, True), (-2.6, True)])
def test_clear_intervals_leave_zero_out(shift, clear):
    """Half the width of -1, 0, 1 is 2.484."""
    assert estimate([shift - 1, shift, shift + 1]).is_clear == clear


def test_intervals_that_do_not_touch():
    one = estimate([-1.0, 0.0, 1.0])
    assert are_apart(one, estimate([4.0, 5.0, 6.0])) is True
    assert are_apart(estimate([4.0, 5.0, 6.0]), one) is True
    assert are_apart(one, estimate([3.9, 4.9, 5.9])) is False
    assert are_apart(one, estimate([9.0])) is False
    assert are_apart(None, one) is False

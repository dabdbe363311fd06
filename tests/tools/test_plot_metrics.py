"""The metrics of runs: what is read, which are chosen, what is drawn, and the messages."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from freqfusion.tools import plot_metrics
from freqfusion.tools.plot_metrics import (
    choose,
    draw_figure,
    is_smoothed,
    read_runs,
    read_series,
    run_names,
    series_of,
    short_number,
    smoothed,
)


def lines(count=30, scale=1.0):
    records = [
        {
            "iteration": 20 * n + 19,
            "total_loss": scale * math.exp(-n / 10),
            "loss_cls": scale / (n + 1),
            "loss_ce_0": 1.0,
            "lr": 0.01,
            "time": 0.1,
        }
        for n in range(count)
    ]
    scores = {"sem_seg/mIoU": 50.0 * scale, "sem_seg/IoU-sky": 90.0, "bbox/APl": math.nan}
    return [*records, {"iteration": 20 * count, **scores}]


@pytest.fixture
def run(tmp_path):
    def write(name, records, end=""):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        text = "".join(json.dumps(record) + "\n" for record in records) + end
        (folder / "metrics.json").write_text(text)
        return folder

    return write


def test_reads_a_folder_and_a_file(run):
    folder = run("a", lines(3))
    for path in (folder, folder / "metrics.json"):
        (found,) = read_runs([path])
        assert found.name == "a"
        assert found.series["lr"].iterations.tolist() == [19, 39, 59]
        assert found.series["sem_seg/mIoU"].values.tolist() == [50]
        assert np.isnan(found.series["bbox/APl"].values).all()


def test_broken_lines_are_left_out(run, caplog):
    folder = run("a", lines(3), end='[1]\n{"iteration": "x"}\n\n{"iteration": 99, "lr": 0.0')
    assert read_series(folder / "metrics.json")["lr"].iterations.tolist() == [19, 39, 59]
    assert "3 lines cannot be read" in caplog.text


def test_a_resumed_run_replaces_what_it_repeats():
    """Written up to 50, resumed at 25: 30 and 50 of the first try are gone, 10 and 20 stay."""
    first = [{"iteration": at, "lr": 1.0} for at in (10, 20, 30, 50)]
    second = [{"iteration": at, "lr": 2.0} for at in (25, 45)]
    series = series_of([*first, *second])["lr"]
    assert series.iterations.tolist() == [10, 20, 25, 45]
    assert series.values.tolist() == [1, 1, 2, 2]
    assert set(series_of([{"iteration": 1, "a": "x", "b": True, "c": None, "d": 2}])) == {"d"}


def test_names_of_runs_differ(tmp_path):
    files = [tmp_path / name / "metrics.json" for name in ("x/run", "y/run", "z")]
    assert run_names(files) == ["x/run", "y/run", "z"]
    twice = [tmp_path / "x" / "metrics.json", tmp_path / "x" / "other.json"]
    assert len(set(run_names(twice))) == 2


def test_usual_metrics_and_their_order():
    known = [
        "lr", "time", "data_time", "eta_seconds", "total_loss", "loss_mask", "loss_ce", "loss_ce_0",
        "fast_rcnn/cls_accuracy", "panoptic_seg/SQ", "panoptic_seg/PQ_th", "panoptic_seg/PQ",
        "sem_seg/IoU-sky", "sem_seg/mIoU", "bbox/AP-disc", "bbox/AP", "segm/AP", "depth/error",
    ]  # fmt: skip
    groups = {group.name: group.metrics for group in choose(known, ())}
    assert groups == {
        "training": ("total_loss", "loss_ce", "loss_mask", "lr"),
        "semantic": ("sem_seg/mIoU",),
        "instances": ("bbox/AP", "segm/AP"),
        "panoptic": ("panoptic_seg/PQ", "panoptic_seg/PQ_th", "panoptic_seg/SQ"),
        "depth": ("depth/error",),
    }


def test_chosen_metrics():
    known = ["loss_ce_10", "loss_ce_9", "lr", "sem_seg/IoU-sky", "time", "a/b"]
    groups = {group.name: group.metrics for group in choose(known, ["ce_", "IoU-", "^t", "a/"])}
    assert groups == {
        "training": ("loss_ce_9", "loss_ce_10"),
        "semantic": ("sem_seg/IoU-sky",),
        "other": ("time",),
        "a": ("a/b",),
    }
    with pytest.raises(ValueError, match="no metric matches 'nothing'; known are a/b, loss_ce_10"):
        choose(known, ["ce_", "nothing"])
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        choose(known, ["("])
    with pytest.raises(ValueError, match="choose with --metrics from data_time, time"):
        choose(["time", "data_time"], ())


def test_smoothing_by_hand():
    """Twenty values allow a window of 2: one neighbor on either side, none outside."""
    values = np.arange(20.0) ** 2
    found = smoothed(values, 100)
    assert found[0] == (0 + 1) / 2
    assert found[5] == (16 + 25 + 36) / 3
    assert found[-1] == (18**2 + 19**2) / 2
    values[5] = np.nan
    found = smoothed(values, 100)
    assert np.isnan(found[5])
    assert found[6] == (36 + 49) / 2
    assert smoothed(values[:9], 20).tolist()[:5] == [0, 1, 4, 9, 16], "a short run stays"
    np.testing.assert_array_equal(smoothed(values, 1), values)
    assert is_smoothed("loss_ce")
    assert not is_smoothed("lr")
    assert not is_smoothed("sem_seg/mIoU")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.0123"), (0.02, "0.02"), (1.234, "1.23"), (49.66, "49.7"),
     (1234.5, "1234"), (2.5e-5, "2.5e-05"), (-0.5, "-0.5"), (123456, "1.2e+05")],
)  # fmt: skip
def test_short_numbers(value, text):
    assert short_number(value) == text


def test_draws_png(run, tmp_path, capsys):
    folders = [str(run(name, lines(scale=scale))) for name, scale in (("a", 1.0), ("b", 2.0))]
    output = tmp_path / "new" / "figure.png"
    assert plot_metrics.main([*folders, "--output", str(output)]) == 0
    assert "2 runs, 4 metrics" in capsys.readouterr().out
    with Image.open(output) as picture:
        colors = {tuple(c[1]) for c in picture.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colors, "a color for each run"


def test_svg_has_titles_names_and_last_values(run, tmp_path):
    folders = [str(run(name, lines(scale=scale))) for name, scale in (("a", 1.0), ("b", 2.0))]
    texts = []
    for name in ("one.svg", "two.svg"):
        output = tmp_path / name
        assert plot_metrics.main([*folders, "--output", str(output), "--smooth", "1"]) == 0
        texts.append(output.read_text())
    for text in ("training", "semantic", "total_loss", "sem_seg mIoU", "50.0", "100", "0.0333"):
        assert f">{text}<" in texts[0], text
    assert ">iteration<" in texts[0]
    assert "loss_ce_0" not in texts[0]


def test_one_run_has_no_legend_and_pdf_works(run, tmp_path):
    folder = run("only_run", lines())
    plot_metrics.main([str(folder), "--output", str(tmp_path / "f.svg")])
    assert "only_run" not in (tmp_path / "f.svg").read_text()
    assert plot_metrics.main([str(folder), "--output", str(tmp_path / "f.pdf")]) == 0
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


def test_runs_with_different_metrics_and_nan_only(run, tmp_path):
    runs = read_runs([run("a", lines(5)), run("b", [{"iteration": 3, "bbox/APl": math.nan}])])
    groups = choose((name for one in runs for name in one.series), ["lr", "APl"])
    assert draw_figure(runs, groups, tmp_path / "f.png", 20) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*metrics.json; name an output folder of train_net.py"),
        ("", "has no line with metrics"),
        ("nonsense\n", "has no line with metrics"),
        ('{"iteration": 1, "time": 2}\n', "no loss, learning rate or score was found"),
    ],
)
def test_messages_about_runs(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert plot_metrics.main([str(tmp_path), "--output", str(tmp_path / "f.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plot_metrics: ")
    assert re.search(message, error)


def test_messages_about_the_output(run, tmp_path, capsys):
    folder = str(run("a", lines(2)))
    assert plot_metrics.main([folder, "--output", "figure.jpg"]) == 2
    assert "must end in .png, .svg, .pdf" in capsys.readouterr().err
    (tmp_path / "f.png").mkdir()
    assert plot_metrics.main([folder, "--output", str(tmp_path / "f.png")]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert plot_metrics.main([folder, "--output", "f.png", "--metrics", "zzz"]) == 2
    assert "no metric matches 'zzz'; known are" in capsys.readouterr().err

"""The metrics of runs: what is read, which are chosen, what is drawn, and the messages."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from freqfusion.tools import plot_metrics
from freqfusion.tools.plot_metrics import build_figure, choose, read_runs, read_series, smoothed


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
        assert found.name == str(folder)
        assert found.series["lr"].iterations.tolist() == [19, 39, 59]
        assert found.series["sem_seg/mIoU"].values.tolist() == [50]
        assert np.isnan(found.series["bbox/APl"].values).all()


def test_broken_lines_are_left_out(run, caplog):
    folder = run("a", lines(3), end='[1]\n{"iteration": "x"}\n\n{"iteration": 99, "lr": 0.0')
    assert read_series(folder / "metrics.json")["lr"].iterations.tolist() == [19, 39, 59]
    assert "3 lines cannot be read" in caplog.text


def test_a_resumed_run_replaces_what_it_repeats(run):
    """Written up to 50, resumed at 25: 30 and 50 of the first try are gone, 10 and 20 stay."""
    first = [{"iteration": at, "lr": 1.0} for at in (10, 20, 30, 50)]
    second = [{"iteration": at, "lr": 2.0, "a": "x", "b": True, "c": None} for at in (25, 45)]
    found = read_series(run("a", [*first, *second]) / "metrics.json")
    assert set(found) == {"lr"}
    assert found["lr"].iterations.tolist() == [10, 20, 25, 45]
    assert found["lr"].values.tolist() == [1, 1, 2, 2]


def test_usual_metrics_and_their_order():
    known = [
        "lr", "time", "data_time", "eta_seconds", "total_loss", "loss_mask", "loss_ce", "loss_ce_0",
        "fast_rcnn/cls_accuracy", "panoptic_seg/SQ", "panoptic_seg/PQ_th", "panoptic_seg/PQ",
        "sem_seg/IoU-sky", "sem_seg/mIoU", "bbox/AP-disc", "bbox/AP", "bbox/APl", "depth/error",
    ]  # fmt: skip
    assert list(choose(known, ()).items()) == [
        ("training", ["loss_ce", "loss_mask", "lr", "total_loss"]),
        ("bbox", ["bbox/AP"]),
        ("depth", ["depth/error"]),
        ("panoptic_seg", ["panoptic_seg/PQ", "panoptic_seg/PQ_th", "panoptic_seg/SQ"]),
        ("sem_seg", ["sem_seg/mIoU"]),
    ]


def test_chosen_metrics():
    known = ["loss_ce_10", "loss_ce_9", "lr", "sem_seg/IoU-sky", "time", "a/b"]
    assert choose(known, ["ce_", "IoU-", "^t", "a/"]) == {
        "training": ["loss_ce_9", "loss_ce_10", "time"],
        "a": ["a/b"],
        "sem_seg": ["sem_seg/IoU-sky"],
    }
    with pytest.raises(ValueError, match="no metric matches 'nothing'; known are a/b, loss_ce_9"):
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


def test_draws_png(run, tmp_path, capsys):
    folders = [str(run(name, lines(scale=scale))) for name, scale in (("a", 1.0), ("b", 2.0))]
    output = tmp_path / "new" / "figure.png"
    assert plot_metrics.main([*folders, "--output", str(output)]) == 0
    assert "2 runs, 4 metrics" in capsys.readouterr().out
    with Image.open(output) as picture:
        colors = {tuple(c[1]) for c in picture.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colors, "a color for each run"


def test_figure(run, tmp_path):
    """Titles with the last values, a legend of two runs; losses alone are smoothed."""
    runs = read_runs([run("a", lines()), run("b", lines(scale=2.0))])
    groups = choose((name for one in runs for name in one.series), ())
    figure = build_figure(runs, groups, 20)
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.axison]
    assert titles == ["loss_cls: 0.0339, 0.0678", "lr: 0.01, 0.01", "total_loss: 0.0579, 0.116"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [one.name for one in runs]
    assert [len(axis.lines) for axis in figure.axes if axis.axison] == [4, 2, 4]
    assert not build_figure(runs[:1], groups, 1).legends
    assert plot_metrics.main([runs[0].name, "--output", str(tmp_path / "f.pdf")]) == 0
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


def test_one_value_is_a_number_and_none_is_left_out(run):
    final = {"iteration": 5, "sem_seg/mIoU": 40.0}
    final |= {"sem_seg/mIoU_thin": math.nan, "bbox/AP": math.nan}
    rates = [{"iteration": 1, "lr": 0.1}, {"iteration": 2, "lr": 0.2}]
    runs = read_runs([run("a", [*rates, final])])
    figure = build_figure(runs, choose(runs[0].series, ()), 20)
    titles = {axis.get_title(loc="left"): axis.axison for axis in figure.axes}
    drawn = {title: is_axis for title, is_axis in titles.items() if title}
    assert drawn == {"lr: 0.2": True, "sem_seg mIoU: 40": False}
    figure.draw_without_rendering()
    lowest, highest = (figure.axes[at].get_tightbbox().height for at in (-1, 0))
    assert lowest < highest / 3
    with pytest.raises(ValueError, match="no values that are numbers"):
        build_figure(runs, {"bbox": ["bbox/AP"]}, 20)


def test_runs_with_different_metrics_and_nan_only(run, tmp_path):
    runs = read_runs([run("a", lines(5)), run("b", [{"iteration": 3, "bbox/APl": math.nan}])])
    groups = choose((name for one in runs for name in one.series), ["lr", "APl"])
    build_figure(runs, groups, 20).savefig(tmp_path / "f.png")


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

"""Writers that fail whenever they are called, and what they have written when a run goes on."""

import json
import logging
import sys

import numpy as np
import pytest
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventStorage, TensorboardXWriter

from freqfusion.engine.hooks import build_writers
from freqfusion.engine.trainer import cut_curves


def write(writers):
    with EventStorage(0) as storage:
        for storage.iter in range(2):
            storage.put_scalar("loss", float(storage.iter), smoothing_hint=False)
            storage.put_image("image", np.zeros((3, 4, 5), np.uint8))
            for writer in writers[1:]:  # not the log, which wants a whole training
                writer.write()
            assert not storage._vis_data
        for writer in writers[1:]:
            writer.close()


def losses(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_scalars_and_images_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    write(build_writers(str(tmp_path), 2))
    assert losses(tmp_path) == [0.0, 1.0]
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("no space"), "(OSError: no space)"),
        (None, ": pip install tensorboard"),
    ],
)
def test_one_that_fails_is_switched_off_once(error, words, tmp_path, caplog, monkeypatch):
    def fail(self):
        raise error

    if error is None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    else:
        monkeypatch.setattr(TensorboardXWriter, "write", fail)
    with caplog.at_level(logging.WARNING):
        write(build_writers(str(tmp_path), 2))
    assert caplog.text.count("TensorboardXWriter is switched off for this run") == 1
    assert words in caplog.text
    assert losses(tmp_path) == [0.0, 1.0]


def test_curves_are_cut_where_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.json"
    whole = '{"iteration": 1, "loss": 1}\n{"iteration": 3, "loss": 1, "segm/AP": 2}\n'
    path.write_text(whole + '{"iteration": 4, "loss": 1}\n{"iter')
    cut_curves(str(tmp_path), 4, [])
    assert path.read_text() == whole
    path.write_text(whole + '{"iter')
    cut_curves(str(tmp_path), 9, [])
    assert path.read_text() == whole


def test_tensorboard_begins_where_the_run_goes_on(tmp_path):
    """Through the wrapper that keeps a failing writer from ending the run."""
    writers = build_writers(str(tmp_path), 9)
    cut_curves(str(tmp_path), 4, [PeriodicWriter(writers)])
    assert writers[-1].writer._writer_args["purge_step"] == 4

"""No run writes over another one unasked."""

import argparse
import os
import subprocess
import sys

import pytest

from freqfusion.engine.output_folder import check_output_folder, locked_folder, remove_run

# Another run, which tries to enter the folder whenever it is told to.
OTHER = """
import os, sys
from freqfusion.engine.output_folder import locked_folder
for _ in sys.stdin:
    try:
        entered = locked_folder(sys.argv[1])
        entered.__enter__()
        if os.fork() == 0:  # a worker that outlives the run
            sys.stdin.read()
            os._exit(0)
        print("entered", flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


def options(**given):
    return argparse.Namespace(**{"resume": False, "overwrite": False, "eval_only": False} | given)


def test_folder_with_anything_is_refused(tmp_path):
    check_output_folder(str(tmp_path), options())
    check_output_folder(str(tmp_path / "new"), options())
    for name in "abcde":
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"is not empty \(a, b, c and 2 more\).*--overwrite"):
        check_output_folder(str(tmp_path), options())
    for given in ("resume", "overwrite", "eval_only"):
        check_output_folder(str(tmp_path), options(**{given: True}))


def test_a_run_that_ended_before_its_first_record_does_not_stand_in_the_way(tmp_path):
    for name in ("config.yaml", "log.txt", "events.out.tfevents.1.host", "metrics.json", ".lock"):
        (tmp_path / name).touch()
    check_output_folder(str(tmp_path), options())
    (tmp_path / "metrics.json").write_text('{"iteration": 19}\n')
    with pytest.raises(ValueError, match=r"is not empty \(metrics\.json\)"):
        check_output_folder(str(tmp_path), options())


def test_two_runs_are_not_in_one_folder(tmp_path):
    """The second is told of the first; the lock of a killed process is gone, its file is not."""
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def tries():
        print(file=other.stdin, flush=True)
        return other.stdout.readline()

    try:
        with locked_folder(str(folder)):
            assert f"is in use by process {os.getpid()} on " in tries()
        check_output_folder(str(folder), options())
        assert tries() == "entered\n"
        with (
            pytest.raises(ValueError, match=rf"{folder} is in use by process {other.pid} on .* 20"),
            locked_folder(str(folder)),
        ):
            pass
        other.kill()
        other.wait()
        with locked_folder(str(folder)):
            assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    finally:
        other.kill()
        other.communicate()


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file/run")
    with pytest.raises(ValueError, match="Not a directory"), locked_folder(folder):
        pass


def test_folder_without_a_checkpoint_is_not_evaluated(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint that --eval-only --resume could eval"):
        check_output_folder(str(tmp_path), options(eval_only=True, resume=True))
    (tmp_path / "model_final.pth").touch()
    check_output_folder(str(tmp_path), options(eval_only=True, resume=True))


def test_what_does_not_fit_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="give one of them"):
        check_output_folder(str(tmp_path), options(resume=True, overwrite=True))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: name a folder"):
        check_output_folder(str(tmp_path / "file"), options(overwrite=True))


def test_overwrite_deletes_what_a_run_writes_and_nothing_else(tmp_path):
    ours = ["model_0000004.pth", "model_final.pth", "metrics.json", "log.txt.rank1",
            "last_checkpoint", "events.out.tfevents.1.host", "inference/coco.json"]  # fmt: skip
    others = ["notes.txt", "model_mine.pth", "inference_old/x", "log.txt.d/x"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_run(str(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)

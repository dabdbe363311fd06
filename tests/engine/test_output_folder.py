"""No run writes over another one unasked."""

import argparse

import pytest

from freqfusion.engine.output_folder import check_output_folder, remove_run


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

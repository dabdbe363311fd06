"""Keep a run from writing over another one without a request."""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from freqfusion.data.validation.issues import shorten
from freqfusion.engine.checkpoint import has_checkpoint

logger = logging.getLogger(__name__)

# What a training writes into OUTPUT_DIR.
FILES = (
    "model_[0-9]*.pth",
    "model_final.pth",
    "model_best.pth",
    "model_best.json",
    "last_checkpoint",
    "metrics.json",
    "results.json",
    ".model_*.part",
    ".last_checkpoint.*.part",
    ".results.json.*.part",
    "config.yaml",
    "log.txt",
    "log.txt.rank*",
    "events.out.tfevents.*",
)
FOLDERS = ("inference",)
_NAMED = 3


def check_output_folder(folder: str, arguments: argparse.Namespace) -> None:
    """Refuse to start a training where anything lies already, or to evaluate what is not there.

    Raises:
        ValueError: unless the folder is empty or new, or ``--resume`` or ``--overwrite`` is given;
            for an evaluation with ``--resume`` unless it has a checkpoint.
    """
    given = [getattr(arguments, name, False) for name in ("resume", "overwrite")]
    if getattr(arguments, "eval_only", False):
        if given[0] and not has_checkpoint(folder):
            raise ValueError(
                f"OUTPUT_DIR {folder} has no checkpoint that --eval-only --resume could evaluate:"
                " name the folder of a run, or leave out --resume and give MODEL.WEIGHTS FILE"
            )
        return
    if all(given):
        raise ValueError("--resume goes on with a run and --overwrite deletes it: give one of them")
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"OUTPUT_DIR {folder} is a file: name a folder")
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if there and not any(given):
        raise ValueError(
            f"OUTPUT_DIR {folder} is not empty ({shorten(there, _NAMED)}): go on with the"
            " run there by --resume, delete it by --overwrite, or name another folder"
        )


def remove_run(folder: str) -> None:
    """Delete what a training writes, and nothing else."""
    path = Path(folder)
    files = [file for pattern in FILES for file in path.glob(pattern) if not file.is_dir()]
    folders = [path / name for name in FOLDERS if (path / name).is_dir()]
    for file in files:
        file.unlink(missing_ok=True)
    for one in folders:
        if one.is_symlink():
            one.unlink()
        else:
            shutil.rmtree(one)
    if files or folders:
        logger.info("--overwrite deleted %d files and folders of a run", len(files) + len(folders))

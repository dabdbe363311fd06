"""Derive the label maps that training needs: ``python -m freqfusion.tools.prepare coco``.

Data sets lie in Detectron2's usual folders below ``--root``: coco, cityscapes,
ADEChallengeData2016 and camvid; your own is named by its declaration (see
``freqfusion.data.declared``), whose ``stuff`` folders are derived from the panoptic ground truth.
What is there already is kept; an interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from freqfusion.data.preparation import (
    prepare_ade20k,
    prepare_camvid,
    prepare_cityscapes,
    prepare_coco,
    prepare_declared,
)
from freqfusion.data.workers import Derived, PreparationOptions
from freqfusion.tools._arguments import parse

INTERRUPTED = 130
PREPARATIONS: dict[str, tuple[str, Callable[[Path, PreparationOptions], list[Derived]]]] = {
    "coco": ("coco", prepare_coco),
    "cityscapes": ("cityscapes", prepare_cityscapes),
    "ade20k": ("ADEChallengeData2016", prepare_ade20k),
    "camvid": ("camvid", prepare_camvid),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare one data set; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    started = time.perf_counter()
    try:
        steps = _prepare(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    for step in steps:
        print(step.sentence())
    print(f"{options.dataset} is ready after {time.perf_counter() - started:.1f} s")
    return 0


def _prepare(options: argparse.Namespace) -> list[Derived]:
    how = PreparationOptions(options.workers, options.overwrite)
    if options.dataset not in PREPARATIONS:
        return prepare_declared(Path(options.dataset), how)
    name, prepare = PREPARATIONS[options.dataset]
    folder = options.root / name
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}; put the data set there, or name the folder above it"
            " with --root (or the variable DETECTRON2_DATASETS)"
        )
    return prepare(folder, how)


def _dataset(text: str) -> str:
    if text not in PREPARATIONS and not text.endswith((".yaml", ".yml")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(PREPARATIONS)}, nor a declaration (.yaml)"
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.prepare",
        description="Derive the label maps that training needs from those of the download.",
    )
    add = parser.add_argument
    add(
        "dataset",
        type=_dataset,
        metavar="DATASET",
        help=f"{', '.join(PREPARATIONS)}, or the YAML file that declares an own data set",
    )
    add(
        "--root",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser(),
        help="folder of all data sets; not given: $DETECTRON2_DATASETS, or datasets",
    )
    add("--workers", type=int, metavar="K", help="processes; not given: one a processor")
    add("--overwrite", action="store_true", help="write again what is there already")
    return parser


if __name__ == "__main__":
    sys.exit(main())

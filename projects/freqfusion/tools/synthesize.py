"""Write a data set of synthetic scenes: ``python -m freqfusion.tools.synthesize --output DIR``.

Layouts: COCO (see ``freqfusion.data.synthetic.coco``), Cityscapes (see
``freqfusion.data.synthetic.cityscapes``), and rehearsal: stand-ins for COCO, Cityscapes and ADE20K
under one folder, with which every configuration runs (see ``freqfusion.data.rehearsal``).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from freqfusion.data.synthetic import (
    DETAILS,
    MASK_FORMATS,
    Difficulty,
    write_cityscapes,
    write_coco,
)
from freqfusion.tools._arguments import parse_size

LAYOUTS = ("coco", "cityscapes", "rehearsal")

_FACTORS = {
    "object_size": "factor on the size of things",
    "texture_frequency": "factor on the spatial frequency of patterns",
    "contrast": "factor on the difference of things and most stuff to what is behind; 0 hides them",
    "noise": "factor on the grain",
    "occlusion": "factor on the number of things, which hide each other",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set; return the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    try:
        root = _write(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"synthesize: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    print(_summary(options, root, seconds))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.synthesize",
        description="Write a data set of synthetic scenes with exact segmentation ground truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--layout", choices=LAYOUTS, default="coco", help="arrangement of files and annotations")
    add("--num-train", type=int, default=200, metavar="N", help="scenes in the train split")
    add("--num-val", type=int, default=50, metavar="N", help="scenes in the val split")
    tune = "scenes in the tune split, on which to choose learning rates and the like"
    add("--num-tune", type=int, default=0, metavar="N", help=tune)
    sides = "height x width of a scene"
    add("--size", type=parse_size, default="256x256", metavar="HxW", help=sides)
    add("--seed", type=int, default=0, metavar="S", help="another seed gives other scenes")
    add("--workers", type=int, metavar="K", help="processes; not given: one a processor")
    masks = "of COCO instance masks; rle needs INPUT.MASK_FORMAT bitmask in Detectron2"
    add("--mask-format", choices=MASK_FORMATS, default="polygon", help=masks)
    detail = "simple: a few large things in each scene; thin: mostly fences, wires, poles, wheels"
    add("--detail", choices=DETAILS, default="full", help=detail)
    overwrite = "replace a synthetic data set that is there already"
    add("--overwrite", action="store_true", help=overwrite)
    _add_dials(parser)
    return parser


def _add_dials(parser: argparse.ArgumentParser) -> None:
    dials = parser.add_argument_group(
        "difficulty", "Scenes of the same seed have the same layout whatever these dials say."
    )
    lines = "of all thin lines; not given: by kind and distance"
    dials.add_argument("--line-thickness", type=int, metavar="PIXELS", help=lines)
    for name, text in _FACTORS.items():
        flag = f"--{name.replace('_', '-')}"
        dials.add_argument(flag, type=float, default=1.0, metavar="X", help=text)


def _write(options: argparse.Namespace) -> Path:
    shared = {
        "num_train": options.num_train,
        "num_val": options.num_val,
        "num_tune": options.num_tune,
        "size": options.size,
        "seed": options.seed,
        "workers": options.workers,
        "detail": options.detail,
        "difficulty": _difficulty(options),
        "overwrite": options.overwrite,
    }
    if options.layout == "rehearsal":
        return _write_rehearsal(options)
    if options.layout == "coco":
        return write_coco(options.output, mask_format=options.mask_format, **shared)
    return write_cityscapes(options.output, **shared)


def _difficulty(options: argparse.Namespace) -> Difficulty:
    dials = (field.name for field in dataclasses.fields(Difficulty))
    return Difficulty(**{name: getattr(options, name) for name in dials})


def _write_rehearsal(options: argparse.Namespace) -> Path:
    if options.detail != "full" or _difficulty(options) != Difficulty() or options.num_tune:
        raise ValueError(
            "the rehearsal layout has full scenes without dials and no tune split; leave --detail,"
            " --num-tune and the difficulty as they are, or choose another layout"
        )
    try:
        from freqfusion.data.rehearsal import write_rehearsal
    except ImportError as error:
        raise RuntimeError(
            f"the names of the real data sets come from Detectron2 ({error}); python -m "
            "freqfusion.tools.doctor says how to install it"
        ) from error
    return write_rehearsal(
        options.output,
        num_train=options.num_train,
        num_val=options.num_val,
        size=options.size,
        seed=options.seed,
    )


def _summary(options: argparse.Namespace, root: Path, seconds: float) -> str:
    count = options.num_train + options.num_val + options.num_tune
    height, width = options.size
    return (
        f"{count} scenes of {height}x{width} ({options.num_train} train, {options.num_val} val,"
        f" {options.num_tune} tune), {options.layout} layout, in {seconds:.1f} s\n"
        f"folder: {root.resolve()}"
    )


if __name__ == "__main__":
    sys.exit(main())

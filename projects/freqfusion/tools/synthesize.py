"""Write a data set of synthetic scenes: ``python -m freqfusion.tools.synthesize --output DIR``.

Layouts: COCO (see ``freqfusion.data.synthetic.coco``), Cityscapes (see
``freqfusion.data.synthetic.cityscapes``), and rehearsal: stand-ins for COCO, Cityscapes and ADE20K
under one folder, with which every configuration runs (see ``freqfusion.data.rehearsal``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from freqfusion.data.synthetic import DETAILS, write_cityscapes, write_coco
from freqfusion.tools._arguments import parse, parse_size

LAYOUTS = ("coco", "cityscapes", "rehearsal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
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
    add(
        "--num-tune",
        type=int,
        default=0,
        metavar="N",
        help="scenes in the tune split, on which to choose learning rates and the like",
    )
    add(
        "--size",
        type=parse_size,
        default="256x256",
        metavar="HxW",
        help="height x width of a scene",
    )
    add("--seed", type=int, default=0, metavar="S", help="another seed gives other scenes")
    add("--workers", type=int, metavar="K", help="processes; not given: one a processor")
    add(
        "--detail",
        choices=DETAILS,
        default="full",
        help="simple: a few large things in each scene; thin: mostly fences, wires, poles, wheels",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace a synthetic data set that is there already",
    )
    add(
        "--line-thickness",
        type=int,
        metavar="PIXELS",
        help="of all thin lines, in the same scenes; not given: by kind and distance",
    )
    return parser


def _write(options: argparse.Namespace) -> Path:
    shared = {
        "num_train": options.num_train,
        "num_val": options.num_val,
        "num_tune": options.num_tune,
        "size": options.size,
        "seed": options.seed,
        "workers": options.workers,
        "detail": options.detail,
        "line_thickness": options.line_thickness,
        "overwrite": options.overwrite,
    }
    if options.layout == "rehearsal":
        return _write_rehearsal(options)
    if options.layout == "coco":
        return write_coco(options.output, **shared)
    return write_cityscapes(options.output, **shared)


def _write_rehearsal(options: argparse.Namespace) -> Path:
    if options.detail != "full" or options.line_thickness or options.num_tune:
        raise ValueError(
            "the rehearsal layout has full scenes and no tune split; leave --detail, --num-tune and"
            " --line-thickness as they are, or choose another layout"
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
    tune = f", {options.num_tune} tune" if options.num_tune else ""
    height, width = options.size
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.json") if _is_index(path))
    return "\n".join(
        [
            f"{count} scenes of {height}x{width} ({options.num_train} train,"
            f" {options.num_val} val{tune})"
            f", {options.layout} layout, in {seconds:.1f} s ({count / seconds:.0f} a second)",
            f"folder: {root.resolve()}",
            f"annotations: {', '.join(files)}",
        ]
    )


def _is_index(path: Path) -> bool:
    return path.name.startswith(("instances_", "panoptic_", "cityscapes_panoptic_"))


if __name__ == "__main__":
    sys.exit(main())

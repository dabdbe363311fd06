"""Twenty COCO photographs learned by heart: ``python -m benchmarks.photographs --coco FOLDER``.

Trains the small Panoptic FPN with and without FreqFusion on the first twenty photographs that may
be shown (CC BY, CC BY-SA or no known restrictions), evaluates it on the same ones, and draws one of
them. A pipeline that cannot do this is broken; what the two models make of other photographs it
does not say. ``FOLDER`` is COCO's, with images, panoptic JSON and PNG files of ``train2017``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.documents import CHECKOUT, SCHEMA, write_json

MODELS = {
    "nearest (plain FPN)": "coco/panoptic-segmentation/panoptic_fpn_lite0",
    "FreqFusion": "coco/panoptic-segmentation/freqfusion_panoptic_fpn_lite0",
}
# Of COCO's list: Attribution, Attribution-ShareAlike, no known copyright restrictions.
SHOWABLE = (4, 5, 7)
SPLITS = ("train2017", "val2017")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate and draw; return the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    data = options.output / "data"
    try:
        subset = write_subset(options.coco, data / "coco", SHOWABLE)
    except (OSError, ValueError, KeyError) as error:
        print(f"photographs: {error}", file=sys.stderr)
        return 2
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data)}
    run(environment, "prepare", "coco")
    scores = {}
    for title, config in MODELS.items():
        folder = options.output / Path(config).name
        if not (folder / "results.json").is_file():
            run(environment, "train", "--config-file", config, "OUTPUT_DIR", str(folder))
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        scores[title] = next(iter(results["datasets"].values()))
    write_json(CHECKOUT / "results/photographs.json", {"schema": SCHEMA, "scores": scores})
    for title, tasks in scores.items():
        print(f"{title}: PQ {tasks['panoptic_seg']['PQ']:.1f} on the photographs it was trained on")
    os.environ["DETECTRON2_DATASETS"] = str(data)
    print(draw(options, subset))
    return 0


def write_subset(coco: Path, folder: Path, licences: Collection[int], count: int = 20) -> Any:
    """Write the first photographs of some licences as both splits of a small COCO.

    Args:
        coco: COCO's folder.
        folder: What to write: JSON files, and links to images and PNG files.
        licences: Numbers of COCO's list; empty for any.
        count: How many photographs.

    Returns:
        The content of the panoptic JSON.

    Raises:
        OSError: if COCO is not there.
        ValueError: if it has too few such photographs.
    """
    content = json.loads((coco / "annotations/panoptic_train2017.json").read_text("utf-8"))
    listed = sorted(content["images"], key=lambda one: one["id"])
    images = [one for one in listed if not licences or one["license"] in licences][:count]
    if len(images) < count:
        raise ValueError(f"{coco} has {len(images)} photographs of these licences, not {count}")
    numbers = {one["id"] for one in images}
    chosen = [one for one in content["annotations"] if one["image_id"] in numbers]
    content |= {"images": images, "annotations": chosen}
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        file = folder / f"annotations/panoptic_{split}.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        for kind, entries in (("", images), ("panoptic_", chosen)):
            (folder / f"{kind}{split}").mkdir(exist_ok=True)
            for one in entries:
                link = folder / f"{kind}{split}" / one["file_name"]
                if not link.exists():
                    link.symlink_to((coco / f"{kind}train2017" / one["file_name"]).resolve())
    return content


def run(environment: dict[str, str], tool: str, *words: str) -> None:
    """Run a tool; its messages go to the terminal."""
    command = [sys.executable, "-m", f"freqfusion.tools.{tool}", *words]
    subprocess.run(command, env=environment, cwd=CHECKOUT, check=True)


def draw(options: argparse.Namespace, content: Any) -> Path:
    """Draw image, ground truth and predictions above a part of each, and return the file."""
    import matplotlib.pyplot as plt
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from matplotlib.patches import Rectangle

    from freqfusion import Predictor
    from freqfusion.drawing import draw_image
    from freqfusion.evaluation.overlays import draw_content, gt_content

    name = "coco_2017_val_panoptic_separated"
    predictors = {
        title: Predictor(config, options.output / Path(config).name / "model_final.pth")
        for title, config in MODELS.items()
    }
    entry = next(one for one in DatasetCatalog.get(name) if int(one["image_id"]) == options.image)
    image = np.asarray(Image.open(entry["file_name"]).convert("RGB"))
    gt = gt_content(entry, MetadataCatalog.get(name), image.shape[:2])
    panels = {"photograph": draw_image(image)}
    panels["ground truth"] = draw_content(image, gt)["panoptic"]
    for title, predictor in predictors.items():
        panels[title] = np.asarray(predictor.draw(image))
    left, top, right, bottom = options.part
    scale = panels["photograph"].shape[0] / image.shape[0]
    rows, columns = (
        slice(round(scale * first), round(scale * last))
        for first, last in ((top, bottom), (left, right))
    )
    figure, axes = plt.subplots(2, len(panels), figsize=(3.4 * len(panels), 5.6))
    for (title, panel), (above, below) in zip(panels.items(), axes.T, strict=True):
        above.set_title(title, fontsize=11)
        above.imshow(panel)
        below.imshow(panel[rows, columns])
        frame = Rectangle(
            (scale * left, scale * top), scale * (right - left), scale * (bottom - top),
            fill=False, edgecolor="white", linewidth=1.5,
        )  # fmt: skip
        above.add_patch(frame)
        for axis in (above, below):
            axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    file = CHECKOUT / "docs/photograph.png"
    figure.savefig(file, dpi=80)
    licences = {one["id"]: one["name"] for one in content["licenses"]}
    shown = next(one for one in content["images"] if one["id"] == options.image)
    print(f"{shown['flickr_url']}: {licences[shown['license']]}")
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    add = parser.add_argument
    add("--coco", type=Path, required=True, metavar="FOLDER", help="COCO, with train2017")
    output = CHECKOUT / "output/photographs"
    add("--output", type=Path, default=output, metavar="DIR", help="trainings; output/photographs")
    add("--image", type=int, default=89, metavar="ID", help="the photograph to draw")
    part = "the part to enlarge: left top right bottom, in pixels"
    add("--part", type=int, nargs=4, default=(460, 80, 600, 250), metavar="N", help=part)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Record the numbers of the original Cityscapes evaluation on ``cityscapes_cases``.

    python tests/cityscapes_reference.py               writes metrics/cityscapes_reference.json

It needs cityscapesscripts 2.3.0 with numpy below 2 and Pillow below 11, in an environment of its
own, and ``projects`` in PYTHONPATH. The tests read the JSON only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
from cityscapes_cases import SPOILS, digest, make_case, packed
from PIL import Image

FILE = Path(__file__).parent / "metrics" / "cityscapes_reference.json"


def recipes():
    for spoil in SPOILS:
        for seed in (1, 2):
            size, images = [96, 128], 3
            yield {"truth": "blobs", "spoil": spoil, "seed": seed, "images": images, "size": size}
    for seed in (4, 5):
        size, spoil = [60, 80], "fractions"
        yield {"truth": "blocks", "spoil": spoil, "seed": seed, "images": 3, "size": size}
    for spoil in ("perfect", "shifted", "mixed"):
        yield {"truth": "scenes", "spoil": spoil, "seed": 7, "images": 2, "size": [96, 128]}


def write_case(folder, images):
    """Files of truth, of semantic and of instance predictions, as the original reads them."""
    truths, semantic, instances = [], [], []
    for at, image in enumerate(images):
        name = folder / f"town_{at:06d}_000019"
        truths.append(f"{name}_gtFine_labelIds.png")
        Image.fromarray(image.label_ids.astype(np.uint8)).save(truths[-1])
        path = f"{name}_gtFine_instanceIds.png"
        Image.fromarray(image.instance_ids.astype(np.uint16)).save(path)
        semantic.append(f"{name}_pred.png")
        Image.fromarray(image.prediction.astype(np.uint8)).save(semantic[-1])
        lines = []
        for number, mask in enumerate(image.masks):
            file = f"{name.name}_{number}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file)
            lines.append(f"{file} {image.labels[number]} {image.scores[number]!r}\n")
        instances.append(f"{name}_pred.txt")
        Path(instances[-1]).write_text("".join(lines), encoding="utf-8")
    return truths, semantic, instances


def original(images):
    """Results of the original by name, nan as None; "instances" None where it has no answer."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as masks
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixels

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name).resolve()
        truths, semantic, instances = write_case(folder, images)
        for module in (masks, pixels):
            module.args.quiet, module.args.JSONOutput = True, False
        scores = pixels.evaluateImgLists(semantic, truths, pixels.args)
        masks.args.predictionPath = str(folder)
        masks.args.gtInstancesFile = str(folder / "gtInstances.json")
        maps = [path.replace("labelIds", "instanceIds") for path in truths]
        try:
            found = masks.evaluateImgLists(instances, maps, masks.args)
        except IndexError:
            found = None
    semantic_keys = "classScores", "classInstScores", "categoryScores", "categoryInstScores"
    averages = [f"averageScore{part}" for part in ("Classes", "InstClasses")]
    averages += [f"averageScore{part}" for part in ("Categories", "InstCategories")]
    return plain(
        {
            "semantic": {key: scores[key] for key in (*semantic_keys, *averages)},
            "instances": found
            and {
                **found["averages"],
                "matrix": found["resultApMatrix"][0],
                "of": found["instLabels"],
            },
        }
    )


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    return value


def record():
    cases = []
    for recipe in recipes():
        images = make_case(recipe)
        maps = [packed(image.instance_ids) for image in images]
        kept = {"maps": maps} if recipe["truth"] == "scenes" else {}
        cases.append(
            {"recipe": recipe, **kept, "digest": digest(images), "original": original(images)}
        )
    text = ",\n".join(json.dumps(case) for case in cases)
    FILE.write_text(f"[\n{text}\n]\n", encoding="utf-8")
    print(
        f"{len(cases)} cases, without instance scores:",
        [case["recipe"] for case in cases if case["original"]["instances"] is None],
    )


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    # The original reads this when it is imported, and would look into its own folder.
    os.environ.setdefault("CITYSCAPES_DATASET", tempfile.gettempdir())
    record()


if __name__ == "__main__":
    main()

"""Small data sets to break, registered for one test, and what a check says of them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from freqfusion.data.synthetic import write_coco
from freqfusion.data.validation.datasets import check_dataset
from freqfusion.data.validation.issues import ERROR

SIZE = (32, 48)
INSTANCES = "annotations/instances_train.json"
PANOPTIC = "annotations/panoptic_train.json"
FIRST = "000000000001"
INSTANCE_SET, SEMANTIC_SET, PANOPTIC_SET, SEPARATED_SET, VAL_SET = (
    f"synthetic_{name}"
    for name in (
        "instances_train",
        "semantic_train",
        "panoptic_train",
        "panoptic_train_separated",
        "instances_val",
    )
)
NAMES = (INSTANCE_SET, SEMANTIC_SET, PANOPTIC_SET, SEPARATED_SET, VAL_SET)


def write_small_coco(folder):
    """Three training images and two others."""
    return write_coco(folder, num_train=3, num_val=2, size=SIZE, workers=1, progress=False)


def repeat_first(section):
    """A change of a JSON file: its first entry of a section comes again."""
    return lambda content: content[section].append(dict(content[section][0]))


def save_image(mode):
    """A change of a data set: the first training image has another mode."""

    def change(root):
        path = root / f"train/{FIRST}.jpg"
        with Image.open(path) as picture:
            picture.convert(mode).save(path, "PNG")

    return change


def edit_json(path, change):
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_png(path, change):
    """Change the pixels of a PNG in place."""
    with Image.open(path) as picture:
        pixels = np.array(picture)
    changed = change(pixels)
    Image.fromarray(pixels if changed is None else changed).save(path)


def cut(path):
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def check(name, cfg=None):
    return check_dataset(name, cfg, workers=1)


def errors(findings, root):
    """(kind, file below the root) of each error."""
    return {(f.kind, place(f, root)) for f in findings if f.severity == ERROR}


def notes(findings, root):
    """(kind, file below the root) of each note."""
    return {(f.kind, place(f, root)) for f in findings if f.severity != ERROR}


def place(finding, root):
    path = Path(finding.file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else finding.file


def only(findings, severity, kind):
    """The one finding of this kind."""
    (finding,) = [f for f in findings if (f.severity, f.kind) == (severity, kind)]
    return finding


def assert_found(name, root, damage, expected, file):
    """Break a data set: it has the expected errors, and each issue says all that it should.

    ``expected`` is a set of (kind, file below the root), or the kind of an error of ``file``.
    """
    damage(root)
    issues = check(name)
    wanted = {(expected, file)} if isinstance(expected, str) else expected
    assert errors(issues, root) == wanted
    for issue in issues:
        assert issue.dataset == name
        assert issue.found
        assert issue.expected
        assert issue.sentence().startswith(issue.file)

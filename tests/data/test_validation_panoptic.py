"""Panoptic and semantic truth: each way of breaking it has its own finding."""

import re
import shutil

import numpy as np
import pytest
from validation_sets import (
    FIRST,
    PANOPTIC,
    check,
    cut,
    edit_json,
    edit_png,
    errors,
    registered_coco,
    repeat_first,
    write_small_coco,
)

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_small_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def root(good, tmp_path):
    with registered_coco(shutil.copytree(good, tmp_path / "coco")) as root:
        yield root


def panoptic(change):
    return lambda root: edit_json(root / PANOPTIC, change)


def segment(change):
    return panoptic(lambda c: change(c["annotations"][0]["segments_info"][0]))


def png(folder, change):
    return lambda root: edit_png(root / folder / f"{FIRST}.png", change)


def set_pixel(value):
    def change(pixels):
        pixels[0, 0] = value

    return change


def shift_box(annotation):
    annotation["bbox"][0] += 5


BROKEN_PANOPTIC = {
    "PNG missing": (
        lambda root: (root / f"panoptic_train/{FIRST}.png").unlink(),
        {("missing file", f"panoptic_train/{FIRST}.png")},
        "is not there; expected: an image, since .*panoptic_train.json needs it",
    ),
    "PNG truncated": (
        lambda root: cut(root / f"panoptic_train/{FIRST}.png"),
        {("unreadable image", f"panoptic_train/{FIRST}.png")},
        "expected: a whole image",
    ),
    "PNG in grey": (
        png("panoptic_train", lambda pixels: pixels[..., 0].copy()),
        {("image of a wrong mode", f"panoptic_train/{FIRST}.png")},
        r"has the mode L; expected: ids as 8 bit colors \(mode RGB or RGBA or P\)",
    ),
    "PNG of another size": (
        png("panoptic_train", lambda pixels: np.concatenate([pixels, pixels[:1]])),
        {("size mismatch", f"panoptic_train/{FIRST}.png")},
        r"is 33 x 48 \(height x width\); expected: 32 x 48 \(height x width\) as its image",
    ),
    "id that is not in the JSON": (
        png("panoptic_train", set_pixel([1, 2, 0])),
        {
            ("id that is not in the JSON", f"panoptic_train/{FIRST}.png"),
            ("wrong area", PANOPTIC),
        },
        "has the ids 513, which .*json does not tell of; expected: an entry of segments_info",
    ),
    "id that is not in the PNG": (
        panoptic(
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0] | {"id": 5}
            )
        ),
        {("id that is not in the PNG", f"panoptic_train/{FIRST}.png")},
        "has no pixel of the segment 5; expected: some, since .*json tells of it",
    ),
    "wrong area": (
        segment(lambda s: s.update(area=s["area"] + 1)),
        {("wrong area", PANOPTIC)},
        rf"segment \d+ of .*{FIRST}.png has the area \d+; expected: \d+, its number of pixels",
    ),
    "wrong bbox": (
        segment(shift_box),
        {("wrong bbox", PANOPTIC)},
        r"has the bbox \[.*\]; expected: \[.*\] \(x, y, width, height\)",
    ),
    "unknown category": (
        segment(lambda s: s.update(category_id=55)),
        {("unknown category", PANOPTIC)},
        rf"segment \d+ of {FIRST}.png has the category_id 55; expected: the id of an entry",
    ),
    "segment twice": (
        panoptic(
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            )
        ),
        {("repeated segment id", PANOPTIC)},
        rf"has the segment id \d+ of {FIRST}.png 2 times",
    ),
    "annotation twice": (
        panoptic(repeat_first("annotations")),
        {("repeated annotation of image", PANOPTIC)},
        "has the annotation of image 1 2 times",
    ),
    "annotation without segments": (
        panoptic(lambda c: c["annotations"][0].pop("segments_info")),
        {("malformed entry", PANOPTIC)},
        "the annotation of image 1 is not whole; expected: file_name, and segments_info",
    ),
    "annotation of no image": (
        panoptic(lambda c: c["annotations"][0].update(image_id=99)),
        {("annotation of an unknown image", PANOPTIC)},
        "the annotation of image 99 has the image_id 99",
    ),
    "crowd of stuff": (
        panoptic(lambda c: [s.update(iscrowd=1) for s in stuff_segments(c["annotations"][0])][:0]),
        {("inconsistent iscrowd", PANOPTIC)},
        "has iscrowd 1; expected: 0, or 1 for a crowd of things",
    ),
    "stuff that is called a thing": (
        panoptic(lambda c: c["categories"][-1].update(isthing=1)),
        {("categories that differ", PANOPTIC)},
        r"category 106 \('fence'\) has isthing 1; expected: 0 as in the metadata",
    ),
    "stuff of another name": (
        panoptic(lambda c: c["categories"][-1].update(name="hedge")),
        {("categories that differ", PANOPTIC)},
        "calls category 106 'hedge'; expected: 'fence' as in the metadata",
    ),
}


def stuff_segments(annotation):
    return [s for s in annotation["segments_info"] if s["category_id"] > 100]


@pytest.mark.parametrize("case", BROKEN_PANOPTIC)
def test_broken_panoptic(root, case):
    damage, expected, sentence = BROKEN_PANOPTIC[case]
    damage(root)
    findings = check("broken_standard")
    assert errors(findings, root) == expected
    assert any(re.search(sentence, f.sentence()) for f in findings)


BROKEN_SEMANTIC = {
    "folder missing": (
        lambda root: shutil.rmtree(root / "panoptic_stuff_train"),
        {("missing folder", "panoptic_stuff_train")},
        r"made by python -m freqfusion.tools.prepare <declaration>.yaml",
    ),
    "PNG missing": (
        lambda root: (root / f"panoptic_stuff_train/{FIRST}.png").unlink(),
        {("missing file", f"panoptic_stuff_train/{FIRST}.png")},
        rf"is not there; expected: the labels of .*{FIRST}.jpg \(made by ",
    ),
    "PNG truncated": (
        lambda root: cut(root / f"panoptic_stuff_train/{FIRST}.png"),
        {("unreadable image", f"panoptic_stuff_train/{FIRST}.png")},
        "expected: a whole image",
    ),
    "label outside of the range": (
        png("panoptic_stuff_train", set_pixel(7)),
        {("label outside of the range", f"panoptic_stuff_train/{FIRST}.png")},
        r"has the label 7 \(1 pixels\); expected: 0..6, or 255 \(ignored\)",
    ),
    "PNG in color": (
        png("panoptic_stuff_train", lambda pixels: np.stack([pixels] * 3, axis=-1)),
        {("image of a wrong mode", f"panoptic_stuff_train/{FIRST}.png")},
        "has the mode RGB; expected: one number a pixel",
    ),
    "PNG of another size": (
        png("panoptic_stuff_train", lambda pixels: pixels[:, :40].copy()),
        {("size mismatch", f"panoptic_stuff_train/{FIRST}.png")},
        r"is 32 x 40 .*; expected: 32 x 48 \(height x width\) as its image",
    ),
    "PNG whose checksum is wrong": (
        lambda root: flip_byte(root / f"panoptic_stuff_train/{FIRST}.png"),
        {("unreadable image", f"panoptic_stuff_train/{FIRST}.png")},
        "expected: a whole image",
    ),
}


def flip_byte(path):
    """Damage the header's checksum: bytes 29..32 after signature, length, IHDR and 13 bytes."""
    content = bytearray(path.read_bytes())
    content[30] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["broken_stuffonly", "broken_separated"])
@pytest.mark.parametrize("case", BROKEN_SEMANTIC)
def test_broken_semantic(root, case, name):
    damage, expected, sentence = BROKEN_SEMANTIC[case]
    damage(root)
    findings = check(name)
    assert errors(findings, root) == expected
    assert any(re.search(sentence, f.sentence()) for f in findings)

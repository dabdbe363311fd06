"""Scenes without dials stay what they are, bit by bit: data sets and results refer to them."""

import hashlib

import pytest

from freqfusion.data.synthetic import make_scene


def digest(scene):
    """A hash of the picture, the panoptic map and the segments."""
    segments = [(s.id, s.category_id, s.is_thing, s.iscrowd) for s in scene.segments]
    parts = scene.image.tobytes(), scene.panoptic.astype("<i4").tobytes(), repr(segments).encode()
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("detail", "key", "size", "expected"),
    [
        ("full", (0, 0), (128, 160), "a562883ac1430fa8"),
        ("full", (3, 7), (97, 64), "9fc843385c2d41b9"),
        ("full", (1, 1_000_000_004), (256, 256), "dfdffcc0945267e6"),
        ("full", (9, 40), (48, 200), "6d4d4e2429d45272"),
        ("simple", (0, 0), (128, 160), "9068d4555b27d7eb"),
        ("simple", (3, 7), (97, 64), "9bd38705f554d3d7"),
        ("simple", (1, 1_000_000_004), (256, 256), "8f597976c3077785"),
        ("simple", (9, 40), (48, 200), "22f645f6106f0454"),
    ],
)
def test_scenes_of_old(detail, key, size, expected):
    assert digest(make_scene(*key, size, detail=detail)) == expected

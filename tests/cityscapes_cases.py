"""Images with the labels of Cityscapes, and predictions for them, made from a seed.

The same cases are made beside the original evaluation (``python tests/cityscapes_reference.py``)
and here, from the same integers and uniform numbers; ``digest`` says whether they are the same.
Scenes of the package change with its painter, so that their maps are recorded (``packed``).
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from freqfusion.metrics.cityscapes_labels import ALL_LABELS

LABELS = {label.id: label for label in ALL_LABELS if label.id >= 0}
WITH_INSTANCES = [number for number, label in LABELS.items() if label.has_instances]
EVALUATED = [number for number in WITH_INSTANCES if LABELS[number].evaluated]


@dataclass(frozen=True)
class Spoil:
    """How predictions differ from the truth: pixels of shift, and probabilities for a segment."""

    shift: int = 0
    swap: float = 0.0  # has a wrong class
    drop: float = 0.0  # is missing
    copies: float = 0.0  # is predicted again, shifted
    blobs: int = 0  # additional rectangles, anywhere
    levels: int | None = None  # number of different scores
    groups: bool = True  # groups are predicted too
    bits: float = 0.0  # a bit of some pixels is predicted only
    void: bool = False  # also what has no instances is predicted as an instance
    empty: bool = False  # nothing is predicted
    rows: bool = False  # rows of blocks are cut off, or masks moved by rows: parts of 1/20


SPOILS = {
    "perfect": Spoil(groups=False),
    "shifted": Spoil(shift=3),
    "wrong_classes": Spoil(shift=1, swap=0.5),
    "missing": Spoil(shift=1, drop=0.3),
    "duplicates": Spoil(shift=2, copies=0.8),
    "low_scores": Spoil(shift=2, copies=0.5, blobs=2, levels=2),
    "tiny": Spoil(shift=1, bits=0.5, blobs=2),
    "void": Spoil(shift=1, void=True, blobs=3),
    "groups": Spoil(shift=2, copies=0.7, levels=4),
    "empty": Spoil(empty=True),
    "fractions": Spoil(copies=0.9, swap=0.1, levels=5, void=True, rows=True),
    "mixed": Spoil(4, 0.2, 0.2, 0.4, 4, 9, True, 0.1, True),
}


@dataclass(frozen=True)
class Image:
    """Truth and prediction of an image, as the original evaluation reads them."""

    label_ids: np.ndarray
    instance_ids: np.ndarray
    prediction: np.ndarray
    masks: np.ndarray
    labels: list[int]
    scores: list[float]


def make_case(recipe, maps=None):
    """The images of {"truth": blobs, blocks or scenes, "spoil": ..., "seed": ..., ...}.

    ``maps`` are packed instance maps that are taken instead of new ones.
    """
    random = np.random.default_rng(recipe["seed"])
    size = tuple(recipe["size"])
    truths = (
        truth(random, recipe, size, at) if maps is None else unpacked(maps[at], size)
        for at in range(recipe["images"])
    )
    return [make_image(random, ids, SPOILS[recipe["spoil"]]) for ids in truths]


def packed(ids):
    """An instance map as text."""
    return base64.b85encode(zlib.compress(ids.astype("<u2").tobytes(), 9)).decode()


def unpacked(text, size):
    data = zlib.decompress(base64.b85decode(text))
    return np.frombuffer(data, dtype="<u2").reshape(size).astype(np.int32)


def digest(images):
    """A number that changes with any pixel, label or score."""
    parts = []
    for image in images:
        maps = image.label_ids, image.instance_ids, image.prediction, image.masks
        parts += [part.astype(np.int32).tobytes() for part in maps]
        parts.append(repr((image.labels, image.scores)).encode())
    return zlib.crc32(b"".join(parts))


def truth(random, recipe, size, at):
    if recipe["truth"] == "blobs":
        return blobs(random, size)
    if recipe["truth"] == "blocks":
        return blocks(random, size)
    from freqfusion.data.synthetic.cityscapes import instance_values
    from freqfusion.data.synthetic.scenes import make_scene

    scene = make_scene(recipe["seed"], at, size)
    return np.array([0, *instance_values(scene)], dtype=np.int32)[scene.panoptic]


def blobs(random, size, count=28):
    """An instance map of overlapping ellipses: any label, groups, and ids of tiny segments."""
    ids = np.full(size, int(random.choice([0, 7, 21, 23])), dtype=np.int32)
    for number in range(count):
        if random.random() < 0.6:
            label = int(random.choice(WITH_INSTANCES))
        else:
            label = int(random.integers(34))
        alone = LABELS[label].has_instances and random.random() < 0.8
        value = 1000 * label + number if alone else label
        ids[ellipse(random, size)] = value
    return ids


def blocks(random, size):
    """Blocks of 20 rows by 4 to 8 columns, that is 80 to 160 pixels: around the smallest size.

    Of few labels, so that masks that are moved by rows often meet a block of their own label.
    """
    ids = np.zeros(size, dtype=np.int32)
    labels = [24, 26, 29, 0, 7]
    for top in range(0, size[0] - 19, 20):
        left = 0
        while left < size[1]:
            label = labels[int(random.choice(5, p=[0.3, 0.4, 0.1, 0.1, 0.1]))]
            alone = LABELS[label].has_instances and random.random() < 0.7
            width = int(random.integers(4, 9))
            value = 1000 * label + 100 * (top // 20) + left if alone else label
            ids[top : top + 20, left : left + width] = value
            left += width
    return ids


def cut(random, mask):
    """A mask less some of its last rows, or moved by some rows."""
    rows = int(random.integers(11))
    if random.random() < 0.5:
        return np.roll(mask, rows, axis=0)
    last = np.flatnonzero(mask.any(axis=1))[-1]
    return mask & (np.arange(len(mask)) <= last - rows)[:, None]


def ellipse(random, size):
    """A mask of an ellipse with half axes of 3 pixels and more."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    middle = random.random(2) * size
    axes = 3 + random.random(2) * np.array(size) / 6
    return ((rows - middle[0]) / axes[0]) ** 2 + ((columns - middle[1]) / axes[1]) ** 2 <= 1


def make_image(random, ids, spoil):
    label_ids = np.where(ids >= 1000, ids // 1000, ids)
    prediction = np.zeros_like(label_ids) if spoil.empty else label_ids.copy()
    found = [] if spoil.empty else list(segments(random, ids, spoil))
    if not spoil.empty:
        prediction = moved(random, prediction, spoil.shift)
        for mask, label, _ in found[::2]:
            prediction[mask] = label
    empty = np.zeros((0, *ids.shape), dtype=bool)
    return Image(
        label_ids=label_ids,
        instance_ids=ids,
        prediction=prediction,
        masks=np.stack([mask for mask, _, _ in found]) if found else empty,
        labels=[label for _, label, _ in found],
        scores=[score for _, _, score in found],
    )


def segments(random, ids, spoil):
    """(mask, label id, score) of predicted instances."""
    for value in np.unique(ids).tolist():
        label = value // 1000 if value >= 1000 else value
        things = LABELS[label].has_instances and (value >= 1000 or spoil.groups)
        if not things and not (spoil.void and random.random() < 0.5):
            continue
        if random.random() < spoil.drop:
            continue
        if not things or random.random() < spoil.swap:
            label = int(random.choice(WITH_INSTANCES))
        for _ in range(
            1 + int(random.random() < spoil.copies) + int(random.random() < spoil.copies)
        ):
            mask = moved(random, ids, spoil.shift) == value
            if spoil.rows:
                mask = cut(random, mask)
            if random.random() < spoil.bits:
                mask &= random.random(ids.shape) < 0.3
            yield mask, label, score(random, spoil)
    for _ in range(spoil.blobs):
        yield ellipse(random, ids.shape), int(random.choice(EVALUATED)), score(random, spoil)


def score(random, spoil):
    value = float(random.random())
    return round(value * spoil.levels) / spoil.levels if spoil.levels else value


def moved(random, labels, shift):
    steps = random.integers(-shift, shift + 1, size=2)
    return np.roll(labels, tuple(steps.tolist()), axis=(0, 1))

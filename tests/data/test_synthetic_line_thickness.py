"""Lines are as thick as the dial says."""

import numpy as np
import pytest

from freqfusion.data.synthetic import (
    Difficulty,
)
from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.painting import (
    paint_bare_tree,
    paint_fence,
    paint_pole,
    paint_power_line,
    paint_wheel,
)

SIZE = (128, 160)
FOOT = (80.0, 120.0)


def runs(mask):
    """For each pixel of the mask the length of the row of set pixels that it is in."""
    lengths = np.zeros(mask.shape, dtype=int)
    for row, out in zip(mask, lengths, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for start, end in edges.reshape(-1, 2):
            out[start:end] = end - start
    return lengths


def thickness(mask):
    """The shorter of a pixel's two runs, typically: exact for upright and level lines."""
    return float(np.median(np.minimum(runs(mask), runs(mask.T).T)[mask]))


@pytest.mark.parametrize("pixels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["fence", "wire", "mast", "wheel", "tree"])
def test_lines_are_as_thick_as_asked(kind, pixels):
    """Within a pixel for bare trees, whose branches lie over each other; exact for the others."""
    painters = {
        "fence": paint_fence,
        "wire": paint_power_line,
        "mast": lambda canvas, rng: paint_pole(canvas, rng, FOOT, 0.5),
        "wheel": lambda canvas, rng: paint_wheel(canvas, rng, FOOT, 1),
        "tree": lambda canvas, rng: paint_bare_tree(canvas, rng, FOOT, 0.8),
    }
    found = []
    for seed in range(14):
        view = View(*SIZE, 50.0, 0.5, line_thickness=pixels)
        canvas = Canvas(view, Difficulty(line_thickness=pixels))
        painters[kind](canvas, np.random.default_rng(seed))
        names = [category.name for category, _ in canvas.segments]
        wanted = "pole" if kind == "mast" else kind
        found += [
            thickness(canvas.owner == number)
            for number, name in enumerate(names, start=1)
            if name == wanted and (canvas.owner == number).any()
        ]
    assert np.median(found) == pytest.approx(pixels, abs=1 if kind == "tree" else 0)


def test_pickets_are_equally_thick():
    """Most pixels between rails are in rows of just three; those of a point are in shorter ones."""
    view = View(*SIZE, 50.0, 0.5, line_thickness=3)
    for seed in range(10):
        canvas = Canvas(view, Difficulty(line_thickness=3))
        paint_fence(canvas, np.random.default_rng(seed), 1.5)
        mask = canvas.owner == 1
        widths = runs(mask)[:, 3:-3][mask[:, 3:-3]]
        narrow = widths[widths < 8]
        assert np.bincount(narrow).argmax() == 3
        assert np.mean(narrow <= 3) > 0.9

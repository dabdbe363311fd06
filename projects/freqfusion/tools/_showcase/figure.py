"""The picture of the showcase: scenes, truth, predictions, errors and feature norms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.synthetic import CATEGORIES, VOID_LABEL

_VOID_COLOR = (0, 0, 0)
_ERROR_COLOR = (215, 25, 28)
_RIGHT_COLOR = (235, 235, 235)


@dataclass(frozen=True)
class Drawn:
    """What one network made of the drawn scenes: labels (N, H, W), feature norms (N, h, w)."""

    predictions: NDArray[np.uint8]
    norms: NDArray[np.float32]


def draw(
    images: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    drawn: Mapping[str, Drawn],
    captions: Mapping[str, str],
    path: Path,
) -> None:
    """Write one row per scene, with the same columns for every network, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = ["image", "truth"]
    for part in ("", "errors\n", "feature norm\n"):
        titles += [f"{part}{captions[name] if not part else name}" for name in drawn]
    rows = [_row(index, images, truth, drawn) for index in range(len(images))]
    figure = Figure(figsize=(2.2 * len(titles), 2.2 * len(rows) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            axis.imshow(panel, cmap="magma", interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    _legend(figure, np.unique(truth))
    figure.savefig(path, dpi=110)


def _row(
    index: int,
    images: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    drawn: Mapping[str, Drawn],
) -> Sequence[NDArray[Any]]:
    label = truth[index]
    predictions = [one.predictions[index] for one in drawn.values()]
    return [
        images[index],
        colorize(label),
        *(colorize(prediction) for prediction in predictions),
        *(error_map(prediction, label) for prediction in predictions),
        *(one.norms[index] for one in drawn.values()),
    ]


def colorize(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels (H, W) to the colours of their classes, void black."""
    table = np.tile(np.array(_VOID_COLOR, dtype=np.uint8), (VOID_LABEL + 1, 1))
    table[: len(CATEGORIES)] = [category.color for category in CATEGORIES]
    return table[labels]


def error_map(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Wrong pixels red, void black, the rest light grey."""
    colors = np.where((prediction != truth)[..., None], _ERROR_COLOR, _RIGHT_COLOR)
    return np.where((truth == VOID_LABEL)[..., None], _VOID_COLOR, colors).astype(np.uint8)


def _legend(figure: Any, labels: NDArray[np.uint8]) -> None:
    from matplotlib.patches import Patch

    shown = [CATEGORIES[label] for label in labels if label != VOID_LABEL]
    named = [*((c.name, c.color) for c in shown), ("wrong", _ERROR_COLOR)]
    handles = [Patch(color=(r / 255, g / 255, b / 255), label=n) for n, (r, g, b) in named]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)

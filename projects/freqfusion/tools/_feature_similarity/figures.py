"""One figure for each drawn image: all models and layers beside the image and its truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from freqfusion.analysis import similarity_figure
from freqfusion.drawing import LabelMap, Picture
from freqfusion.drawing.colors import RGB, VOID_COLOR
from freqfusion.tools._feature_similarity.measuring import Drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figures(drawings: Mapping[str, Sequence[Drawing]], folder: Path) -> list[Path]:
    """Write the figures; drawings by model, each of the same images in the same order."""
    paths = []
    for number, (name, figure) in enumerate(build_figures(drawings)):
        paths.append(folder / f"similarity_{number:05d}_{Path(name).stem}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def build_figures(drawings: Mapping[str, Sequence[Drawing]]) -> Iterator[tuple[str, Figure]]:
    """The name of each image, and its figure."""
    for parts in zip(*drawings.values(), strict=True):
        scene = parts[0].scene
        yield (
            scene.name,
            similarity_figure(
                scene.image,
                colored(scene.truth),
                {name: part.maps for name, part in zip(drawings, parts, strict=True)},
                classes=_legend(scene.truth),
                title=scene.name,
            ),
        )


def colored(truth: LabelMap) -> Picture:
    """Each pixel in the colour of its class, void grey; (H, W, 3)."""
    table = np.array([*truth.colors, VOID_COLOR], dtype=np.uint8)
    return table[truth.labels]


def _legend(truth: LabelMap) -> dict[str, RGB]:
    """The classes of an image, the largest first."""
    labels, pixels = np.unique(truth.labels[truth.labels >= 0], return_counts=True)
    order = labels[np.argsort(-pixels, kind="stable")].tolist()
    return {truth.names[label]: truth.colors[label] for label in order}

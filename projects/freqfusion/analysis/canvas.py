"""What all figures share: a canvas without pyplot's global state, colours, quiet axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which can be told apart with any colour vision.
BLACK, BLUE, ORANGE = "#000000", "#0072B2", "#D55E00"
SOFT = "#6b6b73"


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of a size in inches, which can be saved and needs no closing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def image_panels(figure: Any, count: int, columns: int) -> list[Any]:
    """``count`` axes for pictures in rows of ``columns``, without ticks; the rest stays empty."""
    rows = math.ceil(count / columns)
    axes: list[Any] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[count:]:
        axis.set_axis_off()
    return axes[:count]


def quiet(axis: Any) -> None:
    """Only the left and the lower line, in grey, and a faint grid."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#b8b8c0")
    axis.tick_params(labelsize=8, colors=SOFT, length=2.5)
    axis.grid(color="#e6e6ea", linewidth=0.7)
    axis.set_axisbelow(True)


def panel_size(shape: Sequence[int], *, longest: float) -> tuple[float, float]:
    """Width and height in inches of a panel for an image (height, width, ...) and its title."""
    scale = longest / max(shape[0], shape[1])
    # Narrower than this, titles do not fit.
    return max(shape[1] * scale, 2.2), shape[0] * scale + 0.35

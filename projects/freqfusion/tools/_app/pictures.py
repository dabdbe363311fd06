"""Pictures as a page takes them: PNG in a data address, with what is said beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.drawing import RGB, Picture, draw_image
from freqfusion.drawing.overlays import dimmed, enlarge_map, enlargement

COLORS = "viridis"
_OPACITY = 0.82
_DPI = 150


@dataclass(frozen=True)
class Shown:
    """A picture, or the PNG of a figure, with a note, a legend, and the ends of its scale."""

    picture: Picture | bytes
    note: str = ""
    legend: Mapping[str, RGB] = field(default_factory=dict)
    scale: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """What the page is told."""
        png = self.picture if isinstance(self.picture, bytes) else _png(self.picture)
        return {
            "picture": "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
            "note": self.note,
            "legend": [{"name": name, "color": list(rgb)} for name, rgb in self.legend.items()],
            "scale": self.scale,
        }


def draw_plain(image: Picture) -> Shown:
    """The image, as large as what is drawn over it."""
    return Shown(draw_image(image))


def draw_map(image: Picture, values: NDArray[Any], scale: tuple[float, float], note: str) -> Shown:
    """Values (height, width) as colours over a shadow of the image."""
    low, high = scale
    factor = enlargement(*image.shape[:2])
    shares = np.clip((enlarge_map(values, factor) - low) / (high - low), 0, 1)
    colors = scale_colors()[np.round(shares * 255).astype(np.intp)]
    ground = dimmed(draw_image(image))
    mixed = (1 - _OPACITY) * ground + _OPACITY * colors
    return Shown(np.round(mixed).astype(np.uint8), note, scale=scale)


def scale_colors() -> NDArray[np.uint8]:
    """256 colours from the low end to the high one, (256, 3)."""
    from matplotlib import colormaps

    colors = colormaps[COLORS](np.linspace(0, 1, 256))[:, :3]
    return np.round(255 * colors).astype(np.uint8)


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _png(picture: Picture) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", compress_level=3)
    return buffer.getvalue()

"""What a section of the report is made of: text, tables, and pictures inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freqfusion.drawing import Picture
from freqfusion.tools._visualize.page import caption
from freqfusion.tools._visualize.scores import Scores

_DPI = 110
_QUALITY = 90
# A picture above this many bytes is no drawing but a photograph.
_MOST_PNG = 150_000


@dataclass(frozen=True)
class Image:
    """An encoded picture, its size in pixels, and what is said about it."""

    data: bytes
    kind: str
    size: tuple[int, int]
    title: str
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """One part of the page: ``body`` is HTML, pictures follow it."""

    title: str
    body: str = ""
    images: Sequence[Image] = ()


def from_figure(figure: Any, title: str) -> Image:
    """A matplotlib Figure as PNG."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    figure.savefig(file, dpi=_DPI, format="png")
    with Pillow.open(file) as picture:
        return Image(file.getvalue(), "png", picture.size, title)


def from_picture(picture: Picture, title: str, scores: Scores | None = None) -> Image:
    """A picture as PNG, or as JPEG where that would be large."""
    from PIL import Image as Pillow

    image = Pillow.fromarray(picture)
    file, kind = io.BytesIO(), "png"
    image.save(file, "PNG", optimize=True)
    if file.tell() > _MOST_PNG:
        file, kind = io.BytesIO(), "jpeg"
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return Image(file.getvalue(), kind, image.size, title, scores or {})


def image_html(image: Image, name: str) -> str:
    """A figure with the picture in it as a data URI; ``name`` is its id on the page."""
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.size
    return (
        f'<figure id="{name}">{caption(image.title, image.scores)}<a href="#{name}" tabindex="-1">'
        f'<img src="data:image/{image.kind};base64,{encoded}" width="{width}" height="{height}"'
        f' style="max-width:{width}px" alt="{html.escape(image.title, quote=True)}"></a></figure>'
    )


def paragraphs(*sentences: str) -> str:
    """Each text in a paragraph of its own."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in sentences)


def table(rows: Sequence[Sequence[str]], *, words: int = 1, title: str = "") -> str:
    """A table whose first row is the head; the first ``words`` columns are text, others numbers.

    Leading spaces of the first column indent it.
    """
    head, *body = rows
    cells = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    lines = "".join(f"<tr>{_cells(row, words)}</tr>" for row in body)
    label = html.escape(title or head[0], quote=True)
    said = f"<caption>{html.escape(title)}</caption>" if title else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'
        f'<table data-words="{words}">{said}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cells(row: Sequence[str], words: int) -> str:
    indent = (len(row[0]) - len(row[0].lstrip(" "))) / 2
    style = f' style="padding-left:{0.6 + indent:g}em"' if indent else ""
    first = f'<th scope="row"{style}>{html.escape(row[0].strip())}</th>'
    return first + "".join(
        f"<td{' class=word' if at < words else ''}>{html.escape(text)}</td>"
        for at, text in enumerate(row[1:], start=1)
    )

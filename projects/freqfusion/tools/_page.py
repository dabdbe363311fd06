"""HTML pages that need no network: their style and shell, tables and figures in them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion.drawing import Picture

STYLE = """
:root { color-scheme: light dark; --paper: light-dark(#f6f6f4, #131316);
  --card: light-dark(#fff, #1d1d22); --ink: light-dark(#1d1d22, #ececf0);
  --soft: light-dark(#66666f, #a2a2ad); --line: light-dark(#dddde2, #34343c);
  --mark: light-dark(#0a64c8, #6cb2ff); }
* { box-sizing: border-box; }
body { margin: 0; padding: 0 clamp(12px, 2.5vw, 40px) 40px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
header { padding: 14px 0 10px; border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 1.3rem; font-weight: 650; overflow-wrap: anywhere; }
select { font: inherit; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 7px; padding: 4px 9px; }
header label, .notes { color: var(--soft); font-size: .88rem; }
.notes { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 2px 0 10px; padding: 0;
  list-style: none; overflow-wrap: anywhere; }
details { margin: 14px 0; padding: 8px 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
summary { cursor: pointer; font-weight: 600; font-size: .9rem; }
.legend { display: flex; gap: 12px; align-items: baseline; margin: 8px 0; }
.legend h2 { flex: 0 0 8.5em; margin: 0; font-size: .85rem; font-weight: 500;
  color: var(--soft); }
.legend ul { display: flex; flex-wrap: wrap; gap: 3px 16px; margin: 0; padding: 0;
  list-style: none; font-size: .88rem; }
.legend i { display: inline-block; width: .85em; height: .85em; margin-right: .4em;
  border-radius: 3px; vertical-align: -.06em; box-shadow: inset 0 0 0 1px #8888; }
main { display: grid; gap: 16px; margin-top: 16px; }
article { min-width: 0; padding: 12px 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; }
h3 { margin: 0 0 4px; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 10px 0 0; overflow-x: auto; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline;
  font-size: .86rem; color: var(--soft); font-variant-numeric: tabular-nums; }
figcaption em { font-style: normal; color: var(--ink); min-width: 4.8em; }
figcaption b { font-weight: 600; }
figure img { display: block; width: 100%; min-width: min(100%, 560px); height: auto;
  margin-top: 4px; border-radius: 6px; }
nav ol { margin: 6px 0; padding-left: 1.4em; columns: 17em; }
nav a { color: var(--mark); }
article h2 { margin: 0 0 4px; font-size: 1.12rem; font-weight: 620; }
article p { margin: 6px 0; max-width: 78ch; color: var(--soft); font-size: .92rem;
  overflow-wrap: anywhere; }
article details { background: none; }
.wide { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; color: var(--soft); padding-bottom: 2px; }
th, td { padding: 2px .6em; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); border-bottom: 1px solid var(--line); }
tbody th, thead th:first-child, .word, [data-words="2"] thead th:nth-child(2) {
  text-align: left; }
@media print { article { break-inside: avoid-page; border: 0; } }
"""

# Puts the articles with the worst scores first, as a choice of a page with the element "order".
SORTING = """
const sheet = document.getElementById("cards"), order = document.getElementById("order");
order.addEventListener("input", () => {
  // Images without the score come last.
  const score = (card) => Number(card.dataset[order.value] ?? Infinity);
  sheet.append(...[...sheet.children].sort((first, second) =>
    score(first) - score(second) || first.dataset.number - second.dataset.number));
});
"""

_PNG_DPI = 110
_QUALITY = 85
# A picture above this many bytes is no drawing but a photograph.
_MOST_PNG = 60_000


def document(
    title: str,
    notes: Sequence[str],
    before: str,
    body: str,
    *,
    controls: str = "",
    script: str = "",
) -> str:
    """Return a page of ``article`` elements (the body) as HTML; ``before`` stands over them."""
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><ul class="notes">{said}</ul>{controls}</header>
{before}
<main id="cards">
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def caption(title: str, score: str = "") -> str:
    """Return the line over a figure: what it is, and its score."""
    said = f"<b>{html.escape(score)}</b>" if score else ""
    return f"<figcaption><em>{html.escape(title)}</em>{said}</figcaption>"


@dataclass(frozen=True)
class EmbeddedImage:
    """An encoded picture, its size in pixels, and what is said about it."""

    data: bytes
    kind: str
    size: tuple[int, int]
    title: str
    score: str = ""


@dataclass(frozen=True)
class ReportSection:
    """One part of the page: ``body`` is HTML, pictures follow it."""

    title: str
    body: str = ""
    images: Sequence[EmbeddedImage] = ()


def from_figure(figure: Any, title: str) -> EmbeddedImage:
    """Encode a matplotlib Figure."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    figure.savefig(file, dpi=_PNG_DPI, format="png")
    with Pillow.open(file) as picture:
        return _encoded(picture.convert("RGB"), title)


def from_picture(picture: Picture, title: str, score: str = "") -> EmbeddedImage:
    """Encode a picture."""
    from PIL import Image as Pillow

    return _encoded(Pillow.fromarray(picture), title, score)


def _encoded(image: Any, title: str, score: str = "") -> EmbeddedImage:
    """Return an image as PNG, or as WebP, which loses a little, where PNG would be large."""
    file, kind = io.BytesIO(), "png"
    image.save(file, "PNG")
    if file.tell() > _MOST_PNG:
        file, kind = io.BytesIO(), "webp"
        image.save(file, "WEBP", quality=_QUALITY)
    return EmbeddedImage(file.getvalue(), kind, image.size, title, score)


def image_html(image: EmbeddedImage, name: str) -> str:
    """Return a figure with the picture in it as a data URI; ``name`` is its id on the page."""
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.size
    return (
        f'<figure id="{name}">{caption(image.title, image.score)}'
        f'<img src="data:image/{image.kind};base64,{encoded}" width="{width}" height="{height}"'
        f' style="max-width:{width}px" alt="{html.escape(image.title, quote=True)}"></figure>'
    )


def paragraphs(*sentences: str) -> str:
    """Return each text in a paragraph of its own."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in sentences)


def table(rows: Sequence[Sequence[str]], *, words: int = 1, title: str = "") -> str:
    """Return a table with a head; the first ``words`` columns are text, others numbers.

    Leading spaces of the first column indent it.
    """
    head, *body = rows
    cells = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    lines = "".join(f"<tr>{_table_cells(row, words)}</tr>" for row in body)
    label = html.escape(title or head[0], quote=True)
    said = f"<caption>{html.escape(title)}</caption>" if title else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'
        f'<table data-words="{words}">{said}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _table_cells(row: Sequence[str], words: int) -> str:
    indent = (len(row[0]) - len(row[0].lstrip(" "))) / 2
    style = f' style="padding-left:{0.6 + indent:g}em"' if indent else ""
    first = f'<th scope="row"{style}>{html.escape(row[0].strip())}</th>'
    return first + "".join(
        f"<td{' class=word' if at < words else ''}>{html.escape(text)}</td>"
        for at, text in enumerate(row[1:], start=1)
    )

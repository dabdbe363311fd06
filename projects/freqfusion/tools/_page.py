"""HTML pages that need no network: their style, scripts and shell, tables and figures in them."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freqfusion.drawing import Picture

BASE_STYLE = """
:root { color-scheme: light; --paper: #f6f6f4; --card: #fff; --ink: #1d1d22; --soft: #66666f;
  --line: #dddde2; --mark: #0a64c8; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { color-scheme: dark;
  --paper: #131316; --card: #1d1d22; --ink: #ececf0; --soft: #a2a2ad; --line: #34343c;
  --mark: #6cb2ff; } }
:root[data-theme=dark] { color-scheme: dark; --paper: #131316; --card: #1d1d22; --ink: #ececf0;
  --soft: #a2a2ad; --line: #34343c; --mark: #6cb2ff; }
* { box-sizing: border-box; }
body { margin: 0; padding: 0 clamp(12px, 2.5vw, 40px) 40px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
.head { display: flex; justify-content: space-between; align-items: center; gap: 12px; }
h1 { margin: 0; font-size: 1.3rem; font-weight: 650; overflow-wrap: anywhere; }
input, select, button { font: inherit; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 7px; padding: 4px 9px; }
button { cursor: pointer; line-height: 1.2; }
[hidden] { display: none !important; }
"""

# Needs a button with the id "theme".
THEME_SCRIPT = """
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
"""

STYLE = (
    BASE_STYLE
    + """
header { position: sticky; top: 0; z-index: 1; padding: 14px 0 10px; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.notes { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 2px 0 10px; padding: 0;
  list-style: none; color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; }
.controls label { color: var(--soft); font-size: .88rem; }
output { color: var(--soft); font-size: .88rem; margin-left: auto; }
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
main { display: grid; gap: 16px; }
article { padding: 12px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; scroll-margin-top: 150px; }
article:focus-visible, :is(a, button, input, select, summary):focus-visible {
  outline: 3px solid var(--mark); outline-offset: 2px; }
h3 { margin: 0 0 4px; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 10px 0 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline;
  font-size: .86rem; color: var(--soft); font-variant-numeric: tabular-nums; }
figcaption em { font-style: normal; color: var(--ink); min-width: 4.8em; }
figcaption b { font-weight: 600; }
figure a { display: block; margin-top: 4px; overflow-x: auto; border-radius: 6px; }
figure img { display: block; width: 100%; min-width: 560px; height: auto; }
#nothing { padding: 40px 0; text-align: center; color: var(--soft); }
footer { margin-top: 22px; color: var(--soft); font-size: .82rem; }
kbd { font: inherit; padding: 0 5px; border: 1px solid var(--line); border-radius: 4px;
  background: var(--card); margin-left: 8px; }
kbd + kbd { margin-left: 0; }
dialog { position: fixed; inset: 0; width: auto; height: auto; max-width: none; max-height: none;
  margin: 0; padding: 12px; border: 0; background: #101013; color: #ececf0; overflow: auto; }
dialog[open] { display: flex; flex-direction: column; gap: 8px; }
dialog div { position: sticky; left: 0; display: flex; gap: 14px; justify-content: space-between;
  align-items: center; }
dialog p { margin: 0; font-size: .9rem; }
dialog button { color: inherit; background: #2a2a31; border-color: #4a4a54; }
dialog img { flex: 1; min-height: 0; width: 100%; object-fit: contain; cursor: zoom-in; }
dialog.actual img { flex: none; width: auto; align-self: start; cursor: zoom-out; }
body:has(dialog[open]) { overflow: hidden; }
"""
)

# Tables and the contents of the report.
REPORT_STYLE = """
nav ol { margin: 6px 0; padding-left: 1.4em; columns: 17em; }
nav li { padding: 1px 0; break-inside: avoid; }
nav a, article a { color: var(--mark); }
article h2 { margin: 0 0 4px; font-size: 1.12rem; font-weight: 620; }
article p { margin: 6px 0; max-width: 78ch; color: var(--soft); font-size: .92rem;
  overflow-wrap: anywhere; }
article details { background: none; }
.wide { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 2px; }
th, td { padding: 2px .6em; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); border-bottom: 1px solid var(--line); }
tbody th, thead th:first-child, .word, [data-words="2"] thead th:nth-child(2) {
  text-align: left; }
tbody tr:hover { background: color-mix(in srgb, var(--mark) 9%, transparent); }
.wide:focus-visible, figure a:focus-visible { outline: 3px solid var(--mark); }
figure { scroll-margin-top: 90px; }
article { scroll-margin-top: 90px; min-width: 0; }
figure img { min-width: min(100%, 560px); border-radius: 6px; }
@media (max-width: 700px) { header { position: static; } article { padding: 10px;
  scroll-margin-top: 8px; } figure { scroll-margin-top: 8px; } figure img { min-width: 560px; } }
@media print { header { position: static; } button, footer { display: none; }
  article { break-inside: avoid-page; border: 0; } }
"""

# Walks through the articles of a page, and enlarges their figures.
READING = """
"use strict";
const byId = (id) => document.getElementById(id);
const sheet = byId("cards"), large = byId("large");
const visible = () => [...sheet.children].filter((card) => !card.hidden);
const figures = () => visible().flatMap((card) =>
  [...card.querySelectorAll("figure")].filter((figure) => !figure.hidden));

let shown = null;
function enlarge(figure) {
  shown = figure;
  byId("big").src = figure.querySelector("img").src;
  byId("big").alt = figure.querySelector("img").alt;
  const scores = [...figure.querySelectorAll("span")].map((one) => one.textContent).join("   ");
  byId("caption").textContent = `${figure.querySelector("img").alt}   ${scores}`;
  if (!large.open) large.showModal();
}
function browse(step) {
  const all = figures(), next = all[all.indexOf(shown) + step];
  if (next) enlarge(next);
}
function walk(step) {
  const all = visible(), at = all.indexOf(document.activeElement.closest("article"));
  const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step];
  if (next) { next.focus({ preventScroll: true }); next.scrollIntoView({ block: "start" }); }
}

sheet.addEventListener("click", (event) => {
  const link = event.target.closest("figure a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  enlarge(link.closest("figure"));
});
byId("big").addEventListener("click", () => large.classList.toggle("actual"));
byId("close").addEventListener("click", () => large.close());
large.addEventListener("close", () => {
  const card = shown && shown.closest("article");
  if (card) { card.focus({ preventScroll: true }); card.scrollIntoView({ block: "nearest" }); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  if (large.open) {
    if (key === "ArrowLeft" || key === "k") browse(-1);
    else if (key === "ArrowRight" || key === "j") browse(1);
    else if (key === "z") large.classList.toggle("actual");
    else return;
  } else if (event.target.matches("input, select")) {
    if (key !== "Escape") return;
    event.target.blur();
  } else if (key === "/" && byId("find")) byId("find").focus();
  else if (key === "j" || key === "k") walk(key === "j" ? 1 : -1);
  else if (key === "Enter" && event.target.matches("article:has(figure:not([hidden]))"))
    enlarge(event.target.querySelector("figure:not([hidden])"));
  else return;
  event.preventDefault();
});
"""

# Sorts and filters the articles of the contact sheet; comes after READING.
SORTING = """
const cards = [...sheet.children];
const names = new Intl.Collator(undefined, { numeric: true });
function compare(first, second) {
  const order = byId("order").value, a = first.dataset, b = second.dataset;
  if (order === "name") return names.compare(a.name, b.name) || a.number - b.number;
  if (order) {  // images without the score come last
    const x = Number(a[order] ?? Infinity), y = Number(b[order] ?? Infinity);
    if (x !== y) return x < y ? -1 : 1;
  }
  return a.number - b.number;
}

function update() {
  const wanted = byId("find").value.trim().toLowerCase(), task = byId("task").value;
  for (const figure of sheet.querySelectorAll("figure"))
    figure.hidden = Boolean(task) && figure.dataset.task !== task;
  for (const legend of document.querySelectorAll(".legend[data-of]"))
    legend.hidden = Boolean(task && legend.dataset.of) && legend.dataset.of !== task;
  for (const card of cards)
    card.hidden = !card.dataset.name.toLowerCase().includes(wanted)
      || !card.querySelector("figure:not([hidden])");
  sheet.append(...cards.sort(compare));
  const count = visible().length;
  byId("count").value = `${count} of ${cards.length} images`;
  byId("nothing").hidden = count > 0;
}
for (const id of ["find", "task", "order"]) byId(id).addEventListener("input", update);
update();
"""

_PNG_DPI = 110
_QUALITY = 90
# A picture above this many bytes is no drawing but a photograph.
_MOST_PNG = 150_000


def document(
    title: str,
    notes: Sequence[str],
    body: str,
    *,
    keys: str,
    script: str = READING,
    style: str = "",
    controls: str = "",
    before: str = "",
    after: str = "",
) -> str:
    """Return a page of ``article`` elements (the body) whose figures can be enlarged, as HTML.

    ``controls`` stand in the header, ``before`` and ``after`` around the body; ``keys`` says which
    keys there are beside those of enlarged figures.
    """
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}{style}</style>
</head>
<body>
<header>
<div class="head"><h1>{html.escape(title)}</h1>
<button id="theme" type="button" aria-label="switch between dark and light">◐</button></div>
<ul class="notes">{said}</ul>
{controls}
</header>
{before}
<main id="cards">
{body}
</main>
{after}
<dialog id="large" aria-label="enlarged picture">
<div><p id="caption"></p><button id="close" type="button" aria-label="close">✕</button></div>
<img id="big" alt=""></dialog>
<footer>{keys} <kbd>Enter</kbd> enlarge
<kbd>←</kbd> <kbd>→</kbd> browse <kbd>z</kbd> actual size <kbd>Esc</kbd> close</footer>
<script>{script}{THEME_SCRIPT}</script>
</body>
</html>
"""


def caption(title: str, scores: Mapping[str, float]) -> str:
    """Return the line over a figure: what it is, and its scores."""
    said = "".join(
        f"<span><b>{name}</b> {'–' if math.isnan(score) else f'{score:.1f}'}</span>"
        for name, score in scores.items()
    )
    return f"<figcaption><em>{html.escape(title)}</em>{said}</figcaption>"


@dataclass(frozen=True)
class EmbeddedImage:
    """An encoded picture, its size in pixels, and what is said about it."""

    data: bytes
    kind: str
    size: tuple[int, int]
    title: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportSection:
    """One part of the page: ``body`` is HTML, pictures follow it."""

    title: str
    body: str = ""
    images: Sequence[EmbeddedImage] = ()


def from_figure(figure: Any, title: str) -> EmbeddedImage:
    """Encode a matplotlib Figure as PNG."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    figure.savefig(file, dpi=_PNG_DPI, format="png")
    with Pillow.open(file) as picture:
        return EmbeddedImage(file.getvalue(), "png", picture.size, title)


def from_picture(
    picture: Picture, title: str, scores: Mapping[str, float] | None = None
) -> EmbeddedImage:
    """Encode a picture as PNG, or as JPEG where that would be large."""
    from PIL import Image as Pillow

    image = Pillow.fromarray(picture)
    file, kind = io.BytesIO(), "png"
    image.save(file, "PNG", optimize=True)
    if file.tell() > _MOST_PNG:
        file, kind = io.BytesIO(), "jpeg"
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return EmbeddedImage(file.getvalue(), kind, image.size, title, scores or {})


def image_html(image: EmbeddedImage, name: str) -> str:
    """Return a figure with the picture in it as a data URI; ``name`` is its id on the page."""
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.size
    return (
        f'<figure id="{name}">{caption(image.title, image.scores)}<a href="#{name}" tabindex="-1">'
        f'<img src="data:image/{image.kind};base64,{encoded}" width="{width}" height="{height}"'
        f' style="max-width:{width}px" alt="{html.escape(image.title, quote=True)}"></a></figure>'
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

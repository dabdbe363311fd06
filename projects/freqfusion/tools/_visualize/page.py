"""HTML pages that need no network: the shell of all, and the contact sheet of pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from freqfusion.drawing import RGB
from freqfusion.tools._page_style import THEME_SCRIPT
from freqfusion.tools._visualize.page_parts import READING, SORTING, STYLE
from freqfusion.tools._visualize.scores import MAIN_SCORE, Scores
from freqfusion.tools._visualize.strips import ERRORS


@dataclass(frozen=True)
class Card:
    """One image of the sheet: by task, the file of its row (relative to the page) and scores."""

    name: str
    files: Mapping[str, str]
    scores: Mapping[str, Scores]


def render_page(
    title: str, notes: Sequence[str], cards: Sequence[Card], classes: Mapping[str, RGB]
) -> str:
    """The whole page; it can be read without its script, which sorts, filters and enlarges."""
    tasks = list(dict.fromkeys(task for card in cards for task in card.files))
    scored = {task for card in cards for task in card.scores}
    return document(
        title,
        notes,
        "\n".join(_card(number, card) for number, card in enumerate(cards)),
        controls=_controls(tasks, scored),
        before=legends(classes, [task for task in tasks if task in scored]),
        after='<p id="nothing" hidden>No image has this in its name.</p>',
        keys="<kbd>/</kbd> find <kbd>j</kbd> <kbd>k</kbd> next, previous image",
        script=READING + SORTING,
    )


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
    """A page of ``article`` elements (the body) whose figures can be enlarged; all but texts HTML.

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


def _controls(tasks: Sequence[str], scored: set[str]) -> str:
    shown = "".join(f'<option value="{task}">{task}</option>' for task in tasks)
    everything = '<option value="">all</option>' if len(tasks) > 1 else ""
    orders = "".join(
        f'<option value="{task}">worst {MAIN_SCORE[task]} first</option>'
        for task in tasks
        if task in scored
    )
    return f"""<div class="controls">
<label>find <input id="find" type="search" placeholder="part of a name" autocomplete="off"></label>
<label>task <select id="task">{everything}{shown}</select></label>
<label>order <select id="order"><option value="">as they came</option>
<option value="name">by name</option>{orders}</select></label>
<output id="count" aria-live="polite"></output>
</div>"""


def legends(classes: Mapping[str, RGB], tasks: Sequence[str]) -> str:
    """Colours of classes, and of the errors of some tasks."""
    groups = [("classes", "", classes)] if classes else []
    groups += [(f"{task} errors", task, ERRORS[task]) for task in tasks]
    if not groups:
        return ""
    parts = "".join(
        f'<div class="legend" data-of="{task}"><h2>{name}</h2><ul>{_swatches(colors)}</ul></div>'
        for name, task, colors in groups
    )
    return f"<details open><summary>Colours</summary>{parts}</details>"


def _swatches(colors: Mapping[str, RGB]) -> str:
    return "".join(
        f'<li><i style="background:rgb{tuple(color)}"></i>{html.escape(name)}</li>'
        for name, color in colors.items()
    )


def _card(number: int, card: Card) -> str:
    name = html.escape(card.name, quote=True)
    data = "".join(
        f' data-{task}="{scores[MAIN_SCORE[task]]:.4f}"'
        for task, scores in card.scores.items()
        if not math.isnan(scores[MAIN_SCORE[task]])
    )
    rows = "".join(_row(card, task, file) for task, file in card.files.items())
    return (
        f'<article tabindex="0" data-number="{number}" data-name="{name}"{data}>'
        f"<h3>{name}</h3>{rows}</article>"
    )


def _row(card: Card, task: str, file: str) -> str:
    address = html.escape(quote(file), quote=True)
    return (
        f'<figure data-task="{task}">{caption(task, card.scores.get(task, {}))}'
        f'<a href="{address}" tabindex="-1"><img loading="lazy" src="{address}"'
        f' alt="{html.escape(f"{card.name}, {task}", quote=True)}"></a></figure>'
    )


def caption(title: str, scores: Scores) -> str:
    """The line over a figure: what it is, and its scores."""
    said = "".join(
        f"<span><b>{name}</b> {'–' if math.isnan(score) else f'{score:.1f}'}</span>"
        for name, score in scores.items()
    )
    return f"<figcaption><em>{html.escape(title)}</em>{said}</figcaption>"

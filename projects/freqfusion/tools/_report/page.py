"""The report as one HTML file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from freqfusion.tools._report.section import Section, image_html
from freqfusion.tools._visualize.page import document

_STYLE = """
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
_KEYS = "<kbd>j</kbd> <kbd>k</kbd> next, previous section"


def render_report(
    title: str, notes: Sequence[str], sections: Mapping[str, Section], left_out: Mapping[str, str]
) -> str:
    """The whole page.

    Args:
        title: Of the page.
        notes: Facts for the head.
        sections: By their ids, in order.
        left_out: Why, by the name of each section that there is not.
    """
    entries = [(name, section.title) for name, section in sections.items()]
    body = [_article(name, section) for name, section in sections.items()]
    if left_out:
        entries.append(("left-out", "Left out"))
        body.append(_left_out(left_out))
    links = "".join(f'<li><a href="#{name}">{html.escape(said)}</a></li>' for name, said in entries)
    contents = (
        f'<nav aria-label="contents"><details open><summary>Contents</summary><ol>{links}</ol>'
        "</details></nav>"
    )
    return document(title, notes, "\n".join(body), before=contents, keys=_KEYS, style=_STYLE)


def _article(name: str, section: Section) -> str:
    pictures = "\n".join(
        image_html(image, f"{name}-{number}") for number, image in enumerate(section.images, 1)
    )
    return (
        f'<article id="{name}" tabindex="0" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{html.escape(section.title)}</h2>{section.body}{pictures}</article>'
    )


def _left_out(reasons: Mapping[str, str]) -> str:
    lines = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(reason)}</li>"
        for name, reason in reasons.items()
    )
    return (
        '<article id="left-out" tabindex="0" aria-labelledby="left-out-title">'
        f'<h2 id="left-out-title">Left out</h2><ul>{lines}</ul></article>'
    )
